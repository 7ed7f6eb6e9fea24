#include "mbarrier.h"
#include <cstdio>
#include <cstring>
#include "async_store.h"
#include "cluster.h"
#include "codes.h"
#include "interface.h"
#include "launch.h"
#include "races.h"
#include "sync.h"
#include "wait.h"

namespace emulator {

constexpr unsigned kMostArrivals = (1u << 20) - 1;
constexpr int64_t kMostBytes = (1 << 20) - 1;
constexpr size_t kMostMbarriers = 1024;  // as many as a stamp has numbers for
constexpr unsigned kMbarrierBytes = 8;

// The memory of an mbarrier, for an instruction that is given `address`.
static SharedPlace mbarrier_place(Cta* c, const void* address, const void* pc) {
    need_clusters(c);
    SharedPlace place;
    const uintptr_t a = reinterpret_cast<uintptr_t>(address);
    if (!shared_place(c, a, kMbarrierBytes, &place)) {
        fault_at(c, kIllegalAddress, a, kMbarrierBytes, true, pc, "an mbarrier outside of the CTA's shared memory");
    }
    if (a % kMbarrierBytes) fault_at(c, kMisalignedAddress, a, kMbarrierBytes, true, pc, "misaligned mbarrier");
    return place;
}

Mbarrier* find_mbarrier(Cta* c, const SharedPlace& place) {
    for (Mbarrier& m : c->mbarriers) {
        if (m.place == place) return &m;
    }
    return nullptr;
}

// The barrier for an operation of a thread of its own CTA, once it is sure that this follows its initialization.
static Mbarrier* local_mbarrier(Cta* c, const void* address, const void* pc) {
    const SharedPlace place = mbarrier_place(c, address, pc);
    Mbarrier* m = find_mbarrier(c, place);
    const uintptr_t a = reinterpret_cast<uintptr_t>(address);
    if (!m) fault_at(c, kLaunchFailed, a, kMbarrierBytes, true, pc, "an mbarrier is used before mbarrier_init");
    const uint64_t made = stamp(c->launch_base + c->rank, m->thread, m->made);
    if (c->races && !ordered(c, made)) report_race(c, made, true, address, kMbarrierBytes, true, pc);
    return m;
}

static void mbarrier_init(Cta* c, const void* address, unsigned count, const void* pc) {
    const SharedPlace place = mbarrier_place(c, address, pc);
    const uintptr_t a = reinterpret_cast<uintptr_t>(address);
    if (count == 0 || count > kMostArrivals) fail(c, kLaunchFailed, "mbarrier_init with a count out of range");
    if (find_mbarrier(c, place)) {
        fault_at(c, kLaunchFailed, a, kMbarrierBytes, true, pc, "mbarrier_init of an mbarrier in use");
    }
    if (c->mbarriers.size() == kMostMbarriers) fail(c, kLaunchFailed, "more than 1024 mbarriers in a CTA");
    std::memset(arena.state + shadow_of(c, place), kMbarrier, kMbarrierBytes);
    touch_static(c, place, kMbarrierBytes);
    Mbarrier m;
    m.place = place;
    m.number = static_cast<unsigned>(c->mbarriers.size());
    m.count = m.pending = count;
    m.thread = c->thread;
    m.made = c->event;
    const std::lock_guard<std::mutex> lock(c->launch->mutex);
    c->mbarriers.push_back(std::move(m));
}

static void fence_mbarrier_init(Cta* c) {
    need_clusters(c);
    {
        const std::lock_guard<std::mutex> lock(c->launch->mutex);
        for (Mbarrier& m : c->mbarriers) {
            if (m.thread == c->thread && m.fenced == 0) m.fenced = c->event;
        }
    }
    advance(c);  // a cluster_arrive before it does not tell of it
}

void finish_phase(Launch& l, Cta* c, Mbarrier& m) {
    if (m.pending != 0 || m.expected != 0) return;
    m.phase++;
    m.pending = m.count;
    // Data that arrived in all phases up to this one can be read.
    const Past::Lanes arrived{m.number / kWarpSize, 1u << (m.number % kWarpSize), m.phase};
    m.gathering.ctas[c->async_rank].visible.add(arrived);
    m.completed = std::make_shared<Knowledge>(std::move(m.gathering));
    m.gathering.ctas.clear();
    l.progress++;  // nobody else waits for it, and its own OS thread is awake
}

static void arrive_expect_tx(Cta* c, const void* address, unsigned bytes, const void* pc) {
    Mbarrier* m = local_mbarrier(c, address, pc);
    land_some(c);
    if (m->pending == 0) fail(c, kLaunchFailed, "more arrivals at an mbarrier than its count in one phase");
    if (bytes > kMostBytes || m->expected + bytes > kMostBytes) {
        fail(c, kLaunchFailed, "an mbarrier expects more bytes than it can count");
    }
    const std::lock_guard<std::mutex> lock(c->launch->mutex);
    if (c->races) m->gathering.add(published(c));
    m->expected += bytes;
    m->pending--;
    finish_phase(*c->launch, c, *m);
    advance(c);
}

// True where the phase is complete. The caller then sees the bytes that arrived in it, the writes that arriving threads
// released, and the work that the senders had done.
static bool try_wait_parity(Cta* c, const void* address, unsigned parity, const void* pc) {
    Mbarrier* m = local_mbarrier(c, address, pc);
    Fiber& me = running(c);
    if (me.polled == address && me.polled_value == parity) {
        wait_outside(c);  // a second test in a row is one of a loop
    } else {
        look(c, false);
    }
    land_some(c);
    const std::lock_guard<std::mutex> lock(c->launch->mutex);
    me.seen = c->launch->progress;
    const bool done = (m->phase & 1u) != (parity & 1u);
    me.polled = done ? nullptr : address;
    me.polled_value = parity;
    if (!done) return false;
    m->observed = m->phase;
    if (c->races) learn(c, 1u << (c->thread % kWarpSize), m->completed);
    return true;
}

const char* check_exit(Cta* c) {
    const std::lock_guard<std::mutex> lock(c->launch->mutex);
    if (!c->incoming.empty()) return "a CTA exits while a st.async is on its way to it";
    for (const Mbarrier& m : c->mbarriers) {
        if (m.expected > 0) return "a CTA exits while an mbarrier of it still expects bytes";
        if (m.filled > m.observed) return "a CTA exits before it waited for the mbarrier of a st.async to it";
    }
    cluster_leave(c);  // under the same lock, so that nothing is sent to it any more
    return nullptr;
}

void describe_mbarriers(const Cta* c, char* text, size_t bytes) {
    size_t used = 0;
    for (const Mbarrier& m : c->mbarriers) {
        if (used + 1 >= bytes) return;
        const int more = std::snprintf(text + used, bytes - used,
                                       ", mbarrier %u: %u phases over, %u of %u arrivals and %lld bytes are missing",
                                       m.number, m.phase, m.pending, m.count, static_cast<long long>(m.expected));
        used += static_cast<size_t>(more);
    }
}

}  // namespace emulator

using emulator::current;

EMULATOR_EXPORT void emulator_mbarrier_init(unsigned long long* barrier, unsigned count) {
    if (current) emulator::mbarrier_init(current, barrier, count, __builtin_return_address(0));
}

EMULATOR_EXPORT void emulator_fence_mbarrier_init(void) {
    if (current) emulator::fence_mbarrier_init(current);
}

EMULATOR_EXPORT void emulator_mbarrier_arrive_expect_tx(unsigned long long* barrier, unsigned bytes) {
    if (current) emulator::arrive_expect_tx(current, barrier, bytes, __builtin_return_address(0));
}

EMULATOR_EXPORT int emulator_mbarrier_try_wait_parity(unsigned long long* barrier, unsigned parity) {
    return !current || emulator::try_wait_parity(current, barrier, parity, __builtin_return_address(0));
}

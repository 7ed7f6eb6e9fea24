// st.async: the sender hands the bytes over, and the CTA that they are for lets them arrive, at a moment of its own: the
// seed chooses, and where none of its threads can go on any more, all of them arrive.
#include "async_store.h"
#include <cstring>
#include "cluster.h"
#include "codes.h"
#include "interface.h"
#include "launch.h"
#include "races.h"
#include "sync.h"
#include "symbols.h"
#include "wait.h"

namespace emulator {

constexpr unsigned kStoreBytes = 16;

bool shared_place(Cta* c, uintptr_t a, unsigned bytes, SharedPlace* place) {
    if (a - c->shared_begin < kStaticWindow) {
        *place = {false, a - c->shared_begin};
        return place->offset + bytes <= c->shared_bytes;
    }
    if (a - c->static_begin >= c->static_bytes) return false;
    *place = {true, a - c->static_begin};
    return inside_thread_local(place->offset, bytes);
}

static uintptr_t address_of(const Cta* c, const SharedPlace& place) {
    return (place.is_static ? c->static_begin : c->shared_begin) + place.offset;
}

size_t shadow_of(const Cta* c, const SharedPlace& place) {
    return place.is_static ? c->static_shadow + place.offset : c->shared_begin - arena.base + place.offset;
}

void touch_static(Cta* c, const SharedPlace& place, unsigned bytes) {
    if (!place.is_static) return;
    const uintptr_t a = address_of(c, place);
    if (a < c->static_low) c->static_low = a;
    if (a + bytes > c->static_high) c->static_high = a + bytes;
}

// Takes `store` to the CTA of that rank, or says what is wrong with that.
static const char* send(Cta* c, unsigned rank, AsyncStore& store) {
    Launch& l = *c->launch;
    const std::lock_guard<std::mutex> lock(l.mutex);
    Cta* to = c->cluster->ctas[rank];
    if (!to && c->cluster->exited[rank]) return "st.async to a CTA that has exited";
    const Mbarrier* m = to ? find_mbarrier(to, store.barrier) : nullptr;
    if (!m) return "st.async to an mbarrier that its CTA has not initialized, or not yet";
    if (c->races) {
        if (m->fenced == 0) return "st.async to an mbarrier with no fence_mbarrier_init behind its mbarrier_init";
        if (!store.knowledge.visible(to->rank, m->thread, m->fenced)) {
            return "st.async to an mbarrier whose fence_mbarrier_init no cluster barrier orders before it";
        }
    }
    to->incoming.push_back(std::move(store));
    rouse(l, to);
    return nullptr;
}

static void store_async(Cta* c, const void* slot, const unsigned* words, const void* barrier, unsigned rank,
                        const void* pc) {
    need_clusters(c);
    const uintptr_t a = reinterpret_cast<uintptr_t>(slot), b = reinterpret_cast<uintptr_t>(barrier);
    AsyncStore store;
    if (!shared_place(c, a, kStoreBytes, &store.slot)) {
        fault_at(c, kIllegalAddress, a, kStoreBytes, true, pc, "st.async out of bounds of shared memory");
    }
    if (a % kStoreBytes) fault_at(c, kMisalignedAddress, a, kStoreBytes, true, pc, "misaligned st.async");
    if (!shared_place(c, b, 8, &store.barrier)) {
        fault_at(c, kIllegalAddress, b, 8, true, pc, "an mbarrier outside of the CTA's shared memory");
    }
    if (rank >= c->cluster->size) fail(c, kIllegalAddress, "st.async to a rank that the cluster does not have");
    std::memcpy(store.words, words, kStoreBytes);
    store.sender = c->stamp;
    if (c->races) store.knowledge = published(c);
    if (const char* wrong = send(c, rank, store)) fault_at(c, kLaunchFailed, b, 8, true, pc, wrong);
    advance(c);  // what this thread does next, nobody learns by this store
    land_some(c);
}

// Whether what `stamp` tells of was over before the store that lands was issued. A store by a thread of this CTA must be
// visible to the sender; a load, or an earlier st.async that was waited for, must only be over.
static bool before_issue(const Cta* c, const AsyncStore& store, uint64_t stamp, bool write) {
    const uint32_t rank = stamp_serial(stamp) - c->launch_base;
    if (rank == c->async_rank) return store.knowledge.executed(rank, stamp_thread(stamp), stamp_event(stamp));
    if (rank != c->rank) return true;  // whoever had this window before
    return write ? store.knowledge.visible(rank, stamp_thread(stamp), stamp_event(stamp))
                 : store.knowledge.executed(rank, stamp_thread(stamp), stamp_event(stamp));
}

[[noreturn]] static void report_landing(Cta* c, const AsyncStore& store, uint64_t other, bool other_was_write) {
    FaultPlace fault = {};
    fault.code = kLaunchFailed;
    fault.address = reinterpret_cast<const void*>(address_of(c, store.slot));
    fault.bytes = kStoreBytes;
    fault.write = true;
    fault.other = other;
    fault.other_was_write = other_was_write;
    fault.actor = store.sender;
    fault.what = "race";
    fail(c, fault);
}

static void check_landing(Cta* c, const AsyncStore& store, uint64_t me) {
    const size_t index = shadow_of(c, store.slot) / kUnitBytes;
    Unit* unit = arena.units + index;
    Cell* cells = arena.cells + index * kCellsPerUnit;
    const unsigned width = prepare_unit(c, unit, cells, kUnitBytes);
    for (unsigned at = 0; at < kUnitBytes; at += width) {
        Cell& cell = at == 0 ? unit->cell : cells[at - 1];
        if (!before_issue(c, store, cell.write, true)) report_landing(c, store, cell.write, true);
        for (const uint64_t read : {cell.read, cell.other_read}) {
            if (read && !before_issue(c, store, read, false)) report_landing(c, store, read, false);
        }
        cell = Cell{me, 0, 0};
    }
}

// The store in `c->landing` becomes visible, and its bytes count for the barrier's phase.
static void land(Cta* c) {
    const AsyncStore& store = c->landing;
    Mbarrier* m = find_mbarrier(c, store.barrier);
    uint8_t* state = arena.state + shadow_of(c, store.slot);
    if (std::memchr(state, kMbarrier, kStoreBytes)) {
        fault_at(c, kLaunchFailed, address_of(c, store.slot), kStoreBytes, true, nullptr, "st.async over an mbarrier");
    }
    if (c->races) check_landing(c, store, stamp(c->launch_base + c->async_rank, m->number, m->phase & kMaxEvent));
    c->senders[shadow_of(c, store.slot) / kUnitBytes] = store.sender;
    std::memcpy(reinterpret_cast<void*>(address_of(c, store.slot)), store.words, kStoreBytes);
    std::memset(state, kWritten, kStoreBytes);
    touch_static(c, store.slot, kStoreBytes);
    const std::lock_guard<std::mutex> lock(c->launch->mutex);
    m->expected -= kStoreBytes;
    m->filled = m->phase + 1;
    m->gathering.add_executed(store.knowledge);
    finish_phase(*c->launch, c, *m);
}

bool land_one(Cta* c) {
    {
        const std::lock_guard<std::mutex> lock(c->launch->mutex);
        if (c->incoming.empty()) return false;
        const size_t at = c->random.below(static_cast<uint32_t>(c->incoming.size()));
        c->landing = std::move(c->incoming[at]);
        c->incoming.erase(c->incoming.begin() + static_cast<long>(at));
    }
    land(c);
    return true;
}

void land_some(Cta* c) {
    while (c->random.below(2) != 0 && land_one(c)) {
    }
}

}  // namespace emulator

using emulator::current;

EMULATOR_EXPORT void emulator_store_async(void* slot, const unsigned* words, unsigned long long* barrier, unsigned rank) {
    if (current) emulator::store_async(current, slot, words, barrier, rank, __builtin_return_address(0));
}

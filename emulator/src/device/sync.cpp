// Releases and acquires: the only order between CTAs.
#include <sched.h>
#include <chrono>
#include "codes.h"
#include "cta.h"
#include "interface.h"
#include "launch.h"

namespace emulator {

void check_atomic(Cta* c, const unsigned* address, bool write, const void* pc);

constexpr unsigned kSpinsUntilStuck = 64;
constexpr std::chrono::seconds kPatience(20);

// What the running thread may tell others: what it did, and what is known to have happened before that.
static Knowledge published(Cta* c) {
    const unsigned warp = c->thread / kWarpSize, lane_bit = 1u << (c->thread % kWarpSize);
    Knowledge all = c->known;
    for (const Pending& p : c->pending) {
        if (p.warp == warp && (p.mask & lane_bit)) all.add(p.knowledge);
    }
    Known own;
    own.all = c->barrier_event;
    own.add(Known::Lanes{warp, ~0u, c->warps[warp].full_event});
    // Lanes that a partial synchronisation joined to this one, as of that moment.
    unsigned joined = lane_bit;
    for (auto sync = c->partial.rbegin(); sync != c->partial.rend(); ++sync) {
        if (sync->warp != warp || !(sync->mask & joined)) continue;
        joined |= sync->mask;
        own.add(Known::Lanes{warp, sync->mask, sync->event});
    }
    own.add(Known::Lanes{warp, lane_bit, c->event + 1});
    all.ctas[c->rank].add(own);
    return all;
}

static void acquire(Cta* c, SyncWord& word) {
    Fiber& me = running(c);
    me.spin_version = word.version;
    if (word.released.ctas.empty()) return;
    const unsigned warp = c->thread / kWarpSize, lane_bit = 1u << (c->thread % kWarpSize);
    for (Pending& p : c->pending) {
        if (p.warp == warp && p.mask == lane_bit) {
            p.knowledge.add(word.released);
            return;
        }
    }
    c->pending.push_back({warp, lane_bit, word.released});
}

static void moved(Cta* c) {
    c->stuck_at = 0;
    c->launch->progress++;
}

template <class Update>
static unsigned read_modify_write(Cta* c, unsigned* address, const void* pc, Update update) {
    check_atomic(c, address, true, pc);
    Launch& l = *c->launch;
    unsigned old;
    {
        const std::lock_guard<std::mutex> lock(l.mutex);
        old = __atomic_load_n(address, __ATOMIC_RELAXED);
        if (c->races) {
            SyncWord& word = l.words[reinterpret_cast<uintptr_t>(address)];
            acquire(c, word);
            word.released.add(published(c));
            word.version++;
        }
        __atomic_store_n(address, update(old), __ATOMIC_SEQ_CST);
    }
    advance(c);
    moved(c);
    running(c).spin_address = nullptr;
    return old;
}

static void store_release(Cta* c, unsigned* address, unsigned value, const void* pc) {
    check_atomic(c, address, true, pc);
    Launch& l = *c->launch;
    {
        const std::lock_guard<std::mutex> lock(l.mutex);
        if (c->races) {
            SyncWord& word = l.words[reinterpret_cast<uintptr_t>(address)];
            word.released = published(c);
            word.version++;
        }
        __atomic_store_n(address, value, __ATOMIC_SEQ_CST);
    }
    advance(c);
    moved(c);
}

// Whether no CTA of the launch can do anything but spin. Each has read its word again since the last thing happened.
static bool all_stuck(Launch& l, uint64_t progress) {
    const std::lock_guard<std::mutex> lock(l.mutex);
    if (l.running.size() < l.unfinished) return false;
    for (const Cta* other : l.running) {
        if (other->stuck_at != progress) return false;
    }
    return l.progress == progress;
}

// The last resort, for spins that `all_stuck` cannot see through: nothing happened in the launch for a long time.
static void watch(Cta* c, const Fiber& me) {
    if (me.spin_count % 1024 != 0) return;
    const auto now = std::chrono::steady_clock::now();
    const uint64_t progress = c->launch->progress;
    if (c->watched_progress != progress) {
        c->watched_progress = progress;
        c->watched_since = now;
    } else if (now - c->watched_since > kPatience) {
        fail(c, kLaunchFailed, "deadlock: a spin saw nothing happen in the launch for 20 seconds");
    }
}

// The same value again: gives way to whoever may change it.
static void spin(Cta* c) {
    Launch& l = *c->launch;
    if (l.aborted) abandon(c);
    Fiber& me = running(c);
    me.spin_count++;
    watch(c, me);
    if (yield_fiber(c)) {
        if (l.aborted) abandon(c);
        if (running(c).spin_count % kSpinsUntilStuck == 0) sched_yield();
        return;
    }
    if (me.spin_count < kSpinsUntilStuck) {
        sched_yield();
        return;
    }
    if (!l.cooperative) {
        fail(c, kLaunchFailed, "deadlock: a CTA spins on another, which a launch that is not cooperative may never start");
    }
    const uint64_t progress = l.progress;
    if (c->stuck_at != progress) {
        c->stuck_at = progress;
        me.spin_count = 0;
    } else if (me.spin_count % kSpinsUntilStuck == 0 && all_stuck(l, progress)) {
        fail(c, kLaunchFailed, "deadlock: every CTA spins on a word that nobody will change");
    }
    sched_yield();
}

static unsigned load_acquire(Cta* c, const unsigned* address, const void* pc) {
    check_atomic(c, address, false, pc);
    Launch& l = *c->launch;
    Fiber& me = running(c);
    if (me.spin_address == address) {
        const unsigned value = __atomic_load_n(address, __ATOMIC_ACQUIRE);
        if (value == me.spin_value) spin(c);
    }
    unsigned value;
    {
        const std::lock_guard<std::mutex> lock(l.mutex);
        value = __atomic_load_n(address, __ATOMIC_ACQUIRE);
        if (c->races) {
            const auto found = l.words.find(reinterpret_cast<uintptr_t>(address));
            const bool again = me.spin_address == address && found != l.words.end() &&
                               found->second.version == me.spin_version;
            if (found != l.words.end() && !again) acquire(c, found->second);
        }
    }
    if (me.spin_address != address || me.spin_value != value) {
        c->stuck_at = 0;
        me.spin_address = address;
        me.spin_value = value;
        me.spin_count = 0;
    }
    return value;
}

}  // namespace emulator

using emulator::current;

EMULATOR_EXPORT unsigned emulator_atomic_inc_acq_rel(unsigned* counter, unsigned last) {
    if (!current) return 0;
    return emulator::read_modify_write(current, counter, __builtin_return_address(0),
                                       [last](unsigned old) { return old >= last ? 0u : old + 1u; });
}

EMULATOR_EXPORT unsigned emulator_atomic_add_acq_rel(unsigned* counter, unsigned value) {
    if (!current) return 0;
    return emulator::read_modify_write(current, counter, __builtin_return_address(0),
                                       [value](unsigned old) { return old + value; });
}

EMULATOR_EXPORT unsigned emulator_load_acquire(const unsigned* address) {
    return current ? emulator::load_acquire(current, address, __builtin_return_address(0)) : 0;
}

EMULATOR_EXPORT void emulator_store_release(unsigned* address, unsigned value) {
    if (current) emulator::store_release(current, address, value, __builtin_return_address(0));
}

EMULATOR_EXPORT void emulator_yield(void) {
    if (current && !emulator::yield_fiber(current)) sched_yield();
}

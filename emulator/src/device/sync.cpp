// Releases and acquires of words in global memory: the order between CTAs, other than that of clusters.
#include "sync.h"
#include <sched.h>
#include "codes.h"
#include "cta.h"
#include "interface.h"
#include "launch.h"
#include "wait.h"

namespace emulator {

Knowledge published(Cta* c) {
    const unsigned warp = c->thread / kWarpSize, lane_bit = 1u << (c->thread % kWarpSize);
    Knowledge all = c->known;
    for (const Pending& p : c->pending) {
        if (p.warp == warp && (p.mask & lane_bit)) all.add(*p.knowledge);
    }
    Past& own = all.ctas[c->rank].visible;
    own.add(Past{c->barrier_event, {}});
    own.add(Past::Lanes{warp, ~0u, c->warps[warp].full_event});
    // Lanes that a partial synchronisation joined to this one, as of that moment.
    unsigned joined = lane_bit;
    for (auto sync = c->partial.rbegin(); sync != c->partial.rend(); ++sync) {
        if (sync->warp != warp || !(sync->mask & joined)) continue;
        joined |= sync->mask;
        own.add(Past::Lanes{warp, sync->mask, sync->event});
    }
    own.add(Past::Lanes{warp, lane_bit, c->event + 1});
    return all;
}

void learn(Cta* c, unsigned lanes, const std::shared_ptr<const Knowledge>& knowledge) {
    if (!knowledge || knowledge->ctas.empty()) return;
    const unsigned warp = c->thread / kWarpSize;
    Pending* same_lanes = nullptr;
    for (Pending& p : c->pending) {
        if (p.warp != warp) continue;
        if (p.knowledge == knowledge) {
            p.mask |= lanes;
            return;
        }
        if (p.mask == lanes) same_lanes = &p;
    }
    if (!same_lanes) {
        c->pending.push_back({warp, lanes, knowledge});
        return;
    }
    // Acquires of the same lanes share one, so that their number does not grow where no barrier follows.
    auto both = std::make_shared<Knowledge>(*same_lanes->knowledge);
    both->add(*knowledge);
    same_lanes->knowledge = std::move(both);
}

void learn_all(Cta* c) {
    for (size_t i = 0; i < c->pending.size(); i++) {
        bool added = false;
        for (size_t k = 0; k < i && !added; k++) added = c->pending[k].knowledge == c->pending[i].knowledge;
        if (!added) c->known.add(*c->pending[i].knowledge);
    }
    c->pending.clear();
}

static void acquire(Cta* c, SyncWord& word) {
    running(c).polled_version = word.version;
    if (!word.snapshot) word.snapshot = std::make_shared<Knowledge>(word.released);
    learn(c, 1u << (c->thread % kWarpSize), word.snapshot);
}

// `acquires`: whether what others released is known from here on.
template <class Update>
static unsigned read_modify_write(Cta* c, unsigned* address, bool acquires, const void* pc, Update update) {
    check_atomic(c, address, 4, true, pc);
    Launch& l = *c->launch;
    unsigned old;
    {
        const std::lock_guard<std::mutex> lock(l.mutex);
        old = __atomic_load_n(address, __ATOMIC_RELAXED);
        if (c->races) {
            SyncWord& word = l.words[reinterpret_cast<uintptr_t>(address)];
            if (acquires) acquire(c, word);
            word.released.add(published(c));
            word.snapshot = nullptr;
            word.version++;
        }
        __atomic_store_n(address, update(old), __ATOMIC_SEQ_CST);
        moved(l);
    }
    advance(c);
    running(c).polled = nullptr;
    return old;
}

static void store_release(Cta* c, unsigned* address, unsigned value, const void* pc) {
    check_atomic(c, address, 4, true, pc);
    Launch& l = *c->launch;
    {
        const std::lock_guard<std::mutex> lock(l.mutex);
        if (c->races) {
            SyncWord& word = l.words[reinterpret_cast<uintptr_t>(address)];
            word.released = published(c);
            word.snapshot = nullptr;
            word.version++;
        }
        __atomic_store_n(address, value, __ATOMIC_SEQ_CST);
        moved(l);
    }
    advance(c);
}

// A load in a loop waits until something has happened. (A word that others change without these functions is a race, and a wait
// for that may end as a deadlock.)
static unsigned load(Cta* c, const unsigned* address, bool acquires, const void* pc) {
    check_atomic(c, address, 4, false, pc);
    Launch& l = *c->launch;
    Fiber& me = running(c);
    // A load of the other kind is no turn of the same loop.
    const bool polls = me.polled == address && me.polled_acquires == acquires;
    look(c, polls && me.polled_value == __atomic_load_n(address, __ATOMIC_ACQUIRE));
    const std::lock_guard<std::mutex> lock(l.mutex);
    me.seen = l.progress;
    const unsigned value = __atomic_load_n(address, __ATOMIC_ACQUIRE);
    if (c->races && acquires) {
        const auto found = l.words.find(reinterpret_cast<uintptr_t>(address));
        const bool again = polls && found != l.words.end() && found->second.version == me.polled_version;
        if (found != l.words.end() && !again) acquire(c, found->second);
    }
    me.polled = address;
    me.polled_acquires = acquires;
    me.polled_value = value;
    return value;
}

}  // namespace emulator

using emulator::current;

EMULATOR_EXPORT unsigned emulator_atomic_inc_acq_rel(unsigned* counter, unsigned last) {
    if (!current) return 0;
    return emulator::read_modify_write(current, counter, true, __builtin_return_address(0),
                                       [last](unsigned old) { return old >= last ? 0u : old + 1u; });
}

EMULATOR_EXPORT unsigned emulator_atomic_add_acq_rel(unsigned* counter, unsigned value) {
    if (!current) return 0;
    return emulator::read_modify_write(current, counter, true, __builtin_return_address(0),
                                       [value](unsigned old) { return old + value; });
}

EMULATOR_EXPORT unsigned emulator_atomic_add_release(unsigned* counter, unsigned value) {
    if (!current) return 0;
    return emulator::read_modify_write(current, counter, false, __builtin_return_address(0),
                                       [value](unsigned old) { return old + value; });
}

EMULATOR_EXPORT unsigned emulator_load_acquire(const unsigned* address) {
    return current ? emulator::load(current, address, true, __builtin_return_address(0)) : 0;
}

EMULATOR_EXPORT unsigned emulator_load_relaxed(const unsigned* address) {
    return current ? emulator::load(current, address, false, __builtin_return_address(0)) : 0;
}

EMULATOR_EXPORT void emulator_store_release(unsigned* address, unsigned value) {
    if (current) emulator::store_release(current, address, value, __builtin_return_address(0));
}

EMULATOR_EXPORT void emulator_yield(void) {
    if (current && !emulator::yield_fiber(current)) sched_yield();
}

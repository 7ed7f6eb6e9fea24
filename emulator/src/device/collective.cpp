// The synchronisation of a CTA's threads: the block barrier, and the collectives of a warp.
#include "cluster.h"
#include "codes.h"
#include "cta.h"
#include "interface.h"
#include "launch.h"
#include "sync.h"

namespace emulator {

// Lets them go, beginning at a random one.
void release_barrier(Cta* c) {
    c->arrived = 0;
    c->last_predicates = c->predicates;
    c->predicates = 0;
    c->barrier_event = advance(c);
    c->partial.clear();
    learn_all(c);
    if (c->counts_wavefronts) count_wavefronts(c);
    const unsigned first = c->random.below(c->threads);
    for (unsigned i = 0; i < c->threads; i++) {
        const unsigned thread = first + i < c->threads ? first + i : first + i - c->threads;
        if (c->fibers[thread].wait == Wait::kBlockBarrier) push_ready(c, thread);
    }
}

static unsigned block_barrier(Cta* c, unsigned predicate) {
    running(c).wait = Wait::kBlockBarrier;
    running(c).polled = nullptr;
    c->predicates += predicate != 0;
    if (++c->arrived == c->live) release_barrier(c);
    block(c);
    if (c->launch->aborted.load(std::memory_order_relaxed)) abandon(c);
    return c->last_predicates;
}

// The knowledge that a collective of `mask` lanes spreads among them.
static void order_lanes(Cta* c, unsigned warp, unsigned mask, unsigned present) {
    const uint32_t event = advance(c);
    if ((present | c->warps[warp].exited) == ~0u) {
        c->warps[warp].full_event = event;
    } else if (c->races) {
        c->partial.push_back({warp, mask, event});
    }
    for (Pending& p : c->pending) {
        if (p.warp == warp && (p.mask & mask)) p.mask |= mask;
    }
}

static bool finish_collective(Cta* c, unsigned warp, unsigned mask, unsigned kind) {
    Fiber* lanes = c->fibers + warp * kWarpSize;
    const unsigned present = mask & ~c->warps[warp].exited;
    for (unsigned lane = 0; lane < kWarpSize; lane++) {
        if ((present >> lane & 1u) && lanes[lane].wait != Wait::kCollective) return false;
    }
    if (c->counts_wavefronts && (present | c->warps[warp].exited) == ~0u) count_wavefronts(c, warp);
    uint64_t results[kWarpSize] = {};
    unsigned ballot = 0;
    for (unsigned lane = 0; lane < kWarpSize; lane++) {
        if ((present >> lane & 1u) && lanes[lane].value) ballot |= 1u << lane;
    }
    for (unsigned lane = 0; lane < kWarpSize; lane++) {
        if (!(present >> lane & 1u)) continue;
        if (kind == kCudaEmulatorShuffle) {
            const unsigned source = lanes[lane].source & 31u;
            if (!(present >> source & 1u)) {
                fail(c, kLaunchFailed, "divergent shuffle: reads from a lane that is not in the mask or has exited");
            }
            results[lane] = lanes[source].value;
        } else {
            results[lane] = ballot;
        }
    }
    if (kind == kCudaEmulatorClusterArrive || kind == kCudaEmulatorClusterArriveRelaxed) {
        cluster_arrived(c, warp, present, kind == kCudaEmulatorClusterArrive);
    } else if (kind != kCudaEmulatorClusterWait) {
        order_lanes(c, warp, mask, present);
    }
    for (unsigned lane = 0; lane < kWarpSize; lane++) {
        if (!(present >> lane & 1u)) continue;
        lanes[lane].value = results[lane];
        if (warp * kWarpSize + lane != c->thread) push_ready(c, warp * kWarpSize + lane);
    }
    running(c).wait = Wait::kReady;
    return true;
}

uint64_t warp_collective(Cta* c, unsigned kind, unsigned mask, uint64_t value, unsigned source) {
    const unsigned warp = c->thread / kWarpSize, lane = c->thread % kWarpSize;
    Fiber& me = running(c);
    if (!(mask >> lane & 1u)) fail(c, kLaunchFailed, "divergent warp: the calling lane is not in its own mask");
    me.kind = static_cast<uint8_t>(kind);
    me.mask = mask;
    me.value = value;
    me.source = source;
    for (unsigned other = 0; other < kWarpSize; other++) {
        const unsigned thread = warp * kWarpSize + other;
        if (thread >= c->threads || c->fibers[thread].wait != Wait::kCollective) continue;
        const Fiber& f = c->fibers[thread];
        if ((mask >> other & 1u) && (f.mask != mask || f.kind != kind)) {
            fail(c, kLaunchFailed, "divergent warp: lanes of one mask wait with other masks or in other collectives");
        }
    }
    me.wait = Wait::kCollective;
    me.polled = nullptr;
    if (!finish_collective(c, warp, mask, kind)) block(c);
    return me.value;
}

void collectives_after_exit(Cta* c) {
    const unsigned exited = c->thread, warp = exited / kWarpSize;
    c->warps[warp].exited |= 1u << (exited % kWarpSize);
    for (unsigned lane = 0; lane < kWarpSize; lane++) {
        const unsigned thread = warp * kWarpSize + lane;
        if (thread >= c->threads || c->fibers[thread].wait != Wait::kCollective) continue;
        enter(c, thread);
        finish_collective(c, warp, c->fibers[thread].mask, c->fibers[thread].kind);
        if (c->fibers[thread].wait == Wait::kReady) push_ready(c, thread);
        enter(c, exited);
    }
}

}  // namespace emulator

using emulator::current;

EMULATOR_EXPORT unsigned emulator_block_barrier(unsigned predicate) {
    return current ? emulator::block_barrier(current, predicate) : 0;
}

EMULATOR_EXPORT uint64_t emulator_warp_collective(unsigned kind, unsigned mask, uint64_t value, unsigned source) {
    return current ? emulator::warp_collective(current, kind, mask, value, source) : 0;
}

// Runs a CTA: starts its threads in a seeded order and switches between them wherever they wait.
#include <cstdio>
#include <cstring>
#include "codes.h"
#include "cta.h"
#include "interface.h"
#include "launch.h"

namespace emulator {

__thread Cta* current __attribute__((tls_model("initial-exec"))) = nullptr;

static void push_ready(Cta* c, unsigned thread) {
    c->fibers[thread].wait = Wait::kReady;
    c->ready[(c->ready_head + c->ready_count++) % kMaxThreadsPerBlock] = static_cast<uint16_t>(thread);
}

static unsigned pop_ready(Cta* c) {
    const unsigned thread = c->ready[c->ready_head];
    c->ready_head = (c->ready_head + 1) % kMaxThreadsPerBlock;
    c->ready_count--;
    return thread;
}

static void enter(Cta* c, unsigned thread) {
    c->thread = thread;
    c->stamp = uint64_t(c->launch_base + c->rank) << 32 | uint64_t(thread) << kThreadShift | c->event;
    c->stack_begin = reinterpret_cast<uintptr_t>(c->stacks) + thread * kStackStride;
    std::memcpy(c->position.thread, c->fibers[thread].position, sizeof(c->fibers[thread].position));
}

uint32_t advance(Cta* c) {
    if (c->event < kMaxEvent) {
        c->event++;
        c->stamp++;
    } else {
        c->races = false;  // the clock is at its end: no order can be told any more
    }
    return c->event;
}

void abandon(Cta* c) {
    void* unused;
    emulator_fiber_switch(&unused, c->scheduler);
    __builtin_unreachable();
}

void fail(Cta* c, const FaultPlace& fault) {
    c->failed = true;
    c->fault = fault;
    abandon(c);
}

void fail(Cta* c, int code, const char* what) {
    FaultPlace fault = {};
    fault.code = code;
    fault.what = what;
    fail(c, fault);
}

// Goes on with the next thread that can run. If none can, all wait for something that will not come.
static void block(Cta* c) {
    if (c->ready_count == 0) fail(c, kLaunchFailed, "deadlock: every live thread waits");
    Fiber& from = running(c);
    enter(c, pop_ready(c));
    if (&running(c) == &from) return;
    emulator_fiber_switch(&from.stack_pointer, running(c).stack_pointer);
}

bool yield_fiber(Cta* c) {
    if (c->ready_count == 0) return false;
    push_ready(c, c->thread);
    block(c);
    return true;
}

// All live threads are at the barrier: lets them go, beginning at a random one.
static void release_barrier(Cta* c) {
    c->arrived = 0;
    c->last_predicates = c->predicates;
    c->predicates = 0;
    c->barrier_event = advance(c);
    c->partial.clear();
    for (const Pending& p : c->pending) c->known.add(p.knowledge);
    c->pending.clear();
    const unsigned first = c->random.below(c->threads);
    for (unsigned i = 0; i < c->threads; i++) {
        const unsigned thread = first + i < c->threads ? first + i : first + i - c->threads;
        if (c->fibers[thread].wait == Wait::kBlockBarrier) push_ready(c, thread);
    }
}

static unsigned block_barrier(Cta* c, unsigned predicate) {
    running(c).wait = Wait::kBlockBarrier;
    c->predicates += predicate != 0;
    if (++c->arrived == c->live) release_barrier(c);
    block(c);
    if (c->launch->aborted.load(std::memory_order_relaxed)) abandon(c);
    return c->last_predicates;
}

static bool finish_collective(Cta* c, unsigned warp, unsigned mask, unsigned kind) {
    Fiber* lanes = c->fibers + warp * kWarpSize;
    const unsigned present = mask & ~c->warps[warp].exited;
    for (unsigned lane = 0; lane < kWarpSize; lane++) {
        if ((present >> lane & 1u) && lanes[lane].wait != Wait::kCollective) return false;
    }
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
    const uint32_t event = advance(c);
    if ((present | c->warps[warp].exited) == ~0u) {
        c->warps[warp].full_event = event;
    } else if (c->races) {
        c->partial.push_back({warp, mask, event});
    }
    for (Pending& p : c->pending) {
        if (p.warp == warp && (p.mask & mask)) p.mask |= mask;
    }
    for (unsigned lane = 0; lane < kWarpSize; lane++) {
        if (!(present >> lane & 1u)) continue;
        lanes[lane].value = results[lane];
        if (warp * kWarpSize + lane != c->thread) push_ready(c, warp * kWarpSize + lane);
    }
    running(c).wait = Wait::kReady;
    return true;
}

static uint64_t warp_collective(Cta* c, unsigned kind, unsigned mask, uint64_t value, unsigned source) {
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
    if (!finish_collective(c, warp, mask, kind)) block(c);
    return me.value;
}

// The first thing on every fiber's stack.
static void fiber_main() {
    Cta* c = current;
    c->launch->invoke(c->launch->function, c->launch->arguments.data());
    c = current;
    const unsigned warp = c->thread / kWarpSize;
    running(c).wait = Wait::kExited;
    c->warps[warp].exited |= 1u << (c->thread % kWarpSize);
    c->live--;
    if (c->live > 0 && c->arrived == c->live) release_barrier(c);
    // Lanes that waited for this one only can go on.
    for (unsigned lane = 0; lane < kWarpSize; lane++) {
        const unsigned thread = warp * kWarpSize + lane;
        if (thread >= c->threads || c->fibers[thread].wait != Wait::kCollective) continue;
        const unsigned exited = c->thread;
        enter(c, thread);
        finish_collective(c, warp, c->fibers[thread].mask, c->fibers[thread].kind);
        if (c->fibers[thread].wait == Wait::kReady) push_ready(c, thread);
        enter(c, exited);
    }
    if (c->live == 0) abandon(c);
    block(c);
    __builtin_unreachable();
}

static void start_fibers(Cta* c) {
    const Launch& l = *c->launch;
    const unsigned rotation = c->random.below(c->threads);
    const bool backwards = c->random.below(2) != 0;
    for (unsigned i = 0; i < c->threads; i++) {
        const unsigned at = i + rotation < c->threads ? i + rotation : i + rotation - c->threads;
        const unsigned thread = l.order[backwards ? c->threads - 1 - at : at];
        Fiber& f = c->fibers[thread];
        f.stack_pointer = fiber_prepare(c->stacks + thread * kStackStride, kStackBytes, fiber_main);
        f.position[0] = thread % l.block[0];
        f.position[1] = thread / l.block[0] % l.block[1];
        f.position[2] = thread / l.block[0] / l.block[1];
        f.spin_address = nullptr;
        f.spin_count = 0;
        push_ready(c, thread);
    }
}

void run_cta(Cta* c, Launch* launch, uint32_t rank) {
    c->launch = launch;
    c->rank = rank;
    c->threads = c->live = launch->threads;
    c->arrived = c->predicates = 0;
    c->ready_head = c->ready_count = 0;
    c->event = 1;
    c->barrier_event = 0;
    c->races = launch->races;
    c->launch_base = launch->first_serial;
    c->launch_count = launch->ctas;
    c->failed = false;
    c->known.ctas.clear();
    c->pending.clear();
    c->partial.clear();
    c->stuck_at = 0;
    c->watched_progress = 0;
    c->random.state = launch->seed + rank * uint64_t(0x632be59bd9b4e019u);
    c->shared_bytes = launch->dynamic_shared;
    for (unsigned warp = 0; warp * kWarpSize < c->threads; warp++) {
        const unsigned lanes = c->threads - warp * kWarpSize;
        c->warps[warp] = {0, lanes >= kWarpSize ? 0u : ~0u << lanes};
    }
    const CudaEmulatorPosition& p = c->position;
    std::memcpy(p.block_size, launch->block, sizeof(launch->block));
    std::memcpy(p.grid_size, launch->grid, sizeof(launch->grid));
    p.block[0] = rank % launch->grid[0];
    p.block[1] = rank / launch->grid[0] % launch->grid[1];
    p.block[2] = rank / launch->grid[0] / launch->grid[1];
    uint8_t* shared_state = arena.state + (c->shared_begin - arena.base);
    std::memset(shared_state, kPoison, c->shared_bytes);
    c->static_low = ~uintptr_t(0);
    c->static_high = 0;
    start_fibers(c);

    current = c;
    enter(c, pop_ready(c));
    emulator_fiber_switch(&c->scheduler, running(c).stack_pointer);
    current = nullptr;

    std::memset(shared_state, kDead, c->shared_bytes);
    if (c->static_low < c->static_high) {
        std::memset(arena.state + c->static_shadow + (c->static_low - c->static_begin), kPoison,
                    c->static_high - c->static_low);
    }
    if (c->failed) record_fault(c);
}

}  // namespace emulator

using emulator::current;

EMULATOR_EXPORT unsigned emulator_block_barrier(unsigned predicate) {
    return current ? emulator::block_barrier(current, predicate) : 0;
}

EMULATOR_EXPORT uint64_t emulator_warp_collective(unsigned kind, unsigned mask, uint64_t value, unsigned source) {
    return current ? emulator::warp_collective(current, kind, mask, value, source) : 0;
}

EMULATOR_EXPORT void* emulator_dynamic_shared(void) {
    return current ? reinterpret_cast<void*>(current->shared_begin) : nullptr;
}

EMULATOR_EXPORT void emulator_trap(void) {
    if (current) emulator::fail(current, emulator::kLaunchFailed, "the kernel called __trap");
}

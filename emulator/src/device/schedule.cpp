// Runs a CTA: starts its threads in a seeded order and switches between them wherever they wait.
#include <cstring>
#include "cluster.h"
#include "codes.h"
#include "cta.h"
#include "interface.h"
#include "launch.h"
#include "wait.h"

namespace emulator {

__thread Cta* current __attribute__((tls_model("initial-exec"))) = nullptr;

void push_ready(Cta* c, unsigned thread) {
    c->fibers[thread].wait = Wait::kReady;
    c->ready[(c->ready_head + c->ready_count++) % kMaxThreadsPerBlock] = static_cast<uint16_t>(thread);
}

static unsigned pop_ready(Cta* c) {
    const unsigned thread = c->ready[c->ready_head];
    c->ready_head = (c->ready_head + 1) % kMaxThreadsPerBlock;
    c->ready_count--;
    return thread;
}

void enter(Cta* c, unsigned thread) {
    c->thread = thread;
    c->global_bytes = c->fibers[thread].is_early ? 0 : c->all_global_bytes;
    c->stamp = stamp(c->launch_base + c->rank, thread, c->event);
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

void block(Cta* c) {
    if (c->ready_count == 0) {
        // All wait for one another, and for nobody else.
        if (c->outside.empty()) fail(c, kLaunchFailed, "deadlock: every live thread waits");
        park(c);
    }
    Fiber& from = running(c);
    enter(c, pop_ready(c));
    if (&running(c) == &from) return;
    emulator_fiber_switch(&from.stack_pointer, running(c).stack_pointer);
}

bool yield_fiber(Cta* c) {
    look_around(c);
    if (c->ready_count == 0) return false;
    push_ready(c, c->thread);
    block(c);
    return true;
}

// The first thing on every fiber's stack.
static void fiber_main() {
    Cta* c = current;
    c->launch->invoke(c->launch->function, c->launch->arguments.data());
    c = current;
    cluster_exit(c);
    running(c).wait = Wait::kExited;
    c->live--;
    if (c->live > 0 && c->arrived == c->live) release_barrier(c);
    collectives_after_exit(c);
    if (c->live == 0) {
        const char* wrong = check_exit(c);
        if (wrong) fail(c, kLaunchFailed, wrong);
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
        f.seen = 0;
        f.looks = f.repeats = 0;
        f.polled = nullptr;
        f.arrived_at_cluster = false;
        f.is_early = c->launch->programmatic;
        push_ready(c, thread);
    }
}

void run_cta(Cta* c, Launch* launch, uint32_t rank, Cluster* cluster) {
    c->launch = launch;
    c->rank = rank;
    c->threads = c->live = launch->threads;
    c->arrived = c->predicates = 0;
    c->ready_head = c->ready_count = 0;
    c->event = 1;
    c->barrier_event = 0;
    c->races = launch->races;
    c->counts_wavefronts = launch->counts_wavefronts;
    c->launch_base = launch->first_serial;
    c->launch_count = 2 * launch->ctas;
    c->async_rank = launch->ctas + rank;
    c->failed = false;
    c->detail.clear();
    c->known.ctas.clear();
    c->pending.clear();
    c->partial.clear();
    c->outside.clear();
    c->parked = false;
    c->mbarriers.clear();
    c->incoming.clear();
    c->senders.clear();
    c->random.state = launch->seed + rank * uint64_t(0x632be59bd9b4e019u);
    c->shared_bytes = launch->dynamic_shared;
    for (unsigned warp = 0; warp * kWarpSize < c->threads; warp++) {
        const unsigned lanes = c->threads - warp * kWarpSize;
        c->warps[warp] = {0, lanes >= kWarpSize ? 0u : ~0u << lanes, 0};
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
    cluster_enter(c, cluster);

    current = c;
    enter(c, pop_ready(c));
    emulator_fiber_switch(&c->scheduler, running(c).stack_pointer);
    current = nullptr;
    // First, so that nobody finds it gone before it is known why.
    if (c->failed) record_fault(c);
    if (c->counts_wavefronts) count_wavefronts(c);
    {
        const std::lock_guard<std::mutex> lock(launch->mutex);
        cluster_leave(c);
    }
    std::memset(shared_state, kDead, c->shared_bytes);
    if (c->static_low < c->static_high) {
        std::memset(arena.state + c->static_shadow + (c->static_low - c->static_begin), kPoison,
                    c->static_high - c->static_low);
    }
}

}  // namespace emulator

using emulator::current;

EMULATOR_EXPORT void* emulator_dynamic_shared(void) {
    return current ? reinterpret_cast<void*>(current->shared_begin) : nullptr;
}

EMULATOR_EXPORT void emulator_trap(void) {
    if (current) emulator::fail(current, emulator::kLaunchFailed, "the kernel called __trap");
}

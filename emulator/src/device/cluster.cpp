#include "cluster.h"
#include "codes.h"
#include "interface.h"
#include "launch.h"
#include "mbarrier.h"
#include "sync.h"
#include "wait.h"

namespace emulator {

void cluster_enter(Cta* c, Cluster* cluster) {
    c->cluster = cluster;
    c->cluster_rank = c->rank % cluster->size;
    const std::lock_guard<std::mutex> lock(c->launch->mutex);
    cluster->ctas[c->cluster_rank] = c;
}

void cluster_leave(Cta* c) {
    c->cluster->ctas[c->cluster_rank] = nullptr;
    c->cluster->exited[c->cluster_rank] = true;
}

void need_clusters(Cta* c) {
    if (profile(c->launch->device).major < 9) {
        fail(c, kIllegalInstruction, "an instruction of sm_90 on an older device");
    }
}

// A phase of the barrier ends when every thread of the cluster that has not exited has arrived.
static void finish_phase(Launch& l, Cluster& cluster) {
    if (cluster.live == 0 || cluster.arrived < cluster.live) return;
    cluster.arrived = 0;
    cluster.phase++;
    cluster.released = std::make_shared<Knowledge>(std::move(cluster.gathered));
    cluster.gathered.ctas.clear();
    moved(l);
}

void cluster_exit(Cta* c) {
    if (running(c).arrived_at_cluster) {
        fail(c, kLaunchFailed, "a thread exits between cluster_arrive and cluster_wait");
    }
    Cluster& cluster = *c->cluster;
    if (cluster.size == 1) {  // nobody else looks
        cluster.live--;
        if (cluster.arrived == 0) return;
    }
    const std::lock_guard<std::mutex> lock(c->launch->mutex);
    if (cluster.size > 1) cluster.live--;
    finish_phase(*c->launch, cluster);
}

// Tells the others that the threads of a relaxed arrival have fenced their mbarriers. It tells them, too, of whatever these
// threads did before: more than the fence orders.
static void gather_fenced(Cta* c, unsigned warp, unsigned present) {
    Knowledge fenced;
    for (const Mbarrier& m : c->mbarriers) {
        const unsigned lane_bit = 1u << (m.thread % kWarpSize);
        if (m.fenced == 0 || m.thread / kWarpSize != warp || !(present & lane_bit)) continue;
        fenced.ctas[c->rank].visible.add(Past::Lanes{warp, lane_bit, m.fenced + 1});
    }
    c->cluster->gathered.add(fenced);
}

void cluster_arrived(Cta* c, unsigned warp, unsigned present, bool releases) {
    Fiber* lanes = c->fibers + warp * kWarpSize;
    Launch& l = *c->launch;
    Cluster& cluster = *c->cluster;
    unsigned threads = 0;
    for (unsigned lane = 0; lane < kWarpSize; lane++) {
        if (!(present >> lane & 1u)) continue;
        threads++;
        if (lanes[lane].arrived_at_cluster) fail(c, kLaunchFailed, "cluster_arrive twice without cluster_wait between");
        lanes[lane].arrived_at_cluster = true;
    }
    const std::lock_guard<std::mutex> lock(l.mutex);
    for (unsigned lane = 0; lane < kWarpSize; lane++) lanes[lane].cluster_phase = cluster.phase;
    if (c->races && !releases) gather_fenced(c, warp, present);
    if (c->races && releases) {
        Knowledge all = c->known;
        for (const Pending& p : c->pending) {
            if (p.warp == warp && (p.mask & present)) all.add(*p.knowledge);
        }
        Past& own = all.ctas[c->rank].visible;
        own.add(Past{c->barrier_event, {}});
        own.add(Past::Lanes{warp, present, c->event + 1});
        cluster.gathered.add(all);
        advance(c);
    }
    cluster.arrived += threads;
    finish_phase(l, cluster);
}

static void cluster_wait(Cta* c) {
    warp_collective(c, kCudaEmulatorClusterWait, ~0u, 0, 0);
    land_some(c);
    Fiber& me = running(c);
    Launch& l = *c->launch;
    if (!me.arrived_at_cluster) fail(c, kLaunchFailed, "cluster_wait without cluster_arrive");
    while (true) {
        {
            const std::lock_guard<std::mutex> lock(l.mutex);
            me.seen = l.progress;
            if (c->cluster->phase > me.cluster_phase) break;
        }
        wait_outside(c);
    }
    me.arrived_at_cluster = false;
    // The lanes of a warp come here together, so the first learns for all. The next phase cannot end before they do.
    WarpState& warp = c->warps[c->thread / kWarpSize];
    if (!c->races || warp.cluster_phases > me.cluster_phase) return;
    warp.cluster_phases = me.cluster_phase + 1;
    const std::lock_guard<std::mutex> lock(l.mutex);
    learn(c, ~warp.exited, c->cluster->released);
}

}  // namespace emulator

using emulator::current;

EMULATOR_EXPORT unsigned emulator_cluster_rank(void) { return current ? current->cluster_rank : 0; }

EMULATOR_EXPORT void emulator_cluster_arrive(void) {
    if (!current) return;
    emulator::need_clusters(current);
    emulator::warp_collective(current, kCudaEmulatorClusterArrive, ~0u, 0, 0);
}

EMULATOR_EXPORT void emulator_cluster_arrive_relaxed(void) {
    if (!current) return;
    emulator::need_clusters(current);
    emulator::warp_collective(current, kCudaEmulatorClusterArriveRelaxed, ~0u, 0, 0);
}

EMULATOR_EXPORT void emulator_cluster_wait(void) {
    if (!current) return;
    emulator::need_clusters(current);
    emulator::cluster_wait(current);
}

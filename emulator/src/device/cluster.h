// Thread-block clusters: CTAs that run at the same time, share a barrier, and reach one another's shared memory.
#pragma once
#include <vector>
#include "cta.h"

namespace emulator {

// Guarded by the launch's mutex.
struct Cluster {
    explicit Cluster(unsigned size) : size(size), ctas(size), exited(size) {}

    unsigned size;
    std::vector<Cta*> ctas;  // by rank; null: has not begun, or has ended
    std::vector<bool> exited;
    // The barrier: threads that have not exited, those of them that have arrived, and what they released.
    unsigned live = 0, arrived = 0;
    uint64_t phase = 0;
    Knowledge gathered;
    std::shared_ptr<const Knowledge> released;
};

void cluster_enter(Cta* c, Cluster* cluster);
// Removes the CTA from its cluster: no other CTA finds it any more. The launch is locked.
void cluster_leave(Cta* c);
// The running thread returns.
void cluster_exit(Cta* c);
// All live lanes of a warp, `present`, are at cluster_arrive.
void cluster_arrived(Cta* c, unsigned warp, unsigned present, bool releases);

// Fails on devices whose instructions know no clusters.
void need_clusters(Cta* c);

}  // namespace emulator

// Clusters: exchanges through mailboxes in shared memory, barriers, and every way to get them wrong.
#include "planted.h"

using namespace cuda_emulator;

enum How {
    kRight,
    kNoStart,        // no cluster barrier at the start
    kNoFence,        // no fence behind mbarrier_init
    kNoExpect,       // nobody announces the bytes
    kNoWait,         // reads without waiting
    kOneMailbox,     // one slot and one barrier for all rounds: the next store may come before the last read
    kWrongParity,    // waits for the other phase
    kNoBarrier,      // no __syncthreads between reading and the next store
    kEarlyExit,      // CTA 0 leaves before its data has come
    kBeyond,         // a slot behind the end of dynamic shared memory
    kMisaligned,     // a slot at 8 bytes
    kNoInit,         // the barriers are never initialized
    kInitTwice,      // they are, twice
    kLateExpect,     // bytes are announced after they were sent (right: they may come first)
    kTooManyBytes,   // more bytes are announced than come
    kPlainWrite,     // the receiver writes its slot itself while the store may come
    kWrongRank,      // a rank that the cluster does not have
    kPlainBarrier,   // a plain load of the barrier's word
    kGlobalByAsync,  // takes a plain store to global memory for ordered by st.async
    kTwoArrivals,    // more arrivals than the barrier counts
    kLateSend,       // as kNoBarrier, but the sender lingers until all others have read, by luck
    kUnordered,      // a store from a thread that no barrier orders after the initialization, which comes first by luck
    kLateRead,       // from the third round on reads without waiting, when the stores have come by luck
    kLeave,          // CTA 0 waits until all have sent, by other means, and leaves
    kRelaxedStart,   // the arrival at the start is relaxed (right: the fence tells of the barriers)
    kRelaxedNoFence, // as kRelaxedStart, without the fence
    kRelaxedGlobal,  // takes a plain store to global memory for ordered by a relaxed arrival
};

static void linger() {
    for (int i = 0; i < 64; i++) __nanosleep(100);
}

// Each round, every CTA sends its value to all of the cluster and goes on with the sum. Slots and barriers alternate. In
// dynamic shared memory: 2 * size slots of 16 bytes, then two barriers.
static __global__ void exchange_kernel(unsigned* y, unsigned* scratch, unsigned size, unsigned rounds, int how) {
    unsigned char* shared = static_cast<unsigned char*>(dynamic_shared());
    unsigned* slots = reinterpret_cast<unsigned*>(shared);
    unsigned long long* barriers = reinterpret_cast<unsigned long long*>(shared + 32 * size);
    const unsigned t = threadIdx.x, rank = cluster_rank();
    if (t == 0 && how != kNoInit) {
        for (int i = 0; i < (how == kInitTwice ? 3 : 2); i++) mbarrier_init(barriers + i % 2, 1);
        if (how != kNoFence && how != kRelaxedNoFence) fence_mbarrier_init();
    }
    if (how == kUnordered && t == 32) {
        linger();
        const unsigned words[4] = {};
        store_async(slots, words, barriers, rank);
    }
    if (how == kNoStart) {
        __syncthreads();
    } else if (how == kRelaxedStart || how == kRelaxedNoFence || how == kRelaxedGlobal) {
        if (how == kRelaxedGlobal && t == 0) scratch[blockIdx.x] = rank;
        __syncthreads();
        cluster_arrive_relaxed();
        cluster_wait();
    } else {
        cluster_arrive();
        cluster_wait();
    }
    unsigned value = rank + 1;
    if (how == kRelaxedGlobal) value += scratch[blockIdx.x - rank + (rank + 1) % size];
    if (how == kGlobalByAsync) {
        if (t == 0) scratch[blockIdx.x] = value;
        __syncthreads();
    }
    if (how == kPlainBarrier) y[t] = (unsigned)barriers[0];
    for (unsigned round = 0; round < rounds; round++) {
        const unsigned b = how == kOneMailbox ? 0 : round % 2;
        const unsigned parity = (how == kOneMailbox ? round : round / 2) & 1u;
        unsigned long long* barrier = barriers + b;
        const unsigned bytes = how == kTooManyBytes ? 16 * size + 16 : 16 * size;
        if (t == 0 && how != kNoExpect && how != kLateExpect) mbarrier_arrive_expect_tx(barrier, bytes);
        if (t == 1 && how == kTwoArrivals) mbarrier_arrive_expect_tx(barrier, 0);
        if (how == kPlainWrite && t == 0 && round == 0) slots[4 * rank] = 7;
        if (how == kLateSend && t < size) linger();
        if (t < size) {
            unsigned* slot = slots + 4 * (b * size + rank);
            if (how == kBeyond) slot = reinterpret_cast<unsigned*>(shared + 32 * size + 16);
            if (how == kMisaligned) slot += 2;
            const unsigned words[4] = {value, value, round, rank};
            store_async(slot, words, barrier, how == kWrongRank ? t + 1 : t);
        }
        if (t == 0 && how == kLateExpect) {
            __nanosleep(100);
            mbarrier_arrive_expect_tx(barrier, bytes);
        }
        if (how == kEarlyExit && rank == 0) return;
        if (how == kLeave) {
            if (t < size) atomic_add_release(scratch + blockIdx.x - rank + t, 1);
            if (rank == 0) {
                while (load_acquire(scratch + blockIdx.x) < size) {
                }
                return;
            }
        }
        if (how == kLateRead && round >= 2) {
            if (t < size) atomic_add_release(scratch + blockIdx.x - rank + t, 1);
            while (load_acquire(scratch + blockIdx.x) < (round - 1) * size) {
            }
            linger();
        } else if (how != kNoWait) {
            while (!mbarrier_try_wait_parity(barrier, how == kWrongParity ? parity ^ 1u : parity)) {
            }
        }
        value = 0;
        for (unsigned i = 0; i < size; i++) value += slots[4 * (b * size + i)];
        if (how == kGlobalByAsync) value += scratch[blockIdx.x - rank + (rank + 1) % size];
        if (how != kNoBarrier && how != kLateSend) __syncthreads();
    }
    y[blockIdx.x * blockDim.x + t] = value;
}

extern "C" int launch_exchange(unsigned* y, unsigned* scratch, unsigned ctas, unsigned threads, unsigned size,
                               unsigned rounds, int cooperative, int how) {
    return launch_cluster(exchange_kernel, ctas, threads, 32 * size + 16, size, cooperative, y, scratch, size, rounds,
                          how);
}

// The same once, with static shared memory. `beyond`: the slot behind the last.
static __global__ void static_exchange_kernel(unsigned* y, unsigned size, int beyond) {
    __shared__ __align__(16) unsigned slots[8][4];
    __shared__ unsigned long long barrier;
    const unsigned t = threadIdx.x, rank = cluster_rank();
    if (t == 0) {
        mbarrier_init(&barrier, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect_tx(&barrier, 16 * size);
    }
    cluster_arrive();
    cluster_wait();
    const unsigned words[4] = {rank, 10 * rank, 0, 0};
    if (t < size) store_async(&slots[0][0] + 4 * (beyond ? 8 : rank), words, &barrier, t);
    while (!mbarrier_try_wait_parity(&barrier, 0)) {
    }
    unsigned sum = 0;
    for (unsigned i = 0; i < size; i++) sum += slots[i][1];
    y[blockIdx.x * blockDim.x + t] = sum;
}

extern "C" int launch_static_exchange(unsigned* y, unsigned ctas, unsigned size, int beyond) {
    return launch_cluster(static_exchange_kernel, ctas, 64, 0, size, 0, y, size, beyond);
}

// Stores of each CTA of a cluster, which the others read behind the cluster's barrier. 0 right; 1 nobody waits; 2 a wait without
// an arrive; 3 two arrives; 4 one CTA leaves between; 5 half of each warp comes to another barrier; 6 a CTA leaves before
// it (right: the barrier waits for those that live); 7 the store comes after the arrive.
static __global__ void cluster_barrier_kernel(unsigned* x, unsigned* y, int how) {
    const unsigned t = threadIdx.x, rank = cluster_rank(), first = blockIdx.x - rank;
    if (how == 6 && rank == 1) return;
    if (how != 7) x[blockIdx.x * blockDim.x + t] = blockIdx.x;
    if (how == 5 && t % 32 < 16) {
        __syncthreads();
    } else if (how != 2) {
        cluster_arrive();
    }
    if (how == 3) cluster_arrive();
    if (how == 4 && rank == 0) return;
    if (how == 7) x[blockIdx.x * blockDim.x + t] = blockIdx.x;
    if (how != 1) cluster_wait();
    y[blockIdx.x * blockDim.x + t] = x[first * blockDim.x + t];
    if (how == 1) cluster_wait();
}

extern "C" int launch_cluster_barrier(unsigned* x, unsigned* y, unsigned ctas, unsigned threads, unsigned size, int how) {
    return launch_cluster(cluster_barrier_kernel, ctas, threads, 0, size, 0, x, y, how);
}

// Any size, to be refused or not.
static __global__ void sized_kernel(unsigned* y) { y[blockIdx.x] = cluster_rank(); }
static __global__ void nonportable_kernel(unsigned* y) { y[blockIdx.x] = cluster_rank(); }

extern "C" int launch_sized(unsigned* y, unsigned ctas, unsigned threads, unsigned shared, unsigned size, int allowed,
                            int cooperative) {
    auto* kernel = allowed ? nonportable_kernel : sized_kernel;
    if (shared > 0) {
        const int code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
        if (code) return code;
    }
    if (allowed) {
        const int code = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
        if (code) return code;
    }
    return launch_cluster(kernel, ctas, threads, shared, size, cooperative, y);
}

extern "C" int active_clusters(unsigned threads, unsigned shared, unsigned size, int* clusters) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = size;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(size);
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    config.attrs = &attribute;
    config.numAttrs = 1;
    return cudaOccupancyMaxActiveClusters(clusters, nonportable_kernel, &config);
}

// The symbols that compiled kernels ask of the emulated device. The glue that is linked with them defines these symbols and
// forwards them to libcuda.so.1.
#pragma once
#include <stddef.h>
#include <stdint.h>

extern "C" {

// Pointers to the calling OS thread's threadIdx, blockIdx, blockDim and gridDim: x, y, z each. The scheduler rewrites
// threadIdx at every switch.
struct CudaEmulatorPosition {
    unsigned* thread;
    unsigned* block;
    unsigned* block_size;
    unsigned* grid_size;
};

// Calls `function` with the values that `arguments` point to; made by a template, because only it knows the types.
typedef void (*CudaEmulatorInvoke)(const void* function, void** arguments);

struct CudaEmulatorKernel {
    const void* function;
    CudaEmulatorInvoke invoke;
    const size_t* argument_sizes;
    unsigned argument_count;
    const char* build;  // CUDA_EMULATOR_BUILD of its translation unit
};

struct CudaEmulatorLaunch {
    const void* function;
    void** arguments;
    unsigned grid[3];
    unsigned block[3];
    unsigned cluster[3];  // zero: no clusters asked for
    size_t dynamic_shared_bytes;
    void* stream;
    int cooperative;
    int programmatic;  // may begin before the launch before it is over
};

enum CudaEmulatorCollective {
    kCudaEmulatorShuffle,
    kCudaEmulatorBallot,
    kCudaEmulatorWarpBarrier,
    kCudaEmulatorClusterArrive,
    kCudaEmulatorClusterArriveRelaxed,
    kCudaEmulatorClusterWait,
};

// Makes a kernel known, so that it can be launched by its bare address.
void cuda_emulator_register_kernel(const CudaEmulatorKernel* kernel);
int cuda_emulator_launch(const CudaEmulatorLaunch* launch);
int cuda_emulator_max_active_clusters(int* clusters, const CudaEmulatorLaunch* launch);

// __syncthreads: waits for every live thread of the CTA; returns how many of them brought a nonzero predicate.
unsigned cuda_emulator_block_barrier(unsigned predicate);
// A warp collective of the lanes in `mask`. `source` is the lane to read from, for shuffles; the result is its value, or
// the ballot.
uint64_t cuda_emulator_warp_collective(unsigned kind, unsigned mask, uint64_t value, unsigned source);

void* cuda_emulator_dynamic_shared(void);
unsigned cuda_emulator_atomic_inc_acq_rel(unsigned* counter, unsigned last);
unsigned cuda_emulator_atomic_add_acq_rel(unsigned* counter, unsigned value);
unsigned cuda_emulator_atomic_add_release(unsigned* counter, unsigned value);
unsigned cuda_emulator_load_acquire(const unsigned* address);
unsigned cuda_emulator_load_relaxed(const unsigned* address);
void cuda_emulator_store_release(unsigned* address, unsigned value);
unsigned long long cuda_emulator_atomic_add_relaxed(unsigned long long* word, unsigned long long value);
void cuda_emulator_store_relaxed(unsigned long long* word, unsigned long long value);
void cuda_emulator_store_tagged(void* slot, const unsigned* words);
void cuda_emulator_load_tagged(const void* slot, unsigned tag, unsigned* words);
unsigned cuda_emulator_cluster_rank(void);
void cuda_emulator_grid_dependency_wait(void);
void cuda_emulator_grid_dependency_launch(void);
void cuda_emulator_cluster_arrive(void);
void cuda_emulator_cluster_arrive_relaxed(void);
void cuda_emulator_cluster_wait(void);
void cuda_emulator_mbarrier_init(unsigned long long* barrier, unsigned count);
void cuda_emulator_fence_mbarrier_init(void);
void cuda_emulator_mbarrier_arrive_expect_tx(unsigned long long* barrier, unsigned bytes);
int cuda_emulator_mbarrier_try_wait_parity(unsigned long long* barrier, unsigned parity);
void cuda_emulator_store_async(void* slot, const unsigned* words, unsigned long long* barrier, unsigned rank);
// Lets other threads run: what a nanosleep in a spin loop does.
void cuda_emulator_yield(void);
void cuda_emulator_trap(void);

}  // extern "C"

// The closed set of synchronisation primitives: nothing else in this folder orders anything.
//
// A team of one CTA has __syncthreads, and shuffles and votes of whole warps. Between the CTAs of a launch there is the
// ticket. No volatile, no bare fence.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>
#ifdef __CUDA_EMULATOR__
#include <cuda_emulator.h>
#endif

constexpr uint32_t kWarp = 32;
constexpr uint32_t kFullWarp = 0xffffffffu;

// The dynamic shared memory of the CTA, at least 16-byte aligned.
__device__ __forceinline__ unsigned char* dynamic_shared() {
#ifdef __CUDA_EMULATOR__
    return static_cast<unsigned char*>(cuda_emulator::dynamic_shared());
#else
    extern __shared__ __align__(16) unsigned char shared[];
    return shared;
#endif
}

// Takes a ticket: true for the last of `ctas` callers, after everything that the others did before theirs. The counter
// is 0 again then, for the next launch. One thread of a CTA calls it, after a __syncthreads.
// PTX ISA, "Parallel Synchronization and Communication Instructions: atom", .inc and .acq_rel.
__device__ __forceinline__ bool last_ticket(uint32_t* ticket, uint32_t ctas) {
#ifdef __CUDA_EMULATOR__
    const uint32_t before = cuda_emulator::atomic_inc_acq_rel(ticket, ctas - 1);
#else
    uint32_t before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(__cvta_generic_to_global(ticket)), "r"(ctas - 1)
                 : "memory");
#endif
    return before == ctas - 1;
}

// The value of the lane whose number differs in the bits of `mask`. Every lane of the warp calls it.
__device__ __forceinline__ float exchange(float v, uint32_t mask) { return __shfl_xor_sync(kFullWarp, v, mask); }
__device__ __forceinline__ uint32_t exchange(uint32_t v, uint32_t mask) { return __shfl_xor_sync(kFullWarp, v, mask); }

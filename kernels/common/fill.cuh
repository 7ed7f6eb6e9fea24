// One value everywhere: the per-channel outputs of an empty batch. Writes 4 bytes per element.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../abi.h"
#include "sync.cuh"

// out: (len)
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS) fill_kernel(float* out, uint64_t len, float value) {
    const uint64_t stride = static_cast<uint64_t>(gridDim.x) * blockDim.x;
    const uint64_t first = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    begin_dependent_launch();
    for (uint64_t i = first; i < len; i += stride) out[i] = value;
}

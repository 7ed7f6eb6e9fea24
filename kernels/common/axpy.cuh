// y <- y + alpha * x over the values of channels: a step of gradient descent. Reads 8 bytes per element, writes 4.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../abi.h"
#include "sync.cuh"

// x, y: (len)
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    axpy_kernel(float* y, const float* x, uint64_t len, float alpha) {
    const uint64_t stride = static_cast<uint64_t>(gridDim.x) * blockDim.x;
    const uint64_t first = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    begin_dependent_launch();
    for (uint64_t i = first; i < len; i += stride) y[i] = fmaf(alpha, x[i], y[i]);
}

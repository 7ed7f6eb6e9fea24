// Kernels of a translation unit that says what it was compiled from.
#define CUDA_EMULATOR_BUILD "the planted kernels"
#include <unistd.h>

#include "planted.h"

struct Weights {
    double by;
    short more[3];
};

static __global__ void weigh_kernel(const float* x, float* y, int n, Weights weights) {
    const int i = (blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] * static_cast<float>(weights.by) + weights.more[2];
}

// y = x * 0.5 + 3 of a grid of 2 x 3 CTAs of 32 threads.
extern "C" int launch_weigh(const float* x, float* y, int n) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(2, 3);
    config.blockDim = dim3(32);
    config.dynamicSmemBytes = 48;
    return cudaLaunchKernelEx(&config, weigh_kernel, x, y, n, Weights{0.5, {1, 2, 3}});
}

// The parameters of bounds.cu's copy_kernel, which has no such text.
static __global__ void stamped_copy_kernel(const float* x, float* y, int n) {
    const int i = threadIdx.x;
    if (i < n) y[i] = x[i];
}

extern "C" int launch_stamped_copy(const float* x, float* y, int n) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(1);
    config.blockDim = dim3(32);
    return cudaLaunchKernelEx(&config, stamped_copy_kernel, x, y, n);
}

// Ends the process in the middle of the launch.
static __global__ void exit_kernel() { _exit(3); }

extern "C" int launch_exit(void) { return launch(exit_kernel, 1, 1, 0); }

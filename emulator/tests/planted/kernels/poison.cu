// Memory that nobody wrote, and memory read more often than promised.
#include "planted.h"

// Leaves the last value of y unwritten if `forget`.
static __global__ void scale_kernel(const float* x, float* y, int n, int forget) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n - forget) y[i] = 2.0f * x[i];
}

extern "C" int launch_scale(const float* x, float* y, int n, int forget) {
    return launch(scale_kernel, (n + 63) / 64, 64, 0, x, y, n, forget);
}

// Reads a shared value that only one thread wrote before the barrier, or nobody.
static __global__ void shared_poison_kernel(float* y, int write) {
    __shared__ float value;
    __shared__ float untouched[8];
    if (threadIdx.x == 0 && write) value = 3.0f;
    if (threadIdx.x == 0) untouched[0] = 1.0f;
    __syncthreads();
    y[blockIdx.x * blockDim.x + threadIdx.x] = value + untouched[0];
}

extern "C" int launch_shared_poison(float* y, int write) { return launch(shared_poison_kernel, 2, 64, 0, y, write); }

// Two passes over x: once for the mean, once to subtract it.
static __global__ void two_pass_kernel(const float* x, float* y, int n, int passes) {
    __shared__ float mean;
    if (threadIdx.x == 0) {
        float sum = 0.0f;
        if (passes == 2) {
            for (int i = 0; i < n; i++) sum += x[i];
        }
        mean = sum / n;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = x[i] - mean;
}

extern "C" int launch_passes(const float* x, float* y, int n, int passes) {
    return launch(two_pass_kernel, 1, 64, 0, x, y, n, passes);
}

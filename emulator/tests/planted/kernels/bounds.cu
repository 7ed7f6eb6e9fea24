// Accesses that go wrong by where they are.
#include "planted.h"

static __global__ void copy_kernel(const float* x, float* y, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i];
}

// `n` may be larger than what was allocated.
extern "C" int launch_copy(const float* x, float* y, int n) { return launch(copy_kernel, (n + 63) / 64, 64, 0, x, y, n); }

static __global__ void copy16_kernel(const uint4* x, uint4* y) { __stcs(y + threadIdx.x, __ldcs(x + threadIdx.x)); }

// Pointers that may be misaligned.
extern "C" int launch_copy16(const void* x, void* y, unsigned vectors) {
    return launch(copy16_kernel, 1, vectors, 0, static_cast<const uint4*>(x), static_cast<uint4*>(y));
}

static __global__ void copy16_plain_kernel(const uint4* x, uint4* y) { y[threadIdx.x] = x[threadIdx.x]; }

extern "C" int launch_copy16_plain(const void* x, void* y, unsigned vectors) {
    return launch(copy16_plain_kernel, 1, vectors, 0, static_cast<const uint4*>(x), static_cast<uint4*>(y));
}

// Writes `used` bytes of dynamic shared memory and reads them back.
static __global__ void dynamic_shared_kernel(float* y, int used) {
    float* shared = static_cast<float*>(cuda_emulator::dynamic_shared());
    for (int i = threadIdx.x; i < used / 4; i += blockDim.x) shared[i] = static_cast<float>(i);
    __syncthreads();
    float sum = 0.0f;
    for (int i = threadIdx.x; i < used / 4; i += blockDim.x) sum += shared[i];
    y[threadIdx.x] = sum;
}

extern "C" int launch_dynamic_shared(float* y, int used, unsigned bytes, int opt_in) {
    if (opt_in) {
        const int status =
            cudaFuncSetAttribute(dynamic_shared_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
        if (status) return status;
    }
    return launch(dynamic_shared_kernel, 1, 128, bytes, y, used);
}

// Never opted in.
static __global__ void no_opt_in_kernel(float* y) { y[threadIdx.x] = 1.0f; }

extern "C" int launch_no_opt_in(float* y, unsigned bytes) { return launch(no_opt_in_kernel, 1, 32, bytes, y); }

// Any geometry, to be refused or not.
extern "C" int launch_geometry(float* y, unsigned ctas, unsigned threads, int cooperative) {
    return launch_as(no_opt_in_kernel, ctas, threads, 0, cooperative, y);
}

extern "C" int occupancy(int threads, unsigned bytes, int* blocks) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, no_opt_in_kernel, threads, bytes);
}

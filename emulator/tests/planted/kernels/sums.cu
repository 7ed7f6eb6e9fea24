#include <cuda_runtime.h>

static __global__ void __launch_bounds__(1024) block_sums_kernel(const float* __restrict__ x, float* sums, int n) {
    __shared__ float warp_sums[32];
    float sum = 0.0f;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += x[i];
    for (int mask = 16; mask > 0; mask >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        float total = 0.0f;
        for (unsigned w = 0; w < blockDim.x / 32; w++) total += warp_sums[w];
        sums[blockIdx.x] = total;
    }
}

extern "C" int launch_block_sums(const float* x, float* sums, int n, unsigned ctas, unsigned threads) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(ctas);
    config.blockDim = dim3(threads);
    return cudaLaunchKernelEx(&config, block_sums_kernel, x, sums, n);
}

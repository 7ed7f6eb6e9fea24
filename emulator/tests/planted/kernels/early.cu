// Programmatic dependent launch: kernels that may begin before the launches before them are over.
#include "planted.h"

using namespace cuda_emulator;

enum How {
    kRight,
    kNoWait,       // reads without waiting
    kLateWait,     // waits behind the first read
    kLateStore,    // stores before it waits
    kOthersWait,   // only the first thread of the CTA waits
    kLateAtomic,   // counts before it waits
};

static __global__ void early_kernel(const float* x, float* y, unsigned* counter, int n, int how) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    grid_dependency_launch();
    if (how == kLateStore && i < n) y[i] = 0.0f;
    if (how == kLateAtomic) atomic_add_release(counter, 1);
    float first = how == kLateWait ? x[0] : 0.0f;
    if (how != kNoWait && (how != kOthersWait || threadIdx.x == 0)) grid_dependency_wait();
    __syncthreads();
    if (i < n) y[i] = x[i] + 0.0f * first;
}

// `programmatic`: whether the launch may begin early.
extern "C" int launch_early(const float* x, float* y, unsigned* counter, int n, int programmatic, int how) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = programmatic;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((n + 63) / 64);
    config.blockDim = dim3(64);
    config.attrs = &attribute;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, early_kernel, x, y, counter, n, how);
}

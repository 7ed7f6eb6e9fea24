#pragma once
#include <cuda_runtime.h>

template <class... Params, class... Args>
int launch_as(void (*kernel)(Params...), unsigned ctas, unsigned threads, unsigned shared, int cooperative,
              Args... args) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(ctas);
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    config.attrs = &attribute;
    config.numAttrs = cooperative ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, args...);
}

template <class... Params, class... Args>
int launch(void (*kernel)(Params...), unsigned ctas, unsigned threads, unsigned shared, Args... args) {
    return launch_as(kernel, ctas, threads, shared, 0, args...);
}

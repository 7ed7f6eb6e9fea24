#pragma once
#include <cuda_runtime.h>

// Launches in clusters of `size` CTAs, unless it is 0.
template <class... Params, class... Args>
int launch_cluster(void (*kernel)(Params...), unsigned ctas, unsigned threads, unsigned shared, unsigned size,
                   int cooperative, Args... args) {
    cudaLaunchAttribute attributes[2] = {};
    unsigned count = 0;
    if (cooperative) {
        attributes[count].id = cudaLaunchAttributeCooperative;
        attributes[count++].val.cooperative = 1;
    }
    if (size) {
        attributes[count].id = cudaLaunchAttributeClusterDimension;
        attributes[count].val.clusterDim.x = size;
        attributes[count].val.clusterDim.y = 1;
        attributes[count++].val.clusterDim.z = 1;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(ctas);
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    config.attrs = attributes;
    config.numAttrs = count;
    return cudaLaunchKernelEx(&config, kernel, args...);
}

template <class... Params, class... Args>
int launch_as(void (*kernel)(Params...), unsigned ctas, unsigned threads, unsigned shared, int cooperative,
              Args... args) {
    return launch_cluster(kernel, ctas, threads, shared, 0, cooperative, args...);
}

template <class... Params, class... Args>
int launch(void (*kernel)(Params...), unsigned ctas, unsigned threads, unsigned shared, Args... args) {
    return launch_as(kernel, ctas, threads, shared, 0, args...);
}

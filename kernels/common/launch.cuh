// The host side: from the ABI's tiling to a kernel's instance and its launch. Chooses nothing.
#pragma once
#include <cuda_runtime.h>
#include <type_traits>

#include "../abi.h"
#include "element.cuh"
#include "sync.cuh"
#include "tile_iterator.cuh"

// A type as an argument: `decltype(type)::Type`.
template <class T>
struct TypeOf {
    using Type = T;
};

// Calls `with(element type)` for a dtype.
template <class With, class... T>
BnStatus with_dtype(Types<T...>, BnDtype dtype, With with) {
    BnStatus status = static_cast<BnStatus>(cudaErrorInvalidValue);
    (void)((dtype == Element<T>::kDtype && (status = with(TypeOf<T>{}), true)) || ...);
    return status;
}
template <class With>
BnStatus with_dtype(BnDtype dtype, With with) {
    return with_dtype(Dtypes{}, dtype, with);
}

// Calls `with(element type)` for every dtype, up to the first that fails.
template <class With, class... T>
BnStatus with_every_dtype(Types<T...>, With with) {
    BnStatus status = BN_SUCCESS;
    (void)(((status = with(TypeOf<T>{})) == BN_SUCCESS) && ...);
    return status;
}
template <class With>
BnStatus with_every_dtype(With with) {
    return with_every_dtype(Dtypes{}, with);
}

// Calls `with(tile iterator type)` for an access pattern of a dtype.
template <class T, class With>
BnStatus with_access(BnAccess access, With with) {
    switch (access) {
        case BN_CONTIGUOUS: return with(TypeOf<Contiguous<T, kVecOf<T>>>{});
        case BN_STRIDED: return with(TypeOf<Strided<T, kVecOf<T>>>{});
        case BN_SCALAR_CONTIGUOUS: return with(TypeOf<Contiguous<T, 1>>{});
        case BN_SCALAR_STRIDED: return with(TypeOf<Strided<T, 1>>{});
    }
    return static_cast<BnStatus>(cudaErrorInvalidValue);
}

// Calls `with(tile iterator type)` for a dtype and an access pattern.
template <class With>
BnStatus with_iterator(BnDtype dtype, BnAccess access, With with) {
    return with_dtype(dtype, [&](auto type) { return with_access<typename decltype(type)::Type>(access, with); });
}

// Strategies that a fused kernel has an instance for: each where a vector has several elements; with scalar access,
// which is bound by instructions anyway, one instance serves all.
template <class Iter, class With>
BnStatus with_fused_strategy(BnStrategy strategy, With with) {
    if constexpr (Iter::kVec == 1) {
        return with(std::integral_constant<int, kAnyStrategy>{});
    } else {
        switch (strategy) {
            case BN_BLOCK: return with(std::integral_constant<int, BN_BLOCK>{});
            case BN_CLUSTER: return with(std::integral_constant<int, BN_CLUSTER>{});
            case BN_GRID: return with(std::integral_constant<int, BN_GRID>{});
            case BN_TWO_PASS: break; // has kernels of its own
        }
        return static_cast<BnStatus>(cudaErrorInvalidValue);
    }
}

// Calls `with(strategy)` for every instance of a fused kernel, up to the first that fails.
template <class Iter, class With>
BnStatus with_every_fused_strategy(With with) {
    for (const BnStrategy strategy : {BN_BLOCK, BN_CLUSTER, BN_GRID}) {
        const BnStatus status = with_fused_strategy<Iter>(strategy, with);
        if (status != BN_SUCCESS || Iter::kVec == 1) return status;
    }
    return BN_SUCCESS;
}

// An access pattern, and its name in messages.
struct NamedAccess {
    BnAccess access;
    const char* name;
};
constexpr NamedAccess kAccesses[] = {{BN_CONTIGUOUS, "contiguous"},
                                     {BN_STRIDED, "strided"},
                                     {BN_SCALAR_CONTIGUOUS, "scalar contiguous"},
                                     {BN_SCALAR_STRIDED, "scalar strided"}};

// Calls `with(tile iterator type)` for every instance, up to the first that fails.
template <class With>
BnStatus with_every_iterator(BnResident* resident, With with) {
    const BnStatus status = with_every_dtype([&](auto type) {
        using T = typename decltype(type)::Type;
        resident->dtype = Element<T>::kName;
        for (const NamedAccess& each : kAccesses) {
            resident->access = each.name;
            const BnStatus of_access = with_access<T>(each.access, with);
            if (of_access != BN_SUCCESS) return of_access;
        }
        return BN_SUCCESS;
    });
    if (status == BN_SUCCESS) resident->dtype = resident->access = nullptr;
    return status;
}

// The status of a runtime call. Clears the runtime's last error, where other code of the process would find our failure
// and take it for its own.
inline BnStatus returned(cudaError_t status) {
    if (status != cudaSuccess) (void)cudaGetLastError();
    return static_cast<BnStatus>(status);
}

// The launch may begin when every CTA of the one before it in the stream has waited for its own (begin_dependent_launch),
// or ended. It waits for that launch itself, so that only its start is early.
inline cudaLaunchAttribute programmatic() {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    return attribute;
}

template <class... Params, class... Args>
BnStatus launch(void (*kernel)(Params...), uint32_t ctas, uint32_t threads, uint32_t shared_bytes, BnStream stream,
                const Args&... args) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(ctas);
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream.handle);
    cudaLaunchAttribute attribute = programmatic();
    config.attrs = &attribute;
    config.numAttrs = stream.is_programmatic;
    return returned(cudaLaunchKernelEx(&config, kernel, args...));
}

inline cudaLaunchAttribute cluster_of(uint32_t ctas) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = ctas;
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
    return attribute;
}

inline cudaLaunchAttribute cooperative() {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
    return attribute;
}

// CTAs of a launch with a warp per channel.
inline uint32_t warp_per_channel(const BnTiling& t) {
    return (t.channels + BN_MAX_THREADS / kWarp - 1) / (BN_MAX_THREADS / kWarp);
}

// Launches a kernel with its tiling's geometry, and its teams as clusters or as a cooperative grid where the strategy
// says so.
template <class... Params, class... Args>
BnStatus launch_tiled(void (*kernel)(Params...), const BnTiling& t, BnStream stream, const Args&... args) {
    cudaLaunchAttribute attributes[2] = {};
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(t.teams * t.splits);
    config.blockDim = dim3(t.threads);
    config.dynamicSmemBytes = t.shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream.handle);
    config.attrs = attributes;
    if (t.strategy == BN_CLUSTER) attributes[config.numAttrs++] = cluster_of(t.splits);
    if (t.strategy == BN_GRID) attributes[config.numAttrs++] = cooperative();
    if (stream.is_programmatic != 0) attributes[config.numAttrs++] = programmatic();
    return returned(cudaLaunchKernelEx(&config, kernel, args...));
}

// Loads a kernel, lets it use the device's maximum of dynamic shared memory, and counts its CTAs on an SM. A kernel
// that `keeps_tile` in shared memory prefers the largest carveout: beside another stream's kernel the driver might
// leave an SM too little for two CTAs. Kernels that only stream want the L1 cache, which is the rest.
template <class... Params>
BnStatus prepare(void (*kernel)(Params...), const char* name, const BnDevice& device, BnResident* resident,
                 bool keeps_tile = false) {
    resident->kernel = name;
    resident->call = "cudaFuncGetAttributes";
    cudaFuncAttributes attributes;
    BnStatus status = returned(cudaFuncGetAttributes(&attributes, kernel));
    if (status != BN_SUCCESS) return status;
    resident->call = "cudaFuncSetAttribute(MaxDynamicSharedMemorySize)";
    const int dynamic = static_cast<int>(device.shared_bytes);
    status = returned(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic));
    // Static shared memory leaves less than a plan may take. The attribute alone does not show it: from sm_90 on it may
    // count the driver's reservation, which is no part of the limit.
    const bool is_too_much = status == static_cast<BnStatus>(cudaErrorInvalidValue);
    resident->static_bytes = is_too_much ? static_cast<uint32_t>(attributes.sharedSizeBytes) : 0;
    if (status != BN_SUCCESS) return status;
    if (keeps_tile) {
        resident->call = "cudaFuncSetAttribute(PreferredSharedMemoryCarveout)";
        status = returned(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                               cudaSharedmemCarveoutMaxShared));
        if (status != BN_SUCCESS) return status;
    }
    resident->call = "cudaOccupancyMaxActiveBlocksPerMultiprocessor";
    int ctas = 0;
    status = returned(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&ctas, kernel, BN_MAX_THREADS, 0));
    if (status != BN_SUCCESS) return status;
    const uint32_t found = static_cast<uint32_t>(ctas);
    resident->ctas = resident->kernels == 0 || found < resident->ctas ? found : resident->ctas;
    resident->kernels += 1;
    return found < BN_MIN_CTAS ? static_cast<BnStatus>(cudaErrorLaunchOutOfResources) : BN_SUCCESS;
}

// prepare for a kernel that is also launched in clusters, where the device has them.
template <class... Params>
BnStatus prepare_clustered(void (*kernel)(Params...), const char* name, const BnDevice& device, BnResident* resident,
                           bool keeps_tile = false) {
    const bool is_first = resident->clustered_kernels == 0;
    BnStatus status = prepare(kernel, name, device, resident, keeps_tile);
    if (status != BN_SUCCESS || device.has_clusters == 0) return status;
    // Clusters beyond eight CTAs fit some devices and not others; cudaOccupancyMaxActiveClusters tells.
    resident->call = "cudaFuncSetAttribute(NonPortableClusterSizeAllowed)";
    status = returned(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    if (status != BN_SUCCESS) return status;
    resident->call = "cudaOccupancyMaxActiveClusters";
    for (uint32_t i = 0; i < 2 * BN_CLUSTER_SIZES; i++) {
        const uint32_t share = i / BN_CLUSTER_SIZES, size = i % BN_CLUSTER_SIZES;
        cudaLaunchAttribute attribute = cluster_of(2u << size);
        cudaLaunchConfig_t config = {};
        config.gridDim = dim3(2u << size);
        config.blockDim = dim3(BN_MAX_THREADS);
        config.dynamicSmemBytes = share == 0 ? device.shared_bytes : device.half_shared_bytes;
        config.attrs = &attribute;
        config.numAttrs = 1;
        int clusters = 0;
        status = returned(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config));
        if (status == static_cast<BnStatus>(cudaErrorInvalidClusterSize)) {
            clusters = 0; // a size that the device does not have
        } else if (status != BN_SUCCESS) {
            return status;
        }
        const uint32_t found = static_cast<uint32_t>(clusters);
        uint32_t& least = resident->clusters[share][size];
        if (is_first || found < least) least = found;
    }
    resident->clustered_kernels += 1;
    return BN_SUCCESS;
}

// prepare for an instance of a fused kernel.
template <int kStrategy, class... Params>
BnStatus prepare_fused(void (*kernel)(Params...), const char* name, const BnDevice& device, BnResident* resident) {
    if constexpr (kStrategy == BN_CLUSTER || kStrategy == kAnyStrategy)
        return prepare_clustered(kernel, name, device, resident, true);
    else
        return prepare(kernel, name, device, resident, true);
}

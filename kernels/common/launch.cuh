// Host side: from the ABI's tiling to a kernel's instance and its launch. Chooses nothing.
#pragma once
#include <cuda_runtime.h>

#include "../abi.h"
#include "element.cuh"
#include "tile_iterator.cuh"

// Calls `with(owner type)` for the tiling's dtype and form. Owners are passed by type: `decltype(owner)::Type`.
template <class Owner>
struct OwnerType {
    using Type = Owner;
};

template <class T, class With>
BnStatus with_form(BnForm form, With with) {
    switch (form) {
        case BN_ROWS: return with(OwnerType<Rows<T, kVecOf<T>>>{});
        case BN_COLUMNS: return with(OwnerType<Columns<T, kVecOf<T>>>{});
        case BN_SCALAR_ROWS: return with(OwnerType<Rows<T, 1>>{});
        case BN_SCALAR_COLUMNS: return with(OwnerType<Columns<T, 1>>{});
    }
    return static_cast<BnStatus>(cudaErrorInvalidValue);
}

template <class With>
BnStatus with_owner(BnDtype dtype, BnForm form, With with) {
    switch (dtype) {
        case BN_F32: return with_form<float>(form, with);
        case BN_F16: return with_form<__half>(form, with);
        case BN_BF16: return with_form<__nv_bfloat16>(form, with);
    }
    return static_cast<BnStatus>(cudaErrorInvalidValue);
}

// The text that names an instance where it cannot be made ready.
inline const char* instance_name(uint32_t dtype, uint32_t form) {
    static const char* const kNames[3][4] = {
        {" (f32, rows)", " (f32, columns)", " (f32, scalar rows)", " (f32, scalar columns)"},
        {" (f16, rows)", " (f16, columns)", " (f16, scalar rows)", " (f16, scalar columns)"},
        {" (bf16, rows)", " (bf16, columns)", " (bf16, scalar rows)", " (bf16, scalar columns)"},
    };
    return kNames[dtype][form];
}

// Calls `with` for every instance, up to the first that fails.
template <class With>
BnStatus with_every_owner(BnResident* resident, With with) {
    static constexpr BnDtype kDtypes[3] = {BN_F32, BN_F16, BN_BF16};
    static constexpr BnForm kForms[4] = {BN_ROWS, BN_COLUMNS, BN_SCALAR_ROWS, BN_SCALAR_COLUMNS};
    for (uint32_t i = 0; i < 12; i++) {
        resident->instance = instance_name(i / 4, i % 4);
        const BnStatus status = with_owner(kDtypes[i / 4], kForms[i % 4], with);
        if (status != BN_SUCCESS) return status;
    }
    resident->instance = nullptr;
    return BN_SUCCESS;
}

// The status of a call of ours. The runtime keeps a failure as its last error too, where other code of the process would
// find it and take it for its own.
inline BnStatus returned(cudaError_t status) {
    if (status != cudaSuccess) (void)cudaGetLastError();
    return static_cast<BnStatus>(status);
}

template <class... Params, class... Args>
BnStatus launch(void (*kernel)(Params...), uint32_t ctas, uint32_t threads, uint32_t shared_bytes, void* stream,
                const Args&... args) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(ctas);
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream);
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

// A kernel that takes its tiling's geometry, with the CTAs of a team as its strategy wants them.
template <class... Params, class... Args>
BnStatus launch_tiled(void (*kernel)(Params...), const BnTiling& t, void* stream, const Args&... args) {
    cudaLaunchAttribute attribute = {};
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(t.teams * t.splits);
    config.blockDim = dim3(t.threads);
    config.dynamicSmemBytes = t.shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = &attribute;
    if (t.strategy == BN_CLUSTER) {
        attribute = cluster_of(t.splits);
        config.numAttrs = 1;
    } else if (t.strategy == BN_GRID) {
        attribute = cooperative();
        config.numAttrs = 1;
    }
    return returned(cudaLaunchKernelEx(&config, kernel, args...));
}

// Loads a kernel, lets it use what shared memory the device has, and counts its CTAs on an SM. A kernel that `holds` its
// tiles in shared memory gets as large a part of the SM's memory as there is: beside another stream's kernel the driver might
// leave an SM too little of it for two CTAs. Kernels that only stream want the L1 cache, which is the rest.
template <class... Params>
BnStatus prepare(void (*kernel)(Params...), const char* name, const BnDevice& device, BnResident* resident,
                 bool holds = false) {
    resident->kernel = name;
    resident->call = "cudaFuncGetAttributes";
    cudaFuncAttributes attributes;
    BnStatus status = returned(cudaFuncGetAttributes(&attributes, kernel));
    if (status != BN_SUCCESS) return status;
    resident->call = "cudaFuncSetAttribute(MaxDynamicSharedMemorySize)";
    const int dynamic = static_cast<int>(device.shared_bytes);
    status = returned(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic));
    // Static shared memory leaves less than a plan may take. By itself the attribute says little: it may count what the
    // driver keeps of every CTA's shared memory from sm_90 on, which is no part of the limit.
    const bool is_too_much = status == static_cast<BnStatus>(cudaErrorInvalidValue);
    resident->static_bytes = is_too_much ? static_cast<uint32_t>(attributes.sharedSizeBytes) : 0;
    if (status != BN_SUCCESS) return status;
    if (holds) {
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

// As prepare, for a kernel that is launched in clusters too, where the device has them.
template <class... Params>
BnStatus prepare_team(void (*kernel)(Params...), const char* name, const BnDevice& device, BnResident* resident,
                      bool holds = false) {
    const bool is_first = resident->clustered_kernels == 0;
    BnStatus status = prepare(kernel, name, device, resident, holds);
    if (status != BN_SUCCESS || device.has_clusters == 0) return status;
    // Beyond eight CTAs a cluster fits some devices and not others; one that it does not fit says so below.
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

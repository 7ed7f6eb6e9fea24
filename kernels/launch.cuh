// Host side: from the ABI's tiling to a kernel's instance and its launch. Chooses nothing.
#pragma once
#include <cuda_runtime.h>

#include "abi.h"
#include "element.cuh"
#include "ownership.cuh"

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

// Calls `with` for every instance, up to the first that fails.
template <class With>
BnStatus with_every_owner(With with) {
    for (BnDtype dtype : {BN_F32, BN_F16, BN_BF16}) {
        for (BnForm form : {BN_ROWS, BN_COLUMNS, BN_SCALAR_ROWS, BN_SCALAR_COLUMNS}) {
            const BnStatus status = with_owner(dtype, form, with);
            if (status != BN_SUCCESS) return status;
        }
    }
    return BN_SUCCESS;
}

template <class... Params, class... Args>
BnStatus launch(void (*kernel)(Params...), uint32_t ctas, uint32_t threads, uint32_t shared_bytes, void* stream,
                const Args&... args) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(ctas);
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream);
    return static_cast<BnStatus>(cudaLaunchKernelEx(&config, kernel, args...));
}

// A kernel that takes its tiling's geometry.
template <class... Params, class... Args>
BnStatus launch_tiled(void (*kernel)(Params...), const BnTiling& t, void* stream, const Args&... args) {
    return launch(kernel, t.strips * t.splits, t.threads, t.shared_bytes, stream, args...);
}

// Loads a kernel, lets it use what shared memory the device has, and counts its CTAs on an SM.
template <class... Params>
BnStatus prepare(void (*kernel)(Params...), uint32_t shared_bytes, BnResident* resident) {
    cudaFuncAttributes attributes;
    cudaError_t status = cudaFuncGetAttributes(&attributes, kernel);
    if (status != cudaSuccess) return static_cast<BnStatus>(status);
    const int dynamic = static_cast<int>(shared_bytes) - static_cast<int>(attributes.sharedSizeBytes);
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic);
    if (status != cudaSuccess) return static_cast<BnStatus>(status);
    int ctas = 0;
    status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&ctas, kernel, BN_MAX_THREADS, 0);
    if (status != cudaSuccess) return static_cast<BnStatus>(status);
    const uint32_t found = static_cast<uint32_t>(ctas);
    resident->ctas = resident->kernels == 0 || found < resident->ctas ? found : resident->ctas;
    resident->kernels += 1;
    return BN_SUCCESS;
}

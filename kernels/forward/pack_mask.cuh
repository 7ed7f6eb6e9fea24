// The relu mask of a whole tensor, for forms that keep none in place.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../common/launch.cuh"
#include "../common/sync.cuh"

// One bit an element of y, in memory order.
// Reads sizeof(T) bytes an element, writes an eighth.
template <class T>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    pack_mask_kernel(const void* y, uint32_t* mask, int64_t len) {
    const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    // Whole warps walk together: each makes one word.
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i - threadIdx.x % kWarp < len;
         i += stride) {
        const bool passes = i < len && !(Element<T>::to_float(static_cast<const T*>(y)[i]) <= 0.0f);
        const uint32_t word = __ballot_sync(kFullWarp, passes);
        if (threadIdx.x % kWarp == 0) mask[i / kWarp] = word;
    }
}

template <class With>
BnStatus with_dtype(BnDtype dtype, With with) {
    switch (dtype) {
        case BN_F32: return with(pack_mask_kernel<float>);
        case BN_F16: return with(pack_mask_kernel<__half>);
        case BN_BF16: return with(pack_mask_kernel<__nv_bfloat16>);
    }
    return static_cast<BnStatus>(cudaErrorInvalidValue);
}

// Launched behind a forward pass that keeps a mask, unless that pass has written it already.
inline BnStatus pack_mask(const BnTiling& t, const void* y, uint32_t* mask, void* stream) {
    if (mask == nullptr || t.mask_in_place != 0) return BN_SUCCESS;
    constexpr int64_t kMaxCtas = 4096;
    const int64_t len = t.m * t.channels;
    const int64_t ctas = min((len + BN_MAX_THREADS - 1) / BN_MAX_THREADS, kMaxCtas);
    return with_dtype(t.dtype, [&](auto kernel) {
        return launch(kernel, static_cast<uint32_t>(ctas), BN_MAX_THREADS, 0, stream, y, mask, len);
    });
}

inline BnStatus prepare_pack_mask(const BnDevice& device, BnResident* resident) {
    for (BnDtype dtype : {BN_F32, BN_F16, BN_BF16}) {
        const BnStatus status =
            with_dtype(dtype, [&](auto kernel) { return prepare(kernel, "pack_mask", device, resident); });
        if (status != BN_SUCCESS) return status;
    }
    return BN_SUCCESS;
}

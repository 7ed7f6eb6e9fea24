// The relu mask of a whole tensor, where a forward pass keeps none in place.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../common/launch.cuh"
#include "../common/sync.cuh"

// Bit i of `mask` is whether element i of y passes relu, in memory order. Each warp makes one word of 32 elements.
// Reads sizeof(T) bytes per element, writes 1/8.
// y: (n, c, s), mask: ceil(len / 32), len = n * c * s.
template <class T>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    pack_mask_kernel(const void* y, uint32_t* mask, int64_t len) {
    const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    begin_dependent_launch();
    // Whole warps leave the loop together.
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i - threadIdx.x % kWarp < len;
         i += stride) {
        const bool passes = i < len && relu_passes(Element<T>::to_float(static_cast<const T*>(y)[i]));
        const uint32_t word = __ballot_sync(kFullWarp, passes);
        if (threadIdx.x % kWarp == 0) mask[i / kWarp] = word;
    }
}

// Launched behind a forward pass that keeps a mask, unless that pass has written it already.
inline BnStatus pack_mask(const BnTiling& t, const void* y, uint32_t* mask, BnStream stream) {
    if (mask == nullptr || t.mask_in_place != 0) return BN_SUCCESS;
    constexpr int64_t kMaxCtas = 4096;
    const int64_t len = t.m * t.channels;
    const int64_t ctas = min((len + BN_MAX_THREADS - 1) / BN_MAX_THREADS, kMaxCtas);
    return with_dtype(t.dtype, [&](auto dtype) {
        using T = typename decltype(dtype)::Type;
        return launch(pack_mask_kernel<T>, static_cast<uint32_t>(ctas), BN_MAX_THREADS, 0, stream, y, mask, len);
    });
}

inline BnStatus prepare_pack_mask(const BnDevice& device, BnResident* resident) {
    return with_every_dtype([&](auto type) {
        return prepare(pack_mask_kernel<typename decltype(type)::Type>, "pack_mask", device, resident);
    });
}

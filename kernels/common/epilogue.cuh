// The epilogue: the activations with their derivatives, and relu's mask, one bit per element.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../abi.h"
#include "element.cuh"
#include "sync.cuh"

// The values that an activation's derivative takes: they say what a backward pass needs to know of v.
enum class Derivative { kOne, kZeroOrOne };

__host__ __device__ __forceinline__ Derivative derivative_of(BnActivation activation) {
    switch (activation) {
        case BN_IDENTITY:
            return Derivative::kOne;
        case BN_RELU:
        case BN_RELU6:
            return Derivative::kZeroOrOne;
    }
    return Derivative::kOne; // not reached
}

// Whether a backward pass computes v again from x for the activation's derivative: without a residual v depends on x
// alone.
__host__ __device__ __forceinline__ bool recomputes_v(const BnEpilogue& epilogue) {
    return derivative_of(epilogue.activation) != Derivative::kOne && epilogue.has_residual == 0;
}

// Whether a backward pass reads the mask that its forward pass kept: with a residual, which it does not read again.
__host__ __device__ __forceinline__ bool reads_mask(const BnEpilogue& epilogue) {
    return derivative_of(epilogue.activation) == Derivative::kZeroOrOne && epilogue.has_residual != 0;
}

// max(v, 0) that keeps NaN: fmaxf would hide one.
__device__ __forceinline__ float relu(float v) { return v <= 0.0f ? 0.0f : v; }

// Whether relu lets a gradient pass, by y as it is stored, or by v rounded as y: where it is positive, or NaN.
__device__ __forceinline__ bool relu_passes(float y) { return !(y <= 0.0f); }

// min(max(v, 0), 6) that keeps NaN.
__device__ __forceinline__ float relu6(float v) { return v >= 6.0f ? 6.0f : relu(v); }

// Whether relu6 lets a gradient pass, by y as it is stored, or by v rounded as y: where 0 < y < 6, or y is NaN.
__device__ __forceinline__ bool relu6_passes(float y) { return relu_passes(y) && !(y >= 6.0f); }

// activation(v) of one vector, in place. The branch is uniform.
template <int kVec>
__device__ __forceinline__ void apply_activation(BnActivation activation, float (&v)[kVec]) {
    switch (activation) {
        case BN_IDENTITY:
            return;
        case BN_RELU:
#pragma unroll
            for (int e = 0; e < kVec; e++) v[e] = relu(v[e]);
            return;
        case BN_RELU6:
#pragma unroll
            for (int e = 0; e < kVec; e++) v[e] = relu6(v[e]);
            return;
    }
}

// g = dy * activation'(v) of one vector, in place of dy; `v(e)` is asked only where the derivative reads it.
// Where a derivative jumps it is that of y as it was stored: a y that rounds to zero lets nothing pass relu, and NaN
// passes.
template <class T, int kVec, class V>
__device__ __forceinline__ void apply_derivative(BnActivation activation, V v, float (&g)[kVec]) {
    switch (activation) {
        case BN_IDENTITY:
            return;
        case BN_RELU:
#pragma unroll
            for (int e = 0; e < kVec; e++) g[e] = relu_passes(rounded<T>(v(e))) ? g[e] : 0.0f;
            return;
        case BN_RELU6:
#pragma unroll
            for (int e = 0; e < kVec; e++) g[e] = relu6_passes(rounded<T>(v(e))) ? g[e] : 0.0f;
            return;
    }
}

// One vector's bits of the relu mask: bit i of the whole mask is element i in memory order. `offset` counts vectors.
template <int kVec>
struct MaskBits;

template <>
struct MaskBits<8> {
    static __device__ __forceinline__ void store(uint32_t* mask, int64_t offset, uint32_t bits, bool valid) {
        if (valid) reinterpret_cast<uint8_t*>(mask)[offset] = static_cast<uint8_t>(bits);
    }
    static __device__ __forceinline__ uint32_t load(const uint32_t* mask, int64_t offset) {
        return reinterpret_cast<const uint8_t*>(mask)[offset];
    }
};

template <>
struct MaskBits<4> {
    // Plan guarantees that lanes 2i and 2i + 1 hold the halves of one byte, or neither is valid.
    static __device__ __forceinline__ void store(uint32_t* mask, int64_t offset, uint32_t bits, bool valid) {
        const uint32_t upper = shfl_xor(bits, 1);
        if (valid && (offset & 1) == 0)
            reinterpret_cast<uint8_t*>(mask)[offset >> 1] = static_cast<uint8_t>(bits | upper << 4);
    }
    static __device__ __forceinline__ uint32_t load(const uint32_t* mask, int64_t offset) {
        return reinterpret_cast<const uint8_t*>(mask)[offset >> 1] >> ((offset & 1) * 4) & 15u;
    }
};

template <>
struct MaskBits<1> {
    // Scalar access keeps no mask in place: pack_mask_kernel makes it from y.
    static __device__ __forceinline__ void store(uint32_t*, int64_t, uint32_t, bool) {}
    static __device__ __forceinline__ uint32_t load(const uint32_t* mask, int64_t offset) {
        return mask[offset >> 5] >> (offset & 31) & 1u;
    }
};

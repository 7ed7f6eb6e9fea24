// The epilogue: the activations with their derivatives, and relu's mask, one bit per element.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../abi.h"
#include "element.cuh"
#include "sync.cuh"

// The values that an activation's derivative takes: they say what a backward pass needs to know of v.
enum class Derivative { kOne, kZeroOrOne, kReal };

__host__ __device__ __forceinline__ Derivative derivative_of(BnActivation activation) {
    switch (activation) {
        case BN_IDENTITY:
            return Derivative::kOne;
        case BN_RELU:
        case BN_RELU6:
            return Derivative::kZeroOrOne;
        case BN_SILU:
        case BN_HARDSWISH:
            return Derivative::kReal;
    }
    return Derivative::kOne; // not reached
}

// Whether a backward pass computes v again from x for the activation's derivative: without a residual v depends on x
// alone.
__host__ __device__ __forceinline__ bool recomputes_v(const BnEpilogue& epilogue) {
    return derivative_of(epilogue.activation) != Derivative::kOne && epilogue.has_residual == 0;
}

// max(v, 0) that keeps NaN: fmaxf would hide one.
__device__ __forceinline__ float relu(float v) { return v <= 0.0f ? 0.0f : v; }

// Whether relu lets a gradient pass, by y as it is stored, or by v rounded as y: where it is positive, or NaN.
__device__ __forceinline__ bool relu_passes(float y) { return !(y <= 0.0f); }

// min(max(v, 0), 6) that keeps NaN.
__device__ __forceinline__ float relu6(float v) { return v >= 6.0f ? 6.0f : relu(v); }

// Whether relu6 lets a gradient pass, by y as it is stored, or by v rounded as y: where 0 < y < 6, or y is NaN.
__device__ __forceinline__ bool relu6_passes(float y) { return relu_passes(y) && !(y >= 6.0f); }

// exp(-|v|), and 0 beyond 87, where it is hardly a normal number (v times it would be one down to -91); something for NaN.
// Within 1.3 * 2^-24 of itself.
//
// By fused multiply-adds alone, which give the same bits on every device, as ex2.approx does not promise: with
// -|v| = n ln(2) + r, exp(r) by a polynomial of degree 6 with the first two coefficients of exp, whose relative error is
// 2^-27.8 at most (minimax).
__device__ __forceinline__ float exp_of_minus_abs(float v) {
    constexpr float kRound = 12582912.0f; // 1.5 * 2^23: the sum with it is rounded to a whole number, its last bits
    constexpr float kLn2Hi = 0.693359375f, kLn2Lo = -2.12194440e-4f; // of 9 bits, whose product with n is exact; the rest
    const float abs = fabsf(v);
    const float shifted = fmaf(abs, -1.44269502f, kRound);
    const float n = shifted - kRound;
    const float r = fmaf(n, -kLn2Lo, fmaf(n, -kLn2Hi, -abs));
    float exp_of_r = 1.38123e-3f;
    exp_of_r = fmaf(exp_of_r, r, 8.36867e-3f);
    exp_of_r = fmaf(exp_of_r, r, 4.166841e-2f);
    exp_of_r = fmaf(exp_of_r, r, 1.6666521e-1f);
    exp_of_r = fmaf(exp_of_r, r, 4.9999993e-1f);
    exp_of_r = fmaf(exp_of_r, r, 1.0f);
    exp_of_r = fmaf(exp_of_r, r, 1.0f);
    const float exp = __uint_as_float(__float_as_uint(exp_of_r) + (__float_as_uint(shifted) << 23));
    return abs > 87.0f ? 0.0f : exp;
}

// 1 / d for 1 <= d <= 2, within 1.2 * 2^-24 of itself, and exactly 1 for 1: a parabola, whose error is 1%, and two
// of Newton's steps. A division takes twice the instructions and a branch.
__device__ __forceinline__ float reciprocal_from_1_to_2(float d) {
    float r = fmaf(fmaf(0.32323147f, d, -1.45454287f), d, 2.12121026f);
    r = fmaf(r, fmaf(-d, r, 1.0f), r);
    return fmaf(r, fmaf(-d, r, 1.0f), r);
}

// sigmoid(v) and sigmoid(-v): their sum is 1, and neither loses digits.
struct Sigmoids {
    float of_v, of_minus_v;

    __device__ __forceinline__ explicit Sigmoids(float v) {
        const float exp = exp_of_minus_abs(v);
        const float large = reciprocal_from_1_to_2(1.0f + exp), small = exp * large;
        of_v = v >= 0.0f ? large : small;
        of_minus_v = v >= 0.0f ? small : large;
    }
};

__device__ __forceinline__ float silu(float v) { return v * Sigmoids(v).of_v; }

__device__ __forceinline__ float silu_derivative(float v) {
    const Sigmoids sigmoid(v);
    return sigmoid.of_v * fmaf(v, sigmoid.of_minus_v, 1.0f);
}

// v * min(max(v + 3, 0), 6) / 6. The factor is exactly 1 from 3 on; a NaN, which fminf and fmaxf hide, comes back by v.
__device__ __forceinline__ float hardswish(float v) {
    constexpr float kSixth = 0.166666672f;
    return v * (fminf(fmaxf(v + 3.0f, 0.0f), 6.0f) * kSixth);
}

// dy * hardswish'(v): a selection where the derivative is 0 or 1, so that no 0 is multiplied by an infinite dy.
__device__ __forceinline__ float hardswish_gradient(float v, float dy) {
    constexpr float kThird = 0.333333343f;
    const float between = dy * fmaf(v, kThird, 0.5f);
    const float above = v >= 3.0f ? dy : between; // nested, the compiler makes a branch of them
    return v <= -3.0f ? 0.0f : above;
}

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
        case BN_SILU:
#pragma unroll
            for (int e = 0; e < kVec; e++) v[e] = silu(v[e]);
            return;
        case BN_HARDSWISH:
#pragma unroll
            for (int e = 0; e < kVec; e++) v[e] = hardswish(v[e]);
            return;
    }
}

// g = dy * activation'(v) of one vector, in place of dy; `v(e)` is asked only where the derivative reads it. The
// instance with `kIsReal` is for activations whose derivative takes any value, the other for all others.
// Where that of relu or relu6 jumps it is that of y as it was stored: a y that rounds to zero lets nothing pass, and NaN
// passes.
template <class T, bool kIsReal, int kVec, class V>
__device__ __forceinline__ void apply_derivative(BnActivation activation, V v, float (&g)[kVec]) {
    if constexpr (kIsReal) {
        switch (activation) {
            case BN_IDENTITY:
            case BN_RELU:
            case BN_RELU6:
                return; // not reached
            case BN_SILU:
#pragma unroll
                for (int e = 0; e < kVec; e++) g[e] *= silu_derivative(v(e));
                return;
            case BN_HARDSWISH:
#pragma unroll
                for (int e = 0; e < kVec; e++) g[e] = hardswish_gradient(v(e), g[e]);
                return;
        }
    } else {
        switch (activation) {
            case BN_IDENTITY:
            case BN_SILU:
            case BN_HARDSWISH:
                return; // of the latter two not reached
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

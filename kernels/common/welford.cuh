// The accumulators, and how two of them merge: all of the mathematics of sums.
//
//     (mean, m2, n) of a and b:  delta = b.mean - a.mean,  n = a.n + b.n
//                                mean = a.mean + delta * b.n / n
//                                m2 = a.m2 + b.m2 + delta^2 * a.n * b.n / n       (Chan, Golub, LeVeque 1979)
//
// 1. The mean is a pair (mean, mean_lo) to the end: one f32 mean at 1e4, sigma 1 is off by 4e-4 sigmas.
// 2. A thread sums about its first value, its pivot, so equal values are exact and large means lose nothing.
// 3. kValuesPerMerge values merge at once.
//
// E[x^2] - E[x]^2 appears nowhere: at mean 1e4, sigma 1 it is wrong by a factor of 10 in f32.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "sync.cuh"

// A sum in two halves: hi is the rounded sum, lo its rounding error (Knuth's TwoSum).
struct Pair {
    float hi, lo;
};

__device__ __forceinline__ Pair two_sum(float a, float b) {
    const float hi = a + b;
    const float b_rounded = hi - a;
    return {hi, (a - (hi - b_rounded)) + (b - b_rounded)};
}

// The mean (mean + mean_lo), the sum of squares about it, and the count of some values. Sixteen bytes: one partial.
struct alignas(16) Moments {
    float mean, mean_lo, m2, n;

    static __device__ __forceinline__ Moments identity() { return {0.0f, 0.0f, 0.0f, 0.0f}; }
    __device__ __forceinline__ Moments shfl_xor(uint32_t mask) const {
        return {::shfl_xor(mean, mask), ::shfl_xor(mean_lo, mask), ::shfl_xor(m2, mask), ::shfl_xor(n, mask)};
    }
};

// Chan's merge of two sets, with the mean as a pair. Exact where both means are equal.
//
// `delta` is NaN where one mean is infinite, and infinite where finite means differ by more than f32 holds. The weighted
// means then give the infinity or NaN of a plain sum, or a finite mean. m2 needs no repair: it is NaN in a set with an
// infinite mean, and infinite beyond f32.
__device__ __forceinline__ Moments merge(const Moments& a, const Moments& b) {
    if (b.n == 0.0f) return a;
    if (a.n == 0.0f) return b;
    const float n = a.n + b.n;
    const float weight = b.n / n;
    const float delta = (b.mean - a.mean) + (b.mean_lo - a.mean_lo);
    Pair mean = two_sum(a.mean, fmaf(delta, weight, a.mean_lo));
    // At least 2^-24 of `a`: a weight that rounds to 1 must not make NaN of an infinity.
    if (!isfinite(delta)) mean = {fmaf(b.mean, weight, a.mean * fmaxf(1.0f - weight, 0x1p-24f)), 0.0f};
    return {mean.hi, mean.lo, fmaf(delta * delta, a.n * weight, a.m2 + b.m2), n};
}

// Plain sums.
template <int kCount>
struct Sums {
    float of[kCount];

    static __device__ __forceinline__ Sums identity() {
        Sums zero;
#pragma unroll
        for (int i = 0; i < kCount; i++) zero.of[i] = 0.0f;
        return zero;
    }
    __device__ __forceinline__ Sums shfl_xor(uint32_t mask) const {
        Sums other;
#pragma unroll
        for (int i = 0; i < kCount; i++) other.of[i] = ::shfl_xor(of[i], mask);
        return other;
    }
};

template <int kCount>
__device__ __forceinline__ Sums<kCount> merge(const Sums<kCount>& a, const Sums<kCount>& b) {
    Sums<kCount> sum;
#pragma unroll
    for (int i = 0; i < kCount; i++) sum.of[i] = a.of[i] + b.of[i];
    return sum;
}

// Values that WelfordAccumulator sums before it merges their moments.
constexpr int kValuesPerMerge = 8;

// The moments of a thread's values, for kAccums channels at once. The first value is the pivot; kValuesPerMerge values
// are summed about it and merged by Chan's rule. Relative error of the variance 1e-7 also at mean 1e6, sigma 1.
template <int kAccums>
struct WelfordAccumulator {
    // `mean` is relative to `pivot`.
    float pivot[kAccums], mean[kAccums], m2[kAccums];
    // Values of each accumulator.
    float n;

    __device__ __forceinline__ WelfordAccumulator() : n(0.0f) {
#pragma unroll
        for (int acc = 0; acc < kAccums; acc++) pivot[acc] = mean[acc] = m2[acc] = 0.0f;
    }

    // Adds the first `count` of kValuesPerMerge values. The caller shares `before` = n and
    // `weight` = count / (before + count) among accumulators.
    template <bool kIsFull>
    __device__ __forceinline__ void add(int acc, const float (&v)[kValuesPerMerge], int count, float before,
                                        float weight) {
        float d[kValuesPerMerge];
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < kValuesPerMerge; i++) {
            d[i] = v[i] - pivot[acc];
            if (kIsFull || i < count) sum += d[i];
        }
        const float new_mean = kIsFull ? sum * (1.0f / kValuesPerMerge) : sum / static_cast<float>(count);
        float new_m2 = 0.0f;
#pragma unroll
        for (int i = 0; i < kValuesPerMerge; i++) {
            const float e = d[i] - new_mean;
            if (kIsFull || i < count) new_m2 = fmaf(e, e, new_m2);
        }
        const float delta = new_mean - mean[acc];
        mean[acc] = fmaf(delta, weight, mean[acc]);
        m2[acc] = fmaf(delta * delta, before * weight, m2[acc] + new_m2);
    }

    // Whether some accumulator took an infinity or NaN, or values whose squares are beyond f32.
    __device__ __forceinline__ bool is_non_finite() const {
        bool any = false;
#pragma unroll
        for (int acc = 0; acc < kAccums; acc++) any = any || !isfinite(m2[acc]);
        return any;
    }

    // Repairs a non-finite accumulator by the plain mean of its values. An infinity among them makes the mean infinite;
    // both infinities or a NaN make it NaN. Finite values leave a finite mean and an infinite m2.
    __device__ __forceinline__ void repair(int acc, float plain_mean) {
        if (isfinite(m2[acc])) return;
        if (!isfinite(mean[acc])) {
            pivot[acc] = plain_mean;
            mean[acc] = 0.0f;
        }
        m2[acc] = isfinite(plain_mean) ? INFINITY : NAN;
    }

    // The moments of one accumulator. The mean_lo of an infinite mean is NaN.
    __device__ __forceinline__ Moments moments(int acc) const {
        const Pair sum = two_sum(pivot[acc], mean[acc]);
        return n == 0.0f ? Moments::identity() : Moments{sum.hi, sum.lo, m2[acc], n};
    }
};

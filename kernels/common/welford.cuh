// Accumulators, and how two of them merge: all of the mathematics of sums.
//
// E[x^2] - E[x]^2 appears nowhere: at mean 1e4, sigma 1 it is wrong by a factor of 10 in f32.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "sync.cuh"

// A sum in two halves: hi is the rounded one, lo what rounding left (Knuth's TwoSum).
struct Pair {
    float hi, lo;
};

__device__ __forceinline__ Pair two_sum(float a, float b) {
    const float hi = a + b;
    const float of_b = hi - a;
    return {hi, (a - (hi - of_b)) + (b - of_b)};
}

// Mean (hi + lo), the sum of squares about it, and the count of some values. Sixteen bytes: one partial.
struct alignas(16) Moments {
    float hi, lo, m2, n;

    static __device__ __forceinline__ Moments none() { return {0.0f, 0.0f, 0.0f, 0.0f}; }
    __device__ __forceinline__ Moments exchanged(uint32_t mask) const {
        return {exchange(hi, mask), exchange(lo, mask), exchange(m2, mask), exchange(n, mask)};
    }
};

// Chan's merge of two sets, with the mean as a pair. Exact where both means are equal.
//
// The difference of two means is no number where one is infinite, and beyond f32 where both are finite and too far
// apart. The means themselves, weighted, then give the infinity or NaN that a plain sum has, or a finite mean. The
// sum of squares needs nothing: it is NaN in a set with an infinite mean, and infinite beyond f32.
__device__ __forceinline__ Moments merge(const Moments& a, const Moments& b) {
    if (b.n == 0.0f) return a;
    if (a.n == 0.0f) return b;
    const float n = a.n + b.n;
    const float weight = b.n / n;
    const float apart = (b.hi - a.hi) + (b.lo - a.lo);
    Pair mean = two_sum(a.hi, fmaf(apart, weight, a.lo));
    // At least 2^-24 of `a`: a weight that rounds to 1 must not make NaN of an infinity.
    if (!isfinite(apart)) mean = {fmaf(b.hi, weight, a.hi * fmaxf(1.0f - weight, 0x1p-24f)), 0.0f};
    return {mean.hi, mean.lo, fmaf(apart * apart, a.n * weight, a.m2 + b.m2), n};
}

// Plain sums.
template <int kCount>
struct Sums {
    float of[kCount];

    static __device__ __forceinline__ Sums none() {
        Sums zero;
#pragma unroll
        for (int i = 0; i < kCount; i++) zero.of[i] = 0.0f;
        return zero;
    }
    __device__ __forceinline__ Sums exchanged(uint32_t mask) const {
        Sums other;
#pragma unroll
        for (int i = 0; i < kCount; i++) other.of[i] = exchange(of[i], mask);
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

// Values that a chunk holds.
constexpr int kChunk = 8;

// Moments of a stream, for kLanes channels at once: the first value is the lane's pivot, chunks of eight are summed
// about it and merged by Chan's rule. Relative error of the variance 1e-7 also at mean 1e6, sigma 1.
template <int kLanes>
struct Stream {
    float pivot[kLanes], mean[kLanes], m2[kLanes];
    float n;

    // `n` is how many values each lane has: with one lane it grows with every chunk, else with every row of them.
    __device__ __forceinline__ Stream() : n(0.0f) {
#pragma unroll
        for (int lane = 0; lane < kLanes; lane++) pivot[lane] = mean[lane] = m2[lane] = 0.0f;
    }

    // Takes `count` of the eight values in. `before` and `weight` = count / (before + count) are the caller's, who
    // shares them among lanes.
    template <bool kIsFull>
    __device__ __forceinline__ void take(int lane, const float (&v)[kChunk], int count, float before, float weight) {
        float d[kChunk];
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < kChunk; i++) {
            d[i] = v[i] - pivot[lane];
            if (kIsFull || i < count) sum += d[i];
        }
        const float chunk_mean = kIsFull ? sum * (1.0f / kChunk) : sum / static_cast<float>(count);
        float chunk_m2 = 0.0f;
#pragma unroll
        for (int i = 0; i < kChunk; i++) {
            const float e = d[i] - chunk_mean;
            if (kIsFull || i < count) chunk_m2 = fmaf(e, e, chunk_m2);
        }
        const float apart = chunk_mean - mean[lane];
        mean[lane] = fmaf(apart, weight, mean[lane]);
        m2[lane] = fmaf(apart * apart, before * weight, m2[lane] + chunk_m2);
    }

    // Whether some lane took an infinity or NaN, or values whose squares are beyond f32.
    __device__ __forceinline__ bool is_beyond() const {
        bool any = false;
#pragma unroll
        for (int lane = 0; lane < kLanes; lane++) any = any || !isfinite(m2[lane]);
        return any;
    }

    // Mends what is_beyond says of a lane, with the plain mean of its values: an infinity among them makes it infinite,
    // both infinities or a NaN make it NaN. Finite values leave a finite mean and an infinite sum of squares.
    __device__ __forceinline__ void mend(int lane, float plain_mean) {
        if (isfinite(m2[lane])) return;
        if (!isfinite(mean[lane])) {
            pivot[lane] = plain_mean;
            mean[lane] = 0.0f;
        }
        m2[lane] = isfinite(plain_mean) ? INFINITY : NAN;
    }

    // Of an infinite mean `lo` is NaN, and nobody's.
    __device__ __forceinline__ Moments moments(int lane) const {
        const Pair sum = two_sum(pivot[lane], mean[lane]);
        return n == 0.0f ? Moments::none() : Moments{sum.hi, sum.lo, m2[lane], n};
    }
};

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
    static constexpr uint32_t kBytes = 16;
    float mean, mean_lo, m2, n;

    static __device__ __forceinline__ Moments identity() { return {0.0f, 0.0f, 0.0f, 0.0f}; }
    __device__ __forceinline__ Moments shfl_xor(uint32_t mask) const {
        return {::shfl_xor(mean, mask), ::shfl_xor(mean_lo, mask), ::shfl_xor(m2, mask), ::shfl_xor(n, mask)};
    }
    // The count of moments that came without theirs.
    __device__ __forceinline__ void set_count(float count) { n = count; }
    // Whether the last word of sixteen bytes is not needed: it is the count.
    static constexpr bool kLeavesWord = true;
    static __device__ __forceinline__ Moments select(bool first, Moments a, Moments b) {
        return {first ? a.mean : b.mean, first ? a.mean_lo : b.mean_lo, first ? a.m2 : b.m2, first ? a.n : b.n};
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
    float weight = 0.5f;
    if (a.n != b.n) weight = b.n / n; // equal counts, the usual case, are spared the division
    const float delta = (b.mean - a.mean) + (b.mean_lo - a.mean_lo);
    Pair mean = two_sum(a.mean, fmaf(delta, weight, a.mean_lo));
    // At least 2^-24 of `a`: a weight that rounds to 1 must not make NaN of an infinity.
    if (!isfinite(delta)) mean = {fmaf(b.mean, weight, a.mean * fmaxf(1.0f - weight, 0x1p-24f)), 0.0f};
    return {mean.hi, mean.lo, fmaf(delta * delta, a.n * weight, a.m2 + b.m2), n};
}

// Plain sums. Three of them take the place of four, which one access moves; the fourth is 0.
template <int kCount>
struct alignas(kCount == 3 ? 16 : 4 * kCount) Sums {
    static constexpr uint32_t kBytes = 4 * kCount;
    float of[kCount == 3 ? 4 : kCount];

    static __device__ __forceinline__ Sums identity() {
        Sums zero;
#pragma unroll
        for (float& sum : zero.of) sum = 0.0f;
        return zero;
    }
    __device__ __forceinline__ Sums shfl_xor(uint32_t mask) const {
        Sums other = identity();
#pragma unroll
        for (int i = 0; i < kCount; i++) other.of[i] = ::shfl_xor(of[i], mask);
        return other;
    }
    // Sums have no count.
    __device__ __forceinline__ void set_count(float) {}
    static constexpr bool kLeavesWord = kBytes < 16;
    static __device__ __forceinline__ Sums select(bool first, Sums a, Sums b) {
        Sums selected = identity();
#pragma unroll
        for (int i = 0; i < kCount; i++) selected.of[i] = first ? a.of[i] : b.of[i];
        return selected;
    }
};

template <int kCount>
__device__ __forceinline__ Sums<kCount> merge(const Sums<kCount>& a, const Sums<kCount>& b) {
    Sums<kCount> sum = Sums<kCount>::identity();
#pragma unroll
    for (int i = 0; i < kCount; i++) sum.of[i] = a.of[i] + b.of[i];
    return sum;
}

// The sums of a thread's values, for kAccums channels at once.
template <int kCount, int kAccums>
struct SumsAccumulator {
    using Partial = Sums<kCount>;

    Partial sums[kAccums];

    __device__ __forceinline__ SumsAccumulator() {
#pragma unroll
        for (int acc = 0; acc < kAccums; acc++) sums[acc] = Partial::identity();
    }
    // The partial of one accumulator.
    __device__ __forceinline__ Partial partial(int acc) const { return sums[acc]; }
    // The partial of the accumulators `begin` to `end - 1`, at least one, which are of one channel.
    __device__ __forceinline__ Partial partial(int begin, int end) const {
        Partial all = Partial::identity();
#pragma unroll
        for (int acc = 0; acc < kAccums; acc++) {
            if (begin <= acc && acc < end) all = merge(all, sums[acc]);
        }
        return all;
    }
};

// Values that WelfordAccumulator sums before it merges their moments.
constexpr int kValuesPerMerge = 8;

// The mean and the sum of squares about it of some values.
struct Chunk {
    float mean, m2;
};

// The chunk of kCount chunks of `each` values: Chan's merge of all at once.
template <int kCount>
__device__ __forceinline__ Chunk merge_equal(const Chunk (&chunks)[kCount], float each) {
    Chunk all = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < kCount; i++) all.mean += chunks[i].mean;
    all.mean *= 1.0f / kCount;
    float between = 0.0f;
#pragma unroll
    for (int i = 0; i < kCount; i++) {
        const float delta = chunks[i].mean - all.mean;
        between = fmaf(delta, delta, between);
        all.m2 += chunks[i].m2;
    }
    all.m2 = fmaf(between, each, all.m2);
    return all;
}

// The moments of a thread's values, for kAccums channels at once. The first value is the pivot; kValuesPerMerge values
// are summed about it and merged by Chan's rule. Relative error of the variance 1e-7 also at mean 1e6, sigma 1.
template <int kAccums>
struct WelfordAccumulator {
    using Partial = Moments;

    // `mean` is relative to `pivot`.
    float pivot[kAccums], mean[kAccums], m2[kAccums];
    // Values of each accumulator.
    float n;

    __device__ __forceinline__ WelfordAccumulator() : n(0.0f) {
#pragma unroll
        for (int acc = 0; acc < kAccums; acc++) pivot[acc] = mean[acc] = m2[acc] = 0.0f;
    }

    // The first `count` of kValuesPerMerge values, about the pivot.
    template <bool kIsFull>
    __device__ __forceinline__ Chunk chunk(int acc, const float (&v)[kValuesPerMerge], int count) const {
        float d[kValuesPerMerge];
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < kValuesPerMerge; i++) {
            d[i] = v[i] - pivot[acc];
            if (kIsFull || i < count) sum += d[i];
        }
        Chunk chunk = {kIsFull ? sum * (1.0f / kValuesPerMerge) : sum / static_cast<float>(count), 0.0f};
#pragma unroll
        for (int i = 0; i < kValuesPerMerge; i++) {
            const float e = d[i] - chunk.mean;
            if (kIsFull || i < count) chunk.m2 = fmaf(e, e, chunk.m2);
        }
        return chunk;
    }

    // Merges a chunk of `count` values. The caller shares `weight` = count / (n + count) among accumulators, and adds
    // `count` to n behind the last.
    __device__ __forceinline__ void add(int acc, const Chunk& chunk, float weight) {
        const float delta = chunk.mean - mean[acc];
        mean[acc] = fmaf(delta, weight, mean[acc]);
        m2[acc] = fmaf(delta * delta, n * weight, m2[acc] + chunk.m2);
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
    __device__ __forceinline__ Moments partial(int acc) const {
        const Pair sum = two_sum(pivot[acc], mean[acc]);
        return n == 0.0f ? Moments::identity() : Moments{sum.hi, sum.lo, m2[acc], n};
    }

    // The moments of the accumulators `begin` to `end - 1`, at least one, which are of one channel: Chan's merge of sets
    // of equal counts, all at once, about the pivot of the first. Where that gives no finite mean, since a mean is not
    // finite or two of them differ by more than f32 holds, it is the mean of their plain means.
    __device__ __forceinline__ Moments partial(int begin, int end) const {
        if (n == 0.0f) return Moments::identity();
        float about = pivot[0];
#pragma unroll
        for (int acc = 1; acc < kAccums; acc++) about = acc == begin ? pivot[acc] : about;
        const float weight = 1.0f / static_cast<float>(end - begin);
        float d[kAccums], sum = 0.0f;
#pragma unroll
        for (int acc = 0; acc < kAccums; acc++) {
            d[acc] = (pivot[acc] - about) + mean[acc];
            if (begin <= acc && acc < end) sum += d[acc];
        }
        float all = sum * weight;
        if (!isfinite(sum)) {
            about = all = 0.0f;
#pragma unroll
            for (int acc = 0; acc < kAccums; acc++) {
                d[acc] = pivot[acc] + mean[acc];
                if (begin <= acc && acc < end) all = fmaf(d[acc], weight, all);
            }
        }
        float within = 0.0f, between = 0.0f;
#pragma unroll
        for (int acc = 0; acc < kAccums; acc++) {
            const float delta = d[acc] - all;
            if (begin <= acc && acc < end) {
                within += m2[acc];
                between = fmaf(delta, delta, between);
            }
        }
        const Pair pair = two_sum(about, all);
        return {pair.hi, pair.lo, fmaf(between, n, within), n * static_cast<float>(end - begin)};
    }
};

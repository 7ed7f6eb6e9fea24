// The walk over x that reduces a CTA's chunk to the moments of each channel: Welford's algorithm, with
// kValuesPerMerge values at once.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../common/reduce.cuh"
#include "../common/smem.cuh"
#include "../common/tile_iterator.cuh"
#include "../common/welford.cuh"

// Vectors of x that a thread has in flight: each gives a merge one value.
constexpr int kReduceUnroll = kValuesPerMerge;

// Repairs accumulators that took values that are not finite or too large, by their plain mean. Walks back from behind
// the last iteration: a thread with an infinity reads its values twice, and the walk of all others has no instruction
// for it.
template <class Iter>
__device__ __forceinline__ void repair_non_finite(Iter iter, const typename Iter::Data* x,
                                                  WelfordAccumulator<Iter::kAccums>& welford) {
    using V = Vector<typename Iter::Data, Iter::kVec>;
    const float weight = 1.0f / welford.n;
    float plain_mean[Iter::kAccums] = {};
#pragma unroll 1
    while (iter.iteration > 0) {
        --iter;
        if (!iter.valid()) continue;
        float v[Iter::kVec];
        V::unpack(V::load(x + iter.offset * Iter::kVec), v);
#pragma unroll
        for (int e = 0; e < Iter::kVec; e++)
            plain_mean[e % Iter::kAccums] = fmaf(v[e], weight, plain_mean[e % Iter::kAccums]);
    }
#pragma unroll
    for (int acc = 0; acc < Iter::kAccums; acc++) welford.repair(acc, plain_mean[acc]);
}

// Reads a CTA's chunk of x, (n, c, s), keeps its first vectors in `smem_x`, and gives the threads of each channel its
// moments.
template <class Iter>
__device__ __forceinline__ Moments reduce_moments(Iter iter, const BnTiling& t, const ChannelThreads& threads,
                                                  const SharedStorage& smem, const typename Iter::Data* x,
                                                  const SmemTile<Iter>& smem_x) {
    using V = Vector<typename Iter::Data, Iter::kVec>;
    WelfordAccumulator<Iter::kAccums> welford;
#pragma unroll 1
    for (uint32_t done = 0; done < iter.iterations; done += kReduceUnroll) {
        typename V::Raw raw[kReduceUnroll];
        int count = 0;
#pragma unroll
        for (int i = 0; i < kReduceUnroll; i++) {
            raw[i] = V::zero();
            if (iter.valid()) {
                raw[i] = V::load(x + iter.offset * Iter::kVec);
                count++;
            }
            ++iter;
        }
        if (count == 0) break;
#pragma unroll
        for (int i = 0; i < kReduceUnroll; i++) {
            if (i < count && smem_x.contains(done + i)) smem_x.at(done + i) = raw[i];
        }
        float v[kReduceUnroll][Iter::kVec];
#pragma unroll
        for (int i = 0; i < kReduceUnroll; i++) V::unpack(raw[i], v[i]);
        if (done == 0) {
#pragma unroll
            for (int acc = 0; acc < Iter::kAccums; acc++) welford.pivot[acc] = v[0][acc];
        }
        Chunk chunks[Iter::kVec]; // of each element of the vectors
#pragma unroll
        for (int e = 0; e < Iter::kVec; e++) {
            float values[kReduceUnroll];
#pragma unroll
            for (int i = 0; i < kReduceUnroll; i++) values[i] = v[i][e];
            chunks[e] = count == kReduceUnroll ? welford.template chunk<true>(e % Iter::kAccums, values, count)
                                               : welford.template chunk<false>(e % Iter::kAccums, values, count);
        }
        constexpr int kChunksOfAccum = Iter::kVec / Iter::kAccums;
        const float each = static_cast<float>(count), taken = each * kChunksOfAccum;
        const float weight = taken / (welford.n + taken);
        if constexpr (Iter::kAccums == 1) {
            welford.add(0, merge_equal(chunks, each), weight);
        } else {
#pragma unroll
            for (int acc = 0; acc < Iter::kAccums; acc++) welford.add(acc, chunks[acc], weight);
        }
        welford.n += taken;
    }
    if (welford.is_non_finite()) repair_non_finite(iter, x, welford);
    return block_reduce_accums(t, iter, threads, smem, welford);
}

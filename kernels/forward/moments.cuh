// The batch's statistics:
//
//     mean = sum(x) / m        var = sum((x - mean)^2) / m
//
// moments_kernel reads a chunk of each tile once, sizeof(T) bytes per element, the floor. Under block, cluster and grid the
// team reduces and writes mean and var. Under two-pass it leaves a partial per split and channel: moments_finish_kernel
// reduces these for bn_moments, and normalize_kernel in a training forward. Plan guarantees that the chunks cover the tensor,
// that the alignment of x suits Iter, and that the workspace has room for the partials.
#pragma once
#include "../common/team.cuh"

// mean, var: (c).
__device__ __forceinline__ void store_moments(const Moments& moments, uint32_t channel, float* mean, float* var) {
    mean[channel] = moments.mean;
    var[channel] = moments.m2 / moments.n;
}

// Repairs accumulators that took values that are not finite or too large, by their plain mean. Walks back from behind the last
// iteration: a thread with an infinity reads its values twice, and the walk of all others has no instruction for it.
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

// Reads a CTA's chunk of x, (n, c, s), keeps its first vectors in `smem_x`, and gives the threads of each channel its moments.
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
        const float taken = static_cast<float>(count);
        float before = welford.n;
        float weight = taken / (before + taken);
#pragma unroll
        for (int e = 0; e < Iter::kVec; e++) {
            float values[kReduceUnroll];
#pragma unroll
            for (int i = 0; i < kReduceUnroll; i++) values[i] = v[i][e];
            if (count == kReduceUnroll) {
                welford.template add<true>(e % Iter::kAccums, values, count, before, weight);
            } else {
                welford.template add<false>(e % Iter::kAccums, values, count, before, weight);
            }
            if (Iter::kAccums == 1 && e + 1 < Iter::kVec) {
                before += taken;
                weight = taken / (before + taken);
            }
        }
        welford.n = before + taken;
    }
    if (welford.is_non_finite()) repair_non_finite(iter, x, welford);
    return block_reduce_accums<Iter, Moments>(t, threads, smem, [&](int acc) { return welford.moments(acc); });
}

template <class Iter>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    moments_kernel(const __grid_constant__ BnMoments args) {
    const BnTiling& t = args.tiling;
    const auto* const x = static_cast<const typename Iter::Data*>(args.x); // (n, c, s)
    const ChannelThreads threads(t.tile_channels);
    const SharedStorage smem = SharedStorage::layout<Iter>(t);
    Team team(t, args.workspace, smem);
    for (uint32_t tile = team.first_tile(); tile < t.tiles; tile += t.teams) {
        const bool leaves_partial = t.strategy == BN_TWO_PASS;
        const TileCoord coord = leaves_partial ? tile_coord(t, blockIdx.x) : team.coord(tile);
        const Moments own = reduce_moments(Iter(t, coord), t, threads, smem, x, SmemTile<Iter>::empty());
        const uint32_t channel = threads.channel(t, coord.tile);
        const bool is_writer = threads.rank == 0 && channel < t.channels;
        if (leaves_partial) {
            if (is_writer) store_partial(args.workspace, t, coord.split, channel, own);
        } else {
            const Moments moments = team.reduce(threads, own);
            if (is_writer && coord.split == 0) store_moments(moments, channel, args.mean, args.var);
        }
    }
    team.sync_exit();
}

// Writes mean and var from the partials, with a warp per channel. Reads 16 bytes per split and channel.
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    moments_finish_kernel(const __grid_constant__ BnMoments args) {
    const uint32_t channel = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp;
    const Moments moments = warp_reduce_splits<Moments>(args.workspace, args.tiling, channel);
    if (channel < args.tiling.channels && threadIdx.x % kWarp == 0)
        store_moments(moments, channel, args.mean, args.var);
}

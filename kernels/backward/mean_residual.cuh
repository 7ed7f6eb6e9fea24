// The residual of the mean, which rounding saved_mean to f32 took away:
//
//     mean_lo = sum(x - saved_mean) / m
//
// A residual that is more than a rounding shows that the caller's statistics are not those of x: saved_mean is then
// taken as given. An activation's derivative at v, which is computed again from x, needs mean_lo first where the mean
// is far from zero; elsewhere mean_lo moves v by 16 roundings of gamma at most, as the sums do (tolerance.rs counts it).
#pragma once
#include "../common/affine.cuh"
#include "../common/reduce.cuh"

// Sigmas that a mean is from zero up to which its rounding is left in v, where it is one rounding of gamma a sigma.
constexpr float kMaxMeanOverStd = 16.0f;

__device__ __forceinline__ bool needs_mean_residual(float saved_mean, float saved_inv_std) {
    return fabsf(saved_mean) * saved_inv_std > kMaxMeanOverStd;
}

// mean_lo, from sum(x - saved_mean).
__device__ __forceinline__ float mean_residual(float saved_mean, float sum_xmu, int64_t m) {
    const float mean_lo = sum_xmu / static_cast<float>(m);
    return fabsf(mean_lo) <= 0x1p-23f * fabsf(saved_mean) ? mean_lo : 0.0f;
}

// Whether any channel of the tile needs the residual: the same answer on all threads, and in every kernel of a backward
// pass.
__device__ __forceinline__ bool tile_needs_mean_residual(const BnBackward& args, TileCoord coord,
                                                         const SharedStorage& smem) {
    const BnTiling& t = args.tiling;
    bool thread_any = false;
    for (uint32_t i = threadIdx.x; i < t.tile_channels; i += blockDim.x) {
        const uint32_t channel = coord.tile * t.tile_channels + i;
        if (channel < t.channels)
            thread_any = thread_any ||
                         needs_mean_residual(args.statistics.mean[channel], args.statistics.inv_std[channel]);
    }
    uint32_t* const warps = reinterpret_cast<uint32_t*>(smem.warp_partials);
    const bool warp_any = __any_sync(kFullWarp, thread_any);
    if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = warp_any;
    __syncthreads();
    bool block_any = false;
    for (uint32_t i = 0; i < blockDim.x / kWarp; i++) block_any = block_any || warps[i] != 0;
    __syncthreads();
    return block_any;
}

// Writes the affines of the tile, for v and the sums. The threads of each channel bring the known `mean_lo`.
__device__ __forceinline__ void write_saved_affines(const BnBackward& args, TileCoord coord,
                                                    const ChannelThreads& threads, float mean_lo,
                                                    const SharedStorage& smem) {
    const uint32_t channel = threads.channel(args.tiling, coord.tile);
    write_coeffs<Affine>(args.tiling, smem, threads.rank == 0, threads.tile_channel, channel, [&] {
        return affine_of(args.gamma, args.beta, channel, args.statistics.mean[channel], mean_lo,
                         args.statistics.inv_std[channel]);
    });
}

// Vectors of x that a thread has in flight.
constexpr int kMeanResidualUnroll = 8;

// Reads a CTA's chunk of x, keeps its first vectors in `smem_x`, and gives the threads of each channel
// sum(x - saved_mean).
template <class Iter>
__device__ __forceinline__ Sums<1> reduce_xmu(const BnBackward& args, Iter iter, const ChannelThreads& threads,
                                              const SharedStorage& smem, const Affines<Iter>& affines,
                                              const SmemTile<Iter>& smem_x) {
    using V = Vector<typename Iter::Data, Iter::kVec>;
    const typename Iter::Data* const x = static_cast<const typename Iter::Data*>(args.x); // (n, c, s)
    Sums<1> sums[Iter::kAccums];
#pragma unroll
    for (int acc = 0; acc < Iter::kAccums; acc++) sums[acc] = Sums<1>::identity();
#pragma unroll 1
    for (uint32_t done = 0; done < iter.iterations; done += kMeanResidualUnroll) {
        typename V::Raw raw[kMeanResidualUnroll];
        bool valid[kMeanResidualUnroll];
#pragma unroll
        for (int i = 0; i < kMeanResidualUnroll; i++) {
            valid[i] = iter.valid();
            raw[i] = valid[i] ? V::load(x + iter.offset * Iter::kVec) : V::zero();
            ++iter;
        }
#pragma unroll
        for (int i = 0; i < kMeanResidualUnroll; i++) {
            if (!valid[i]) break;
            if (smem_x.contains(done + i)) smem_x.at(done + i) = raw[i];
            float v[Iter::kVec];
            V::unpack(raw[i], v);
#pragma unroll
            for (int e = 0; e < Iter::kVec; e++) sums[e % Iter::kAccums].of[0] += v[e] - affines.at(e).mean;
        }
    }
    return block_reduce_accums<Iter, Sums<1>>(args.tiling, threads, smem, [&](int acc) { return sums[acc]; });
}

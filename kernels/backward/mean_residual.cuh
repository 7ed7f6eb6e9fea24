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

// The saved statistics and the parameters of a thread's channel; zeros where it has none.
struct SavedInputs {
    uint32_t channel;
    float mean, inv_std;
    Parameters parameters;

    // Asks for them.
    __device__ __forceinline__ SavedInputs(const BnBackward& args, TileCoord coord, const ChannelThreads& threads)
        : channel(threads.channel(args.tiling, coord.tile)), mean(0.0f), inv_std(0.0f), parameters({0.0f, 0.0f}) {
        if (channel == args.tiling.channels) return;
        mean = args.statistics.mean[channel];
        inv_std = args.statistics.inv_std[channel];
        parameters = Parameters::load(args.gamma, args.beta, channel);
    }
};

// Whether any channel of the tile needs the residual: the same answer on all threads, and in every kernel of a backward
// pass. All threads call it.
__device__ __forceinline__ bool tile_needs_mean_residual(const SavedInputs& inputs) {
    return __syncthreads_or(needs_mean_residual(inputs.mean, inputs.inv_std)) != 0;
}

// Writes the affines of the tile, for v and the sums. The first thread of each channel brings the known `mean_lo`.
__device__ __forceinline__ void write_saved_affines(const BnBackward& args, const ChannelThreads& threads,
                                                    const SavedInputs& inputs, float mean_lo,
                                                    const SharedStorage& smem) {
    write_coeffs<Affine>(args.tiling, smem, threads.rank == 0, threads.tile_channel, inputs.channel,
                         [&] { return affine_of(inputs.parameters, inputs.mean, mean_lo, inputs.inv_std); });
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
    SumsAccumulator<1, Iter::kAccums> accums;
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
            for (int e = 0; e < Iter::kVec; e++) accums.sums[e % Iter::kAccums].of[0] += v[e] - affines.at(e).mean;
        }
    }
    return block_reduce_accums(args.tiling, iter, threads, smem, accums);
}

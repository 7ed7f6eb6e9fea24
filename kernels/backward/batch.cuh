// The backward pass through the batch's statistics:
//
//     g      = dy * activation'(v + z)                      dz = g
//     dbeta  = sum(g)
//     dgamma = sum(g * (x - mean)) * inv_std
//     dx     = gamma * inv_std * (g - dbeta/m - (x - mean) * inv_std * dgamma/m)
//
// mean is saved_mean + mean_lo (mean_residual.cuh). Everything is accumulated in f32.
//
// fused.cuh     block, cluster, grid: a team keeps its tile of x and of g (of dy, where the derivative takes any value)
//               in shared memory. Reads x and dy once, writes dx: 3 * sizeof(T) bytes per element, the floor. Vectors
//               beyond the grid's shared memory are read again.
// two_pass.cuh  two-pass: the first pass reads x and dy and leaves partials; the second reduces them, reads both from
//               their end and writes dx: 5 * sizeof(T) bytes per element.
//
// Plan guarantees that the chunks cover the tensor, that the alignment of the data suits Iter, that the teams of a grid
// are resident together, and that the workspace has room for the partials.
#pragma once
#include "../common/reduce.cuh"
#include "gradient.cuh"
#include "mean_residual.cuh"

// Three sums of a channel, with saved_mean.
using GradientSums = Sums<3>;

// Reads a CTA's chunk of x and dy, and gives the threads of each channel its three sums. x comes from `known_x` where
// that has it; the first vectors of x and g (or dy) are kept in `smem_x` and `smem_g`.
template <class Iter>
__device__ __forceinline__ GradientSums reduce_gradients(const BnTiling& t, const Iter& iter,
                                                         const ChannelThreads& threads, const SharedStorage& smem,
                                                         const Affines<Iter>& affines, const Gradient<Iter>& gradient,
                                                         const SmemTile<Iter>& known_x, const SmemTile<Iter>& smem_x,
                                                         const SmemTile<Iter>& smem_g) {
    SumsAccumulator<3, Iter::kAccums> accums;
    for_each_vector(iter, gradient, known_x, [&](const auto& batch, int i, uint32_t iteration) {
        float x[Iter::kVec], g[Iter::kVec];
        gradient.unpack(affines, batch, i, x, g);
        if (smem_g.contains(iteration)) {
            smem_x.at(iteration) = batch.x[i];
            smem_g.at(iteration) = gradient.packed(batch, i, g);
        }
#pragma unroll
        for (int e = 0; e < Iter::kVec; e++) {
            GradientSums& sum = accums.sums[e % Iter::kAccums];
            const float xmu = x[e] - affines.at(e).mean;
            sum.of[kSumXmu] += xmu;
            sum.of[kSumG] += g[e];
            sum.of[kSumGXmu] = fmaf(g[e], xmu, sum.of[kSumGXmu]);
        }
    });
    return block_reduce_accums(t, iter, threads, smem, accums);
}

// The coefficients of dx, in addition to Affine: dx = scale * (g - mean_dy - (x - mean) * proj).
struct alignas(16) DxCoeffs {
    float mean_dy, proj, mean_lo, unused;
};

// Writes dgamma and dbeta, (c), and the tile's DxCoeffs to shared memory. The first thread of each channel brings its
// saved statistics and sums, and gets its mean_lo.
__device__ __forceinline__ float write_parameter_gradients(const BnBackward& args, TileCoord coord,
                                                           const ChannelThreads& threads, float mean, float inv_std,
                                                           const GradientSums& sum, const SharedStorage& smem) {
    const uint32_t channel = threads.channel(args.tiling, coord.tile);
    if (threads.rank != 0 || threads.tile_channel >= args.tiling.tile_channels) return 0.0f;
    DxCoeffs coeffs = {0.0f, 0.0f, 0.0f, 0.0f};
    if (channel < args.tiling.channels) {
        const float m = static_cast<float>(args.tiling.m);
        const float sum_dy = sum.of[kSumG];
        coeffs.mean_lo = mean_residual(mean, sum.of[kSumXmu], args.tiling.m);
        const float sum_dy_xmu = fmaf(-coeffs.mean_lo, sum_dy, sum.of[kSumGXmu]);
        coeffs.mean_dy = sum_dy / m;
        coeffs.proj = sum_dy_xmu * inv_std * inv_std / m;
        if (coord.split == 0) {
            if (args.dgamma != nullptr) args.dgamma[channel] = sum_dy_xmu * inv_std;
            if (args.dbeta != nullptr) args.dbeta[channel] = sum_dy;
        }
    }
    smem.coeffs<DxCoeffs>(threads.tile_channel) = coeffs;
    return coeffs.mean_lo;
}

// Writes dx and dz of a CTA's chunk, those that are needed, from its last iteration to its first.
template <class Iter>
__device__ __forceinline__ void write_dx(const Iter& iter, const Affines<Iter>& affines,
                                         const ThreadCoeffs<Iter, DxCoeffs>& dx_coeffs, const Gradient<Iter>& gradient,
                                         const SmemTile<Iter>& smem_x, const SmemTile<Iter>& smem_g) {
    if (!gradient.writes()) return;
    for_each_vector_reverse(iter, gradient, smem_x, smem_g, [&](const auto& batch, int i) {
        float x[Iter::kVec], g[Iter::kVec];
        gradient.unpack(affines, batch, i, x, g);
        gradient.store_dz(batch.offset[i], g);
#pragma unroll
        for (int e = 0; e < Iter::kVec; e++) {
            const Affine& affine = affines.at(e);
            const DxCoeffs& coeffs = dx_coeffs.at(e);
            const float xmu = (x[e] - affine.mean) - coeffs.mean_lo;
            x[e] = affine.scale * fmaf(-xmu, coeffs.proj, g[e] - coeffs.mean_dy);
        }
        gradient.store_dx(batch.offset[i], x);
    });
}

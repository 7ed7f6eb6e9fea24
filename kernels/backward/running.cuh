// The backward pass through running statistics, which are constants:
//
//     g     = dy * activation'(v + z)        dz = g
//     dbeta = sum(g)        dgamma = sum(g * (x - running_mean)) * inv_std        dx = gamma * inv_std * g
//
// backward_running_kernel reads x and dy once and writes dx, 3 * sizeof(T) bytes per element, the floor. It leaves
// partials of the two sums, which backward_running_finish_kernel reduces. Plan guarantees that the chunks cover the
// tensor, that the alignment of the data suits Iter, and that the workspace has room for the partials.
#pragma once
#include "../common/reduce.cuh"
#include "gradient.cuh"

// Two sums of a channel: sum(g), sum(g * (x - running_mean)).
using RunningSums = Sums<2>;

template <class Iter>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    backward_running_kernel(const __grid_constant__ BnBackward args) {
    const BnTiling& t = args.tiling;
    const TileCoord coord = tile_coord(t, blockIdx.x);
    const ChannelThreads threads(t.tile_channels);
    const SharedStorage smem = SharedStorage::layout<Iter>(t);
    const Iter iter(t, coord);
    const Gradient<Iter> gradient(args);
    begin_dependent_launch();
    const RunningInputs inputs(args, coord.tile);
    gradient.prefetch(iter, false);
    inputs.write_affines(t, args.statistics.eps, smem);
    const Affines<Iter> affines(iter, t, smem);
    SumsAccumulator<2, Iter::kAccums> accums;
    for_each_vector(iter, gradient, SmemTile<Iter>::empty(), [&](const auto& batch, int i, uint32_t) {
        float x[Iter::kVec], g[Iter::kVec];
        gradient.unpack(affines, batch, i, x, g);
        gradient.store_dz(batch.offset[i], g);
#pragma unroll
        for (int e = 0; e < Iter::kVec; e++) {
            const Affine& affine = affines.at(e);
            RunningSums& sum = accums.sums[e % Iter::kAccums];
            sum.of[kSumG] += g[e];
            sum.of[kSumGXmu] = fmaf(g[e], x[e] - affine.mean, sum.of[kSumGXmu]);
            x[e] = affine.scale * g[e];
        }
        gradient.store_dx(batch.offset[i], x);
    });
    const RunningSums sum = block_reduce_accums(t, iter, threads, smem, accums);
    const uint32_t channel = threads.channel(t, coord.tile);
    if (threads.rank == 0 && channel < t.channels) store_partial(args.workspace, t, coord.split, channel, sum);
}

// Writes dgamma and dbeta, (c), from the partials, with a warp per channel. Reads 16 bytes per split and channel.
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    backward_running_finish_kernel(const __grid_constant__ BnBackward args) {
    const BnTiling& t = args.tiling;
    const BnStatistics& running = args.statistics;
    const uint32_t channel = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp;
    begin_dependent_launch();
    const RunningSums sum = warp_reduce_splits<RunningSums>(args.workspace, t, channel);
    if (channel < t.channels && threadIdx.x % kWarp == 0) {
        const float inv_std = inv_std_of(running.var[channel], running.eps);
        if (args.dgamma != nullptr) args.dgamma[channel] = sum.of[kSumGXmu] * inv_std;
        if (args.dbeta != nullptr) args.dbeta[channel] = sum.of[kSumG];
    }
}

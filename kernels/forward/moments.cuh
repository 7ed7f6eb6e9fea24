// The batch's statistics:
//
//     mean = sum(x) / m        var = sum((x - mean)^2) / m
//
// moments_kernel reads a chunk of each tile once, sizeof(T) bytes per element, the floor. Under block, cluster and grid
// the team reduces and writes mean and var. Under two-pass it leaves a partial per split and channel:
// moments_finish_kernel reduces these for bn_moments, and normalize_kernel in a training forward. Plan guarantees that
// the chunks cover the tensor, that the alignment of x suits Iter, and that the workspace has room for the partials.
#pragma once
#include "../common/team.cuh"
#include "reduce_moments.cuh"

// mean, var: (c).
__device__ __forceinline__ void store_moments(const Moments& moments, uint32_t channel, float* mean, float* var) {
    mean[channel] = moments.mean;
    var[channel] = moments.m2 / moments.n;
}

template <class Iter>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    moments_kernel(const __grid_constant__ BnMoments args) {
    const BnTiling& t = args.tiling;
    const auto* const x = static_cast<const typename Iter::Data*>(args.x); // (n, c, s)
    const ChannelThreads threads(t.tile_channels);
    const SharedStorage smem = SharedStorage::layout<Iter>(t);
    Team<kAnyStrategy> team(t, args.workspace, smem);
    begin_dependent_launch();
    for (uint32_t tile = team.first_tile(); tile < t.tiles; tile += t.teams) {
        const bool leaves_partial = t.strategy == BN_TWO_PASS;
        const TileCoord coord = leaves_partial ? tile_coord(t, blockIdx.x) : team.coord(tile);
        const Moments own = reduce_moments(Iter(t, coord), t, threads, smem, x, SmemTile<Iter>::empty());
        const uint32_t channel = threads.channel(t, coord.tile);
        const bool is_writer = threads.rank == 0 && channel < t.channels;
        if (leaves_partial) {
            if (is_writer) store_partial(args.workspace, t, coord.split, channel, own);
        } else {
            // Behind the walk, which has no register left for it with strided access to half types.
            if (tile == team.first_tile()) team.begin();
            const Moments moments = team.reduce(threads, own);
            team.arrive_exit();
            if (is_writer && coord.split == 0) store_moments(moments, channel, args.mean, args.var);
        }
    }
    team.wait_exit();
}

// Writes mean and var from the partials, with a warp per channel. Reads 16 bytes per split and channel.
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    moments_finish_kernel(const __grid_constant__ BnMoments args) {
    const uint32_t channel = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp;
    begin_dependent_launch();
    const Moments moments = warp_reduce_splits<Moments>(args.workspace, args.tiling, channel);
    if (channel < args.tiling.channels && threadIdx.x % kWarp == 0)
        store_moments(moments, channel, args.mean, args.var);
}

// The backward pass in two passes over x and dy, as in batch.cuh; three where v needs the mean's residual.
#pragma once
#include "batch.cuh"

// The partials of mean_residual_kernel, behind those of backward_reduce_kernel: (splits, channels) each.
__device__ __forceinline__ BnWorkspace mean_residual_partials(const BnWorkspace& workspace, const BnTiling& t) {
    BnWorkspace behind = workspace;
    behind.partials = static_cast<uint4*>(workspace.partials) + static_cast<int64_t>(t.splits) * t.channels;
    return behind;
}

// The partials of sum(x - saved_mean), for tiles that need the mean residual. Runs before the first pass, only where v
// is computed again. Reads x: sizeof(T) bytes per element of these.
template <class Iter>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    mean_residual_kernel(const __grid_constant__ BnBackward args) {
    const BnTiling& t = args.tiling;
    const TileCoord coord = tile_coord(t, blockIdx.x);
    const ChannelThreads threads(t.tile_channels);
    const SharedStorage smem = SharedStorage::layout<Iter>(t);
    begin_dependent_launch();
    const SavedInputs inputs(args, coord, threads);
    if (!tile_needs_mean_residual(inputs)) return;
    write_saved_affines(args, threads, inputs, 0.0f, smem);
    const Iter iter(t, coord);
    const Affines<Iter> affines(iter, t, smem);
    const Sums<1> sum = reduce_xmu(args, iter, threads, smem, affines, SmemTile<Iter>::empty());
    if (threads.rank == 0 && inputs.channel < t.channels)
        store_partial(mean_residual_partials(args.workspace, t), t, coord.split, inputs.channel, sum);
}

// The first pass: the partials of the three sums. Reads x and dy: 2 * sizeof(T) bytes per element.
template <class Iter>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    backward_reduce_kernel(const __grid_constant__ BnBackward args) {
    const BnTiling& t = args.tiling;
    const TileCoord coord = tile_coord(t, blockIdx.x);
    const ChannelThreads threads(t.tile_channels);
    const SharedStorage smem = SharedStorage::layout<Iter>(t);
    const Iter iter(t, coord);
    begin_dependent_launch();
    const SavedInputs inputs(args, coord, threads);
    const Gradient<Iter> gradient(args);
    gradient.prefetch(iter, false);
    float mean_lo = 0.0f;
    if (recomputes_v(args.epilogue) && tile_needs_mean_residual(inputs)) {
        const BnWorkspace partials = mean_residual_partials(args.workspace, t);
        const Sums<1> sum = block_reduce_splits<Sums<1>>(partials, t, threads, inputs.channel, smem);
        mean_lo = mean_residual(inputs.mean, sum.of[0], t.m);
    }
    write_saved_affines(args, threads, inputs, mean_lo, smem);
    const Affines<Iter> affines(iter, t, smem);
    const SmemTile<Iter> empty = SmemTile<Iter>::empty();
    const GradientSums sum = reduce_gradients(t, iter, threads, smem, affines, gradient, empty, empty, empty);
    if (threads.rank == 0 && inputs.channel < t.channels)
        store_partial(args.workspace, t, coord.split, inputs.channel, sum);
}

// The second pass, from the end to the front. Reads x and dy, writes dx: 3 * sizeof(T) bytes per element.
template <class Iter>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    backward_elemt_kernel(const __grid_constant__ BnBackward args) {
    const BnTiling& t = args.tiling;
    const TileCoord coord = tile_coord(t, gridDim.x - 1 - blockIdx.x);
    const ChannelThreads threads(t.tile_channels);
    const SharedStorage smem = SharedStorage::layout<Iter>(t);
    const Iter iter(t, coord);
    begin_dependent_launch();
    const SavedInputs inputs(args, coord, threads);
    const Gradient<Iter> gradient(args);
    if (gradient.writes()) gradient.prefetch(iter, true);
    const bool needs_mean_lo = recomputes_v(args.epilogue) && tile_needs_mean_residual(inputs);
    const GradientSums sum = block_reduce_splits<GradientSums>(args.workspace, t, threads, inputs.channel, smem);
    const float mean_lo = write_parameter_gradients(args, coord, threads, inputs.mean, inputs.inv_std, sum, smem);
    __syncthreads();
    const ThreadCoeffs<Iter, DxCoeffs> dx_coeffs(iter, t, smem);
    __syncthreads();
    // v is that of the first pass, which knew mean_lo only where the tile needs it.
    write_saved_affines(args, threads, inputs, needs_mean_lo ? mean_lo : 0.0f, smem);
    const Affines<Iter> affines(iter, t, smem);
    const SmemTile<Iter> empty = SmemTile<Iter>::empty();
    write_dx(iter, affines, dx_coeffs, gradient, empty, empty);
}

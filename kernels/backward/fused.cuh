// The backward pass with tiles of x and g (or dy) in shared memory, as in batch.cuh.
#pragma once
#include "../common/team.cuh"
#include "batch.cuh"

template <class Iter, int kStrategy>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    backward_fused_kernel(const __grid_constant__ BnBackward args) {
    if (!has_strategy(kStrategy)) return;
    const BnTiling& t = args.tiling;
    const ChannelThreads threads(t.tile_channels);
    const SharedStorage smem = SharedStorage::layout<Iter>(t);
    const Gradient<Iter> gradient(args);
    const SmemTile<Iter> smem_x = SmemTile<Iter>::in(smem, t.smem_iters);
    const SmemTile<Iter> smem_g = smem_x.next();
    Team<kStrategy> team(t, args.workspace, smem);
    begin_dependent_launch();
    team.begin();
    for (uint32_t tile = team.first_tile(); tile < t.tiles; tile += t.teams) {
        const TileCoord coord = team.coord(tile);
        const Iter iter(t, coord);
        const SavedInputs inputs(args, coord, threads);
        gradient.prefetch(iter, false);
        // v of such a tile takes one more walk over x, on chip as far as it fits.
        const bool needs_mean_lo = recomputes_v(args.epilogue) && tile_needs_mean_residual(inputs);
        write_saved_affines(args, threads, inputs, 0.0f, smem);
        Affines<Iter> affines(iter, t, smem);
        if (needs_mean_lo) {
            const Sums<1> sum = team.reduce(threads, reduce_xmu(args, iter, threads, smem, affines, smem_x));
            write_saved_affines(args, threads, inputs, mean_residual(inputs.mean, sum.of[0], t.m), smem);
            affines = Affines<Iter>(iter, t, smem);
        }
        const SmemTile<Iter> known_x = needs_mean_lo ? smem_x : SmemTile<Iter>::empty();
        const GradientSums sum = team.reduce(
            threads, reduce_gradients(t, iter, threads, smem, affines, gradient, known_x, smem_x, smem_g));
        team.arrive_exit();
        Affine saved = {0.0f, 0.0f, 0.0f, 0.0f}; // the writer reads it back: in registers it would last through the walk
        if (threads.rank == 0 && threads.tile_channel < t.tile_channels)
            saved = smem.coeffs<Affine>(threads.tile_channel);
        write_parameter_gradients(args, coord, threads, saved.mean, saved.inv_std, sum, smem);
        __syncthreads();
        const ThreadCoeffs<Iter, DxCoeffs> dx_coeffs(iter, t, smem);
        // The iterator is made again: kept through the walk, it would take registers that the walk needs.
        write_dx(Iter(t, coord), affines, dx_coeffs, gradient, smem_x, smem_g);
        if (tile + t.teams < t.tiles) __syncthreads(); // the next tile's affines take the place of the DxCoeffs
    }
    team.wait_exit();
}

// The forward pass with running statistics:
//
//     y = epilogue((x - running_mean) / sqrt(running_var + eps) * gamma + beta)
//
// A CTA owns a chunk of a tile. Reads x (and z) once, writes y (and a bit of mask): 2 * sizeof(T) bytes per element,
// the floor. Plan guarantees that the chunks cover the tensor, and that the alignment of the data suits Iter.
#pragma once
#include "normalize.cuh"

template <class Iter>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS) infer_kernel(const __grid_constant__ BnInfer args) {
    const BnTiling& t = args.tiling;
    const TileCoord coord = tile_coord(t, blockIdx.x);
    const Iter iter(t, coord);
    const SharedStorage smem = SharedStorage::layout<Iter>(t);
    begin_dependent_launch();
    const RunningInputs inputs(args, coord.tile);
    normalize_reverse(iter, static_cast<const typename Iter::Data*>(args.x), SmemTile<Iter>::empty(),
                      Output<Iter>(args), [&] {
                          inputs.write_affines(t, args.statistics.eps, smem);
                          return Affines<Iter>(iter, t, smem);
                      });
}

// The forward pass with the running statistics:
//
//     y = epilogue((x - running_mean) / sqrt(running_var + eps) * gamma + beta)
//
// A CTA takes a chunk of a strip. Reads x (and z) once, writes y (and an eighth of a byte of mask): 2X in all, which is
// the floor. Plan guarantees that the chunks of a strip cover it, and that Owner suits the alignment.
#pragma once
#include "../common/reduce.cuh"
#include "normalize.cuh"

template <class Owner>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS) infer_kernel(const __grid_constant__ BnInfer args) {
    const BnTiling& t = args.tiling;
    const Part part = part_of(t, blockIdx.x);
    const Owner owner(t, part);
    const Shared shared = Shared::carve<Owner>(t);
    share_running_scales(args, part.strip, shared.channels);
    const Scales<Owner> scales(owner, t, shared.channels);
    normalize_backwards(owner, static_cast<const typename Owner::Data*>(args.x), Kept<Owner>::nothing(), scales,
                        Output<Owner>(args));
}

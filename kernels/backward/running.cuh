// The backward pass through running statistics, which are constants:
//
//     dbeta  = sum(g)        dgamma = sum(g * (x - running_mean)) * inv_std        dx = gamma * inv_std * g
//
// One walk: reads x and dy once, writes dx, and leaves partials of the two sums: 3X, the floor. A second launch merges
// the partials.
#pragma once
#include "../common/reduce.cuh"
#include "gradient.cuh"

// Two sums of a channel: sum(g), sum(g * (x - running_mean)).
using RunningSums = Sums<2>;

template <class Owner>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    backward_running_kernel(const __grid_constant__ BnBackward args) {
    const BnTiling& t = args.tiling;
    const Part part = part_of(t, blockIdx.x);
    const Group group(t.strip_channels);
    const Shared shared = Shared::carve<Owner>(t);
    share_running_scales(args, part.strip, shared.channels);
    const Owner owner(t, part);
    const Scales<Owner> scales(owner, t, shared.channels);
    const Gradient<Owner> gradient(args);
    RunningSums sums[Owner::kLanes];
#pragma unroll
    for (int lane = 0; lane < Owner::kLanes; lane++) sums[lane] = RunningSums::none();
    walk_forwards(owner, gradient, Kept<Owner>::nothing(), [&](const auto& batch, int i, uint32_t) {
        float x[Owner::kVec], g[Owner::kVec];
        gradient.masked(scales, batch, i, x, g);
        gradient.store_dz(batch.offset[i], g);
#pragma unroll
        for (int e = 0; e < Owner::kVec; e++) {
            const Scale& scale = scales.of[e % Owner::kLanes];
            RunningSums& sum = sums[e % Owner::kLanes];
            sum.of[0] += g[e];
            sum.of[1] = fmaf(g[e], x[e] - scale.hi, sum.of[1]);
            x[e] = scale.scale * g[e];
        }
        gradient.store_dx(batch.offset[i], x);
    });
    const RunningSums sum = merge_threads<Owner, RunningSums>(t, group, shared, [&](int lane) { return sums[lane]; });
    const uint32_t channel = group.channel(t, part.strip);
    if (group.rank == 0 && channel < t.channels) store_partial(args.workspace, t, part.split, channel, sum);
}

// dgamma and dbeta out of the partials, a warp for each channel.
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    backward_running_finish_kernel(const __grid_constant__ BnBackward args) {
    const BnTiling& t = args.tiling;
    const uint32_t channel = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp;
    const RunningSums sum = merge_splits<RunningSums>(args.workspace, t, channel);
    if (channel < t.channels && threadIdx.x % kWarp == 0) {
        if (args.dgamma != nullptr) args.dgamma[channel] = sum.of[1] * inv_std_of(args.statistics.var[channel], args.statistics.eps);
        if (args.dbeta != nullptr) args.dbeta[channel] = sum.of[0];
    }
}

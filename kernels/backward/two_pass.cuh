// The backward pass of strips that nobody holds, as backward.cuh says it.
#pragma once
#include "batch.cuh"

// The partials of center_kernel lie behind those of sums_kernel.
__device__ __forceinline__ BnWorkspace behind(const BnWorkspace& workspace, const BnTiling& t) {
    BnWorkspace second = workspace;
    second.partials = static_cast<uint4*>(workspace.partials) + static_cast<int64_t>(t.splits) * t.channels;
    return second;
}

// With relu, before the first pass: the partials of sum(x - saved_mean), for strips that are far.
template <class Owner>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    center_kernel(const __grid_constant__ BnBackward args) {
    const BnTiling& t = args.tiling;
    const Part part = part_of(t, blockIdx.x);
    const Group group(t.strip_channels);
    const Shared shared = Shared::carve<Owner>(t);
    if (!is_far_strip(args, part, shared)) return;
    share_scales<Owner>(args, part, group, 0.0f, shared);
    const Owner owner(t, part);
    const Scales<Owner> scales(owner, t, shared.channels);
    const Sums<1> sum = sum_xmu(args, owner, group, shared, scales, Kept<Owner>::nothing());
    const uint32_t channel = group.channel(t, part.strip);
    if (group.rank == 0 && channel < t.channels) store_partial(behind(args.workspace, t), t, part.split, channel, sum);
}

// The first pass: the partials of the three sums.
template <class Owner>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS) sums_kernel(const __grid_constant__ BnBackward args) {
    const BnTiling& t = args.tiling;
    const Part part = part_of(t, blockIdx.x);
    const Group group(t.strip_channels);
    const Shared shared = Shared::carve<Owner>(t);
    const uint32_t channel = group.channel(t, part.strip);
    float rest = 0.0f;
    if (recomputes_v(args.epilogue) && is_far_strip(args, part, shared)) {
        const BnWorkspace centers = behind(args.workspace, t);
        const Sums<1> sum = merge_group<Sums<1>>(group, channel < t.channels ? t.splits : 0, shared, [&](uint32_t s) {
            return load_partial<Sums<1>>(centers, t, s, channel);
        });
        if (channel < t.channels) rest = rest_of_mean(args.statistics.mean[channel], sum.of[0], t.m);
    }
    share_scales<Owner>(args, part, group, rest, shared);
    const Owner owner(t, part);
    const Scales<Owner> scales(owner, t, shared.channels);
    const Kept<Owner> nothing = Kept<Owner>::nothing();
    const GradientSums sum =
        sum_gradients(t, owner, group, shared, scales, Gradient<Owner>(args), nothing, nothing, nothing);
    if (group.rank == 0 && channel < t.channels) store_partial(args.workspace, t, part.split, channel, sum);
}

// The second pass, from the end to the front.
template <class Owner>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS) apply_kernel(const __grid_constant__ BnBackward args) {
    const BnTiling& t = args.tiling;
    const Part part = part_of(t, gridDim.x - 1 - blockIdx.x);
    const Group group(t.strip_channels);
    const Shared shared = Shared::carve<Owner>(t);
    const uint32_t channel = group.channel(t, part.strip);
    const bool is_far = recomputes_v(args.epilogue) && is_far_strip(args, part, shared);
    const GradientSums sum =
        merge_group<GradientSums>(group, channel < t.channels ? t.splits : 0, shared, [&](uint32_t split) {
            return load_partial<GradientSums>(args.workspace, t, split, channel);
        });
    const float lo = finish_gradients(args, part, group, sum, shared);
    __syncthreads();
    const Owner owner(t, part);
    const Slopes<Owner> slopes(owner, t, shared.channels);
    __syncthreads();
    // The mask is that of the first pass, which knew lo only where the strip is far.
    share_scales<Owner>(args, part, group, is_far ? lo : 0.0f, shared);
    const Scales<Owner> scales(owner, t, shared.channels);
    const Kept<Owner> nothing = Kept<Owner>::nothing();
    apply_gradients(owner, scales, slopes, Gradient<Owner>(args), nothing, nothing);
}

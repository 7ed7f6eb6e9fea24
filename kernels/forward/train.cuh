// The forward pass with the batch's statistics:
//
//     mean = sum(x) / m        var = sum((x - mean)^2) / m        inv_std = 1 / sqrt(var + eps)
//     y    = epilogue((x - mean) * inv_std * gamma + beta)
//     running <- keep * running + momentum * batch
//
// train_held_kernel    block, cluster, grid: a team holds a strip in shared memory: reads x once, writes y: 2X, the floor.
//                      What a grid cannot hold is read again.
// train_second_kernel  two_read: after moments_kernel has left partials it merges them, reads x from its end and writes
//                      y: 3X. Every CTA merges the partials of its strip for itself, so that no third launch is needed.
//
// In both the CTA of a strip's first split writes what is kept of its channels, and the last of these to finish counts the
// batch, when nobody reads the counter any more.
#pragma once
#include "../common/team.cuh"
#include "moments.cuh"
#include "normalize.cuh"

// One batch more; a count that no training reaches stays where it is.
__device__ __forceinline__ int64_t counted(int64_t batches) { return batches == INT64_MAX ? batches : batches + 1; }

// What a training forward does once a channel's moments are known. `num_batches_tracked` counts this batch already.
__device__ __forceinline__ float finish_channel(const BnTrain& args, uint32_t channel, const Moments& moments,
                                                float var, int64_t num_batches_tracked) {
    const float inv_std = inv_std_of(var, args.eps);
    args.saved_mean[channel] = moments.hi;
    args.saved_inv_std[channel] = inv_std;
    const BnRunning& running = args.running;
    if (running.mean == nullptr) return inv_std;
    const bool is_infinite = !isfinite(moments.hi);
    if (running.skip_non_finite != 0 && (is_infinite || !isfinite(var))) return inv_std;
    float keep = running.keep, momentum = running.momentum;
    if (running.cumulative != 0) {
        const float count = static_cast<float>(num_batches_tracked > 1 ? num_batches_tracked : 1);
        momentum = 1.0f / count;
        keep = (count - 1.0f) / count;
    }
    // With weight 1 the old value is not read, and with weight 0 the batch's is not: a NaN in it must not survive.
    if (momentum == 0.0f) return inv_std;
    const float old_mean = keep == 0.0f ? 0.0f : running.mean[channel];
    const float old_var = keep == 0.0f ? 0.0f : running.var[channel];
    // The small terms first: two roundings of the result's size. An infinite mean has no low half.
    const float lo = is_infinite ? 0.0f : moments.lo;
    running.mean[channel] = fmaf(momentum, moments.hi, fmaf(keep, old_mean, momentum * lo));
    running.var[channel] = fmaf(momentum, var * running.correction, keep * old_var);
    return inv_std;
}

// From the moments of a strip's channels, one a group: the statistics that are kept, and the scales in shared memory.
__device__ __forceinline__ void finish_strip(const BnTrain& args, Part part, const Group& group, const Moments& moments,
                                             const Shared& shared) {
    const BnTiling& t = args.tiling;
    const bool counts = args.running.num_batches_tracked != nullptr;
    const uint32_t channel = group.channel(t, part.strip);
    if (group.rank == 0 && group.strip_channel < t.strip_channels) {
        Scale scale = {0.0f, 0.0f, 0.0f, 0.0f}; // a strip's last channels may not exist, but threads load theirs
        if (channel < t.channels) {
            const float var = moments.m2 / moments.n;
            float inv_std;
            if (part.split == 0) {
                const int64_t batches = counts ? counted(*args.running.num_batches_tracked) : 0;
                inv_std = finish_channel(args, channel, moments, var, batches);
            } else {
                inv_std = inv_std_of(var, args.eps);
            }
            scale = scale_of(args.gamma, args.beta, channel, moments.hi, moments.lo, inv_std);
        }
        reinterpret_cast<Scale*>(shared.channels)[group.strip_channel] = scale;
    }
    __syncthreads();
    if (counts && part.split == 0 && threadIdx.x == 0 && last_ticket(args.workspace.ticket, t.strips))
        *args.running.num_batches_tracked = counted(*args.running.num_batches_tracked);
}

// block, cluster, grid: the teams take the strips in turn.
template <class Owner>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    train_held_kernel(const __grid_constant__ BnTrain args) {
    const BnTiling& t = args.tiling;
    const auto* const x = static_cast<const typename Owner::Data*>(args.x);
    const Group group(t.strip_channels);
    const Shared shared = Shared::carve<Owner>(t);
    const Kept<Owner> kept = Kept<Owner>::in(shared.strip, t.held_steps);
    const Output<Owner> output(args);
    Team team(t, args.workspace, shared);
    for (uint32_t strip = team.first_strip(); strip < t.strips; strip += t.teams) {
        const Part part = team.part(strip);
        const Owner owner(t, part);
        const Moments moments = team.merged(group, stream_moments(owner, t, group, shared, x, kept));
        finish_strip(args, part, group, moments, shared);
        const Scales<Owner> scales(owner, t, shared.channels);
        normalize_backwards(owner, x, kept, scales, output);
    }
    team.leave();
}

// two_read, second pass.
template <class Owner>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    train_second_kernel(const __grid_constant__ BnTrain args) {
    const BnTiling& t = args.tiling;
    const Part part = part_of(t, gridDim.x - 1 - blockIdx.x); // the last chunks were read last: they go first
    const Owner owner(t, part);
    const Group group(t.strip_channels);
    const Shared shared = Shared::carve<Owner>(t);
    const uint32_t channel = group.channel(t, part.strip);
    const Moments moments =
        merge_group<Moments>(group, channel < t.channels ? t.splits : 0, shared, [&](uint32_t split) {
            return load_partial<Moments>(args.workspace, t, split, channel);
        });
    finish_strip(args, part, group, moments, shared);
    const Scales<Owner> scales(owner, t, shared.channels);
    normalize_backwards(owner, static_cast<const typename Owner::Data*>(args.x), Kept<Owner>::nothing(), scales,
                        Output<Owner>(args));
}

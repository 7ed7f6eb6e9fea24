// The backward pass of strips that a team holds on chip, as backward.cuh says it: x and g in shared memory.
#pragma once
#include "../common/team.cuh"
#include "batch.cuh"

template <class Owner>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    backward_held_kernel(const __grid_constant__ BnBackward args) {
    const BnTiling& t = args.tiling;
    const Group group(t.strip_channels);
    const Shared shared = Shared::carve<Owner>(t);
    const Gradient<Owner> gradient(args);
    const Kept<Owner> kept_x = Kept<Owner>::in(shared.strip, t.held_steps);
    const Kept<Owner> kept_g = kept_x.next();
    Team team(t, args.workspace, shared);
    for (uint32_t strip = team.first_strip(); strip < t.strips; strip += t.teams) {
        const Part part = team.part(strip);
        const Owner owner(t, part);
        share_scales<Owner>(args, part, group, 0.0f, shared);
        Scales<Owner> scales(owner, t, shared.channels);
        const bool is_far = recomputes_v(args.epilogue) && is_far_strip(args, part, shared);
        if (is_far) {
            const Sums<1> center = team.merged(group, sum_xmu(args, owner, group, shared, scales, kept_x));
            const uint32_t channel = group.channel(t, strip);
            const float rest =
                channel < t.channels ? rest_of_mean(args.statistics.mean[channel], center.of[0], t.m) : 0.0f;
            share_scales<Owner>(args, part, group, rest, shared);
            scales = Scales<Owner>(owner, t, shared.channels);
        }
        const Kept<Owner> known_x = is_far ? kept_x : Kept<Owner>::nothing();
        const GradientSums sum = team.merged(
            group, sum_gradients(t, owner, group, shared, scales, gradient, known_x, kept_x, kept_g));
        finish_gradients(args, part, group, sum, shared);
        __syncthreads();
        const Slopes<Owner> slopes(owner, t, shared.channels);
        apply_gradients(owner, scales, slopes, gradient, kept_x, kept_g);
        __syncthreads(); // the next strip's scales go where the slopes were
    }
    team.leave();
}

// The backward pass of a strip that is held on chip, as backward.cuh says it: x and g in shared memory.
#pragma once
#include "backward.cuh"

template <class Owner>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    backward_block_kernel(const __grid_constant__ BnBackward args) {
    using V = Vector<typename Owner::Data, Owner::kVec>;
    using Raw = typename V::Raw;
    const BnTiling& t = args.tiling;
    const Part part = part_of(t, blockIdx.x);
    const Group group(t);
    const Shared shared = Shared::carve<Owner>(t);
    const Gradient<Owner> gradient(args);
    const uint32_t channel = group.channel(t, part);
    Owner owner(t, part);
    const uint32_t count = owner.valid_steps();
    // Each thread keeps to the vectors that it loaded itself: x in the first half of the strip, g in the second.
    Raw* const strip_x = reinterpret_cast<Raw*>(shared.strip) + threadIdx.x;
    Raw* const strip_g = strip_x + static_cast<int64_t>(owner.steps) * blockDim.x;

    share_scales<Owner>(args, part, group, 0.0f, shared);
    Scales<Owner> scales(owner, t, shared.channels);
    GradientSums sums[Owner::kLanes];
#pragma unroll
    for (int lane = 0; lane < Owner::kLanes; lane++) sums[lane] = GradientSums::none();

    // Once from memory. Where relu computes its mask, the mean comes first, and g in a second walk on chip.
    const auto add = [&](const float (&x)[Owner::kVec], const float (&g)[Owner::kVec]) {
#pragma unroll
        for (int e = 0; e < Owner::kVec; e++) {
            GradientSums& sum = sums[e % Owner::kLanes];
            const float xmu = x[e] - scales.of[e % Owner::kLanes].hi;
            sum.of[1] += g[e];
            sum.of[2] = fmaf(g[e], xmu, sum.of[2]);
        }
    };
    Owner loading = owner;
    for (uint32_t done = 0; done < count; done += kBackwardBatch) {
        GradientBatch<Owner> batch;
        gradient.load(batch, loading, done, [&] { loading.advance(); });
#pragma unroll
        for (int i = 0; i < kBackwardBatch; i++) {
            if (!batch.valid[i]) break;
            float x[Owner::kVec], g[Owner::kVec];
            V::unpack(batch.x[i], x);
            V::unpack(batch.dy[i], g);
            if (gradient.mask != nullptr) {
#pragma unroll
                for (int e = 0; e < Owner::kVec; e++) g[e] = (batch.bits[i] >> e & 1u) != 0 ? g[e] : 0.0f;
                batch.dy[i] = V::pack(g);
            }
            strip_x[(done + i) * blockDim.x] = batch.x[i];
            strip_g[(done + i) * blockDim.x] = batch.dy[i];
#pragma unroll
            for (int e = 0; e < Owner::kVec; e++)
                sums[e % Owner::kLanes].of[0] += x[e] - scales.of[e % Owner::kLanes].hi;
            if (!gradient.computes_mask) add(x, g);
        }
    }
    if (gradient.computes_mask) {
        const Sums<1> center = merge_threads<Owner, Sums<1>>(t, group, shared, [&](int lane) {
            return Sums<1>{{sums[lane].of[0]}};
        });
        const float rest =
            channel < t.channels ? rest_of_mean(args.saved_mean[channel], center.of[0], t.m) : 0.0f;
        share_scales<Owner>(args, part, group, rest, shared);
        scales = Scales<Owner>(owner, t, shared.channels);
        for (uint32_t i = 0; i < count; i++) {
            float x[Owner::kVec], g[Owner::kVec];
            V::unpack(strip_x[i * blockDim.x], x);
            V::unpack(strip_g[i * blockDim.x], g);
#pragma unroll
            for (int e = 0; e < Owner::kVec; e++)
                g[e] = rounded<typename Owner::Data>(scales.normalized(x[e], e)) <= 0.0f ? 0.0f : g[e];
            strip_g[i * blockDim.x] = V::pack(g);
            add(x, g);
        }
    }
    const GradientSums sum = merge_threads<Owner, GradientSums>(t, group, shared, [&](int lane) { return sums[lane]; });
    finish_gradients(args, part, group, sum, shared);
    __syncthreads();
    const Slopes<Owner> slopes(owner, t, shared.channels);
    for (uint32_t i = 0; i < count; i++) {
        float x[Owner::kVec], g[Owner::kVec];
        V::unpack(strip_x[i * blockDim.x], x);
        V::unpack(strip_g[i * blockDim.x], g);
        gradient.store_dz(owner.offset, g);
#pragma unroll
        for (int e = 0; e < Owner::kVec; e++) x[e] = slopes.dx(scales, x[e], g[e], e);
        gradient.store_dx(owner.offset, x);
        owner.advance();
    }
}

// The backward pass of the training forward:
//
//     g      = dy, masked by the epilogue's relu            dz = g
//     dbeta  = sum(g)
//     dgamma = sum(g * (x - mean)) * inv_std
//     dx     = gamma * inv_std * (g - dbeta/m - (x - mean) * inv_std * dgamma/m)
//
// saved_mean is rounded: what rounding left, lo = sum(x - saved_mean) / m, is found on the way and taken into account,
// unless it is more than a rounding, when saved_mean is taken as given. Everything is accumulated in f32.
//
// backward_held_kernel       block, cluster, grid: a team holds a strip of x and of g in shared memory: reads x and dy once,
//                            writes dx: 3X, the floor. What a grid cannot hold is read again.
// sums_kernel, apply_kernel  two_read: the first reads x and dy and leaves partials; the second merges them, reads both
//                            from their end and writes dx: 5X.
//
// relu's mask is computed from x, for which lo has to be known first where the mean is far from zero: such strips take one
// more walk over x before the others, from memory under two_read (center_kernel), on chip where the strip is held.
#pragma once
#include "../common/reduce.cuh"
#include "gradient.cuh"

// A mean of more sigmas than this moves relu's mask by more than other roundings do.
constexpr float kFarMean = 16.0f;

__device__ __forceinline__ bool is_far(float saved_mean, float saved_inv_std) {
    return fabsf(saved_mean) * saved_inv_std > kFarMean;
}

// What rounding left of the mean, from sum(x - saved_mean).
__device__ __forceinline__ float rest_of_mean(float saved_mean, float sum_xmu, int64_t m) {
    const float rest = sum_xmu / static_cast<float>(m);
    return fabsf(rest) <= 0x1p-23f * fabsf(saved_mean) ? rest : 0.0f;
}

// Whether any channel of the strip is far: the same answer on all threads, and in every kernel of a backward pass.
__device__ __forceinline__ bool is_far_strip(const BnBackward& args, Part part, const Shared& shared) {
    const BnTiling& t = args.tiling;
    bool mine = false;
    for (uint32_t i = threadIdx.x; i < t.strip_channels; i += blockDim.x) {
        const uint32_t channel = part.strip * t.strip_channels + i;
        if (channel < t.channels) mine = mine || is_far(args.statistics.mean[channel], args.statistics.inv_std[channel]);
    }
    uint32_t* const warps = reinterpret_cast<uint32_t*>(shared.warps);
    const bool any = __any_sync(kFullWarp, mine);
    if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = any;
    __syncthreads();
    bool far = false;
    for (uint32_t i = 0; i < blockDim.x / kWarp; i++) far = far || warps[i] != 0;
    __syncthreads();
    return far;
}

// The scales of the strip, for the mask and the sums; `rest` is what is known of the mean's rounding.
template <class Owner>
__device__ __forceinline__ void share_scales(const BnBackward& args, Part part, const Group& group, float rest,
                                             const Shared& shared) {
    const BnTiling& t = args.tiling;
    const uint32_t channel = group.channel(t, part.strip);
    if (group.rank == 0 && group.strip_channel < t.strip_channels) {
        Scale scale = {0.0f, 0.0f, 0.0f, 0.0f}; // a strip's last channels may not exist, but threads load theirs
        if (channel < t.channels) {
            scale = scale_of(args.gamma, args.beta, channel, args.statistics.mean[channel], rest,
                             args.statistics.inv_std[channel]);
        }
        reinterpret_cast<Scale*>(shared.channels)[group.strip_channel] = scale;
    }
    __syncthreads();
}

// Of one channel: sum(x - saved_mean), sum(g), sum(g * (x - saved_mean)).
using GradientSums = Sums<3>;

// The walk over x alone, for the rest of the mean: each group's channel gets sum(x - saved_mean). Keeps x.
template <class Owner>
__device__ __forceinline__ Sums<1> sum_xmu(const BnBackward& args, Owner owner, const Group& group, const Shared& shared,
                                           const Scales<Owner>& scales, const Kept<Owner>& kept_x) {
    using V = Vector<typename Owner::Data, Owner::kVec>;
    const typename Owner::Data* const x = static_cast<const typename Owner::Data*>(args.x);
    Sums<1> sums[Owner::kLanes];
#pragma unroll
    for (int lane = 0; lane < Owner::kLanes; lane++) sums[lane] = Sums<1>::none();
#pragma unroll 1
    for (uint32_t done = 0; done < owner.steps; done += kChunk) {
        typename V::Raw raw[kChunk];
        bool valid[kChunk];
#pragma unroll
        for (int i = 0; i < kChunk; i++) {
            valid[i] = owner.valid();
            raw[i] = valid[i] ? V::load(x + owner.offset * Owner::kVec) : V::zero();
            owner.advance();
        }
#pragma unroll
        for (int i = 0; i < kChunk; i++) {
            if (!valid[i]) break;
            if (kept_x.has(done + i)) kept_x.at(done + i) = raw[i];
            float v[Owner::kVec];
            V::unpack(raw[i], v);
#pragma unroll
            for (int e = 0; e < Owner::kVec; e++)
                sums[e % Owner::kLanes].of[0] += v[e] - scales.of[e % Owner::kLanes].hi;
        }
    }
    return merge_threads<Owner, Sums<1>>(args.tiling, group, shared, [&](int lane) { return sums[lane]; });
}

// The walk over x and dy: each group's channel gets its three sums. Takes x from `kept_x`, and keeps both in `keep_x` and
// `keep_g`.
template <class Owner>
__device__ __forceinline__ GradientSums sum_gradients(const BnTiling& t, const Owner& owner, const Group& group,
                                                      const Shared& shared, const Scales<Owner>& scales,
                                                      const Gradient<Owner>& gradient, const Kept<Owner>& kept_x,
                                                      const Kept<Owner>& keep_x, const Kept<Owner>& keep_g) {
    GradientSums sums[Owner::kLanes];
#pragma unroll
    for (int lane = 0; lane < Owner::kLanes; lane++) sums[lane] = GradientSums::none();
    walk_forwards(owner, gradient, kept_x, [&](const auto& batch, int i, uint32_t step) {
        float x[Owner::kVec], g[Owner::kVec];
        gradient.masked(scales, batch, i, x, g);
        if (keep_g.has(step)) {
            keep_x.at(step) = batch.x[i];
            keep_g.at(step) = gradient.packed(batch, i, g);
        }
#pragma unroll
        for (int e = 0; e < Owner::kVec; e++) {
            GradientSums& sum = sums[e % Owner::kLanes];
            const float xmu = x[e] - scales.of[e % Owner::kLanes].hi;
            sum.of[0] += xmu;
            sum.of[1] += g[e];
            sum.of[2] = fmaf(g[e], xmu, sum.of[2]);
        }
    });
    return merge_threads<Owner, GradientSums>(t, group, shared, [&](int lane) { return sums[lane]; });
}

// What dx needs of one channel beside its Scale: dx = scale * (g - mean_g - (x - mean) * slope).
struct alignas(16) Slope {
    float mean_g, slope, lo, unused;
};

// From the sums of a strip's channels, one a group: dgamma and dbeta, and the slopes in shared memory. Gives lo.
__device__ __forceinline__ float finish_gradients(const BnBackward& args, Part part, const Group& group,
                                                  const GradientSums& sum, const Shared& shared) {
    const BnTiling& t = args.tiling;
    const uint32_t channel = group.channel(t, part.strip);
    Slope slope = {0.0f, 0.0f, 0.0f, 0.0f};
    if (channel < t.channels) {
        const float inv_std = args.statistics.inv_std[channel];
        const float m = static_cast<float>(t.m);
        const float sum_dy = sum.of[1];
        slope.lo = rest_of_mean(args.statistics.mean[channel], sum.of[0], t.m);
        const float sum_dy_xmu = fmaf(-slope.lo, sum_dy, sum.of[2]);
        slope.mean_g = sum_dy / m;
        slope.slope = sum_dy_xmu * inv_std * inv_std / m;
        if (group.rank == 0 && part.split == 0) {
            if (args.dgamma != nullptr) args.dgamma[channel] = sum_dy_xmu * inv_std;
            if (args.dbeta != nullptr) args.dbeta[channel] = sum_dy;
        }
    }
    if (group.rank == 0 && group.strip_channel < t.strip_channels)
        reinterpret_cast<Slope*>(shared.channels)[group.strip_channel] = slope;
    return slope.lo;
}

// What this thread's lanes need for dx.
template <class Owner>
struct Slopes {
    Slope of[Owner::kLanes];

    __device__ __forceinline__ Slopes(const Owner& owner, const BnTiling& t, const unsigned char* shared) {
#pragma unroll
        for (int lane = 0; lane < Owner::kLanes; lane++)
            of[lane] = reinterpret_cast<const Slope*>(shared)[owner.strip_channel(t, lane)];
    }
    __device__ __forceinline__ float dx(const Scales<Owner>& scales, float x, float g, int element) const {
        const Scale& s = scales.of[element % Owner::kLanes];
        const Slope& slope = of[element % Owner::kLanes];
        return s.scale * fmaf(-((x - s.hi) - slope.lo), slope.slope, g - slope.mean_g);
    }
};

// The walk that writes dx and dz, from the end to the front.
template <class Owner>
__device__ __forceinline__ void apply_gradients(const Owner& owner, const Scales<Owner>& scales,
                                                const Slopes<Owner>& slopes, const Gradient<Owner>& gradient,
                                                const Kept<Owner>& kept_x, const Kept<Owner>& kept_g) {
    walk_backwards(owner, gradient, kept_x, kept_g, [&](const auto& batch, int i) {
        float x[Owner::kVec], g[Owner::kVec];
        gradient.masked(scales, batch, i, x, g);
        gradient.store_dz(batch.offset[i], g);
#pragma unroll
        for (int e = 0; e < Owner::kVec; e++) x[e] = slopes.dx(scales, x[e], g[e], e);
        gradient.store_dx(batch.offset[i], x);
    });
}

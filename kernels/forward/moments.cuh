// The statistics alone:
//
//     mean = sum(x) / m        var = sum((x - mean)^2) / m
//
// moments_kernel streams a part of each strip. Where a team shares the strip, it merges on the spot and writes them: reads
// x once, which is the floor. Under two_read it leaves one partial a channel and split, which moments_finish_kernel
// merges for the operation of that name; in a training forward the second pass does.
#pragma once
#include "../common/team.cuh"

__device__ __forceinline__ void store_moments(const Moments& moments, uint32_t channel, float* mean, float* var) {
    mean[channel] = moments.hi;
    var[channel] = moments.m2 / moments.n;
}

// Walks back over the values of a stream that are no numbers or too large, from behind the last, and sums them plainly. So
// a channel with an infinity is read twice, and the walk over all others takes no instruction for its sake.
template <class Owner>
__device__ __forceinline__ void mend_stream(Owner owner, const typename Owner::Data* x, Stream<Owner::kLanes>& stream) {
    using V = Vector<typename Owner::Data, Owner::kVec>;
    const float weight = 1.0f / stream.n;
    float plain_mean[Owner::kLanes] = {};
#pragma unroll 1
    while (owner.step > 0) {
        owner.retreat();
        if (!owner.valid()) continue;
        float v[Owner::kVec];
        V::unpack(V::load(x + owner.offset * Owner::kVec), v);
#pragma unroll
        for (int e = 0; e < Owner::kVec; e++)
            plain_mean[e % Owner::kLanes] = fmaf(v[e], weight, plain_mean[e % Owner::kLanes]);
    }
#pragma unroll
    for (int lane = 0; lane < Owner::kLanes; lane++) stream.mend(lane, plain_mean[lane]);
}

// Reads a CTA's part as a stream, keeps what is to be kept, and gives every group its channel's moments.
template <class Owner>
__device__ __forceinline__ Moments stream_moments(Owner owner, const BnTiling& t, const Group& group,
                                                  const Shared& shared, const typename Owner::Data* x,
                                                  const Kept<Owner>& kept) {
    using V = Vector<typename Owner::Data, Owner::kVec>;
    Stream<Owner::kLanes> stream;
#pragma unroll 1
    for (uint32_t done = 0; done < owner.steps; done += kChunk) {
        typename V::Raw raw[kChunk];
        int count = 0;
#pragma unroll
        for (int i = 0; i < kChunk; i++) {
            raw[i] = V::zero();
            if (owner.valid()) {
                raw[i] = V::load(x + owner.offset * Owner::kVec);
                count++;
            }
            owner.advance();
        }
        if (count == 0) break;
#pragma unroll
        for (int i = 0; i < kChunk; i++) {
            if (i < count && kept.has(done + i)) kept.at(done + i) = raw[i];
        }
        float v[kChunk][Owner::kVec];
#pragma unroll
        for (int i = 0; i < kChunk; i++) V::unpack(raw[i], v[i]);
        if (done == 0) {
#pragma unroll
            for (int lane = 0; lane < Owner::kLanes; lane++) stream.pivot[lane] = v[0][lane];
        }
        const float values = static_cast<float>(count);
        float before = stream.n;
        float weight = values / (before + values);
#pragma unroll
        for (int e = 0; e < Owner::kVec; e++) {
            float chunk[kChunk];
#pragma unroll
            for (int i = 0; i < kChunk; i++) chunk[i] = v[i][e];
            if (count == kChunk) {
                stream.template take<true>(e % Owner::kLanes, chunk, count, before, weight);
            } else {
                stream.template take<false>(e % Owner::kLanes, chunk, count, before, weight);
            }
            if (Owner::kLanes == 1 && e + 1 < Owner::kVec) {
                before += values;
                weight = values / (before + values);
            }
        }
        stream.n = before + values;
    }
    if (stream.is_beyond()) mend_stream(owner, x, stream);
    return merge_threads<Owner, Moments>(t, group, shared, [&](int lane) { return stream.moments(lane); });
}

// Reads x once; the rest is small.
template <class Owner>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    moments_kernel(const __grid_constant__ BnMoments args) {
    const BnTiling& t = args.tiling;
    const auto* const x = static_cast<const typename Owner::Data*>(args.x);
    const Group group(t.strip_channels);
    const Shared shared = Shared::carve<Owner>(t);
    Team team(t, args.workspace, shared);
    for (uint32_t i = team.first_strip(); i < t.strips; i += t.teams) {
        const bool leaves_partial = t.strategy == BN_TWO_READ;
        const Part part = leaves_partial ? part_of(t, blockIdx.x) : team.part(i);
        const Moments own = stream_moments(Owner(t, part), t, group, shared, x, Kept<Owner>::nothing());
        const uint32_t channel = group.channel(t, part.strip);
        const bool is_writer = group.rank == 0 && channel < t.channels;
        if (leaves_partial) {
            if (is_writer) store_partial(args.workspace, t, part.split, channel, own);
        } else {
            const Moments moments = team.merged(group, own);
            if (is_writer && part.split == 0) store_moments(moments, channel, args.mean, args.var);
        }
    }
    team.leave();
}

// Writes mean and variance out of the partials, with a warp for each channel.
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    moments_finish_kernel(const __grid_constant__ BnMoments args) {
    const uint32_t channel = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp;
    const Moments moments = merge_splits<Moments>(args.workspace, args.tiling, channel);
    if (channel < args.tiling.channels && threadIdx.x % kWarp == 0)
        store_moments(moments, channel, args.mean, args.var);
}

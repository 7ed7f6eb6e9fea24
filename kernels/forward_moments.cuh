// The statistics alone:
//
//     mean = sum(x) / m        var = sum((x - mean)^2) / m
//
// moments_kernel streams a chunk of each strip and leaves one partial a channel and split: reads x once, which is the
// floor. moments_finish_kernel merges them for the operation of that name; in a training forward the second pass does.
#pragma once
#include "reduce.cuh"

// Reads a CTA's chunk as a stream and gives every group its channel's moments.
template <class Owner>
__device__ __forceinline__ Moments stream_moments(Owner owner, const BnTiling& t, const Group& group,
                                                  const Shared& shared, const typename Owner::Data* x) {
    using V = Vector<typename Owner::Data, Owner::kVec>;
    Stream<Owner::kLanes> stream;
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
    return merge_threads<Owner, Moments>(t, group, shared, [&](int lane) { return stream.moments(lane); });
}

// Writes the partials of mean and variance of this CTA's chunk. Reads x once; the rest is small.
template <class Owner>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    moments_kernel(const BnTiling t, const void* x, const BnWorkspace workspace) {
    const Part part = part_of(t, blockIdx.x);
    const Group group(t);
    const Shared shared = Shared::carve<Owner>(t);
    const Moments moments =
        stream_moments(Owner(t, part), t, group, shared, static_cast<const typename Owner::Data*>(x));
    const uint32_t channel = group.channel(t, part);
    if (group.rank == 0 && channel < t.channels) store_partial(workspace, t, part.split, channel, moments);
}

// Writes mean and variance out of the partials; with no partials NaN, the mean of nothing.
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    moments_finish_kernel(const __grid_constant__ BnMoments args) {
    const BnTiling& t = args.tiling;
    // A warp for each channel.
    const uint32_t channel = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp;
    Moments moments = Moments::none();
    if (channel < t.channels) {
        for (uint32_t split = threadIdx.x % kWarp; split < t.splits; split += kWarp)
            moments = merge(moments, load_partial<Moments>(args.workspace, t, split, channel));
    }
    for (uint32_t mask = 1; mask < kWarp; mask <<= 1) {
        const Moments other = moments.exchanged(mask);
        moments = (threadIdx.x & mask) != 0 ? merge(other, moments) : merge(moments, other);
    }
    if (channel < t.channels && threadIdx.x % kWarp == 0) {
        args.mean[channel] = moments.hi;
        args.var[channel] = moments.m2 / moments.n;
    }
}

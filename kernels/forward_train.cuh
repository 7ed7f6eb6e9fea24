// The forward pass with the batch's statistics, and those statistics alone:
//
//     mean = sum(x) / m        var = sum((x - mean)^2) / m        inv_std = 1 / sqrt(var + eps)
//     y    = epilogue((x - mean) * inv_std * gamma + beta)
//     running <- keep * running + momentum * batch
//
// block     one CTA holds a strip in shared memory: reads x once, writes y: 2X, the floor.
// two_read  moments_kernel reads x and leaves partials; train_second_kernel merges them, reads x from its end and
//           writes y: 3X. Every CTA merges the partials of its strip for itself, so that no third launch is needed.
//
// In both the CTA of a strip's first split writes what is kept of its channels, and the last CTA to finish counts the
// batch, when nobody reads the counter any more.
#pragma once
#include "forward.cuh"
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

// What a training forward does once a channel's moments are known. `num_batches_tracked` counts this batch already.
__device__ __forceinline__ float finish_channel(const BnTrain& args, uint32_t channel, const Moments& moments,
                                                float var, int64_t num_batches_tracked) {
    const float inv_std = inv_std_of(var, args.eps);
    args.saved_mean[channel] = moments.hi;
    args.saved_inv_std[channel] = inv_std;
    const BnRunning& running = args.running;
    if (running.mean == nullptr) return inv_std;
    if (running.skip_non_finite != 0 && !(isfinite(moments.hi) && isfinite(var))) return inv_std;
    float keep = running.keep, momentum = running.momentum;
    if (running.cumulative != 0) {
        const float count = static_cast<float>(num_batches_tracked > 1 ? num_batches_tracked : 1);
        momentum = 1.0f / count;
        keep = (count - 1.0f) / count;
    }
    // With weight 1 the old value is not read: a NaN in it must not survive.
    const float old_mean = keep == 0.0f ? 0.0f : running.mean[channel];
    const float old_var = keep == 0.0f ? 0.0f : running.var[channel];
    // The small terms first: two roundings of the result's size.
    running.mean[channel] = fmaf(momentum, moments.hi, fmaf(keep, old_mean, momentum * moments.lo));
    running.var[channel] = fmaf(momentum, var * running.correction, keep * old_var);
    return inv_std;
}

// From the moments of a strip's channels, one a group: the statistics that are kept, and the scales in shared memory.
__device__ __forceinline__ void finish_strip(const BnTrain& args, Part part, const Group& group, const Moments& moments,
                                             const Shared& shared) {
    const BnTiling& t = args.tiling;
    const bool counts = args.running.num_batches_tracked != nullptr;
    const uint32_t channel = group.channel(t, part);
    if (group.rank == 0 && group.strip_channel < t.strip_channels) {
        Scale scale = {0.0f, 0.0f, 0.0f, 0.0f}; // a strip's last channels may not exist, but threads load theirs
        if (channel < t.channels) {
            const float var = moments.m2 / moments.n;
            float inv_std;
            if (part.split == 0) {
                const int64_t batches = counts ? *args.running.num_batches_tracked + 1 : 0;
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
        *args.running.num_batches_tracked += 1;
}

// two_read, second pass.
template <class Owner>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    train_second_kernel(const __grid_constant__ BnTrain args) {
    const BnTiling& t = args.tiling;
    const Part part = part_of(t, gridDim.x - 1 - blockIdx.x); // the last chunks were read last: they go first
    const Owner owner(t, part);
    const Group group(t);
    const Shared shared = Shared::carve<Owner>(t);
    const uint32_t channel = group.channel(t, part);
    const Moments moments =
        merge_group<Moments>(group, channel < t.channels ? t.splits : 0, shared, [&](uint32_t split) {
            return load_partial<Moments>(args.workspace, t, split, channel);
        });
    finish_strip(args, part, group, moments, shared);
    const Scales<Owner> scales(owner, t, shared.channels);
    normalize_backwards(owner, static_cast<const typename Owner::Data*>(args.x), scales, Output<Owner>(args));
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

// Vectors in flight while a strip is loaded.
constexpr int kLoadBatch = 8;

// block: the strip is in shared memory, where each thread keeps to the vectors that it loaded itself.
template <class Owner>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS) train_block_kernel(const __grid_constant__ BnTrain args) {
    using T = typename Owner::Data;
    using V = Vector<T, Owner::kVec>;
    const BnTiling& t = args.tiling;
    const Part part = part_of(t, blockIdx.x);
    Owner owner(t, part);
    const Group group(t);
    const Shared shared = Shared::carve<Owner>(t);
    typename V::Raw* const strip = reinterpret_cast<typename V::Raw*>(shared.strip) + threadIdx.x;
    const uint32_t count = owner.valid_steps(); // vectors of this thread
    const T* const x = static_cast<const T*>(args.x);

    // Once from memory, for the means: sums about the thread's own first value, so that equal values stay exact.
    float pivot[Owner::kLanes], sum[Owner::kLanes];
#pragma unroll
    for (int lane = 0; lane < Owner::kLanes; lane++) pivot[lane] = sum[lane] = 0.0f;
    Owner loading = owner;
    for (uint32_t done = 0; done < count; done += kLoadBatch) {
        typename V::Raw raw[kLoadBatch];
#pragma unroll
        for (int i = 0; i < kLoadBatch; i++) {
            raw[i] = loading.valid() ? V::load(x + loading.offset * Owner::kVec) : V::zero();
            loading.advance();
        }
#pragma unroll
        for (int i = 0; i < kLoadBatch; i++) {
            if (done + i >= count) break;
            strip[(done + i) * blockDim.x] = raw[i];
            float v[Owner::kVec];
            V::unpack(raw[i], v);
            if (done + i == 0) {
#pragma unroll
                for (int lane = 0; lane < Owner::kLanes; lane++) pivot[lane] = v[lane];
            }
#pragma unroll
            for (int e = 0; e < Owner::kVec; e++) sum[e % Owner::kLanes] += v[e] - pivot[e % Owner::kLanes];
        }
    }
    const float values = static_cast<float>(count) * (Owner::kVec / Owner::kLanes);
    const Center center = merge_threads<Owner, Center>(t, group, shared, [&](int lane) {
        return count == 0 ? Center::none() : Center{pivot[lane] + sum[lane] / values, values};
    });

    // Once from shared memory, for the moments about them.
    float* const shifts = reinterpret_cast<float*>(shared.channels);
    if (group.rank == 0 && group.strip_channel < t.strip_channels) shifts[group.strip_channel] = center.mean;
    __syncthreads();
    Sums<2> about[Owner::kLanes];
#pragma unroll
    for (int lane = 0; lane < Owner::kLanes; lane++) {
        pivot[lane] = shifts[owner.strip_channel(t, lane)];
        about[lane] = Sums<2>::none();
    }
#pragma unroll 4
    for (uint32_t i = 0; i < count; i++) {
        float v[Owner::kVec];
        V::unpack(strip[i * blockDim.x], v);
#pragma unroll
        for (int e = 0; e < Owner::kVec; e++) {
            Sums<2>& sums = about[e % Owner::kLanes];
            const float d = v[e] - pivot[e % Owner::kLanes];
            sums.of[0] += d;
            sums.of[1] = fmaf(d, d, sums.of[1]);
        }
    }
    const Sums<2> sums = merge_threads<Owner, Sums<2>>(t, group, shared, [&](int lane) { return about[lane]; });
    const Moments moments = moments_about(center.mean, sums.of[0], sums.of[1], static_cast<float>(t.m));
    finish_strip(args, part, group, moments, shared);

    // And once more from shared memory, to normalize.
    const Scales<Owner> scales(owner, t, shared.channels);
    const Output<Owner> output(args);
    for (uint32_t done = 0; done < owner.steps; done += kForwardBatch) {
        typename V::Raw raw_z[kForwardBatch];
        int64_t offset[kForwardBatch];
#pragma unroll
        for (int i = 0; i < kForwardBatch; i++) {
            offset[i] = owner.offset;
            raw_z[i] = output.load_z(offset[i], done + i < count);
            owner.advance();
        }
#pragma unroll
        for (int i = 0; i < kForwardBatch; i++) {
            const bool valid = done + i < count;
            const typename V::Raw raw = valid ? strip[(done + i) * blockDim.x] : V::zero();
            output.store(scales, raw, raw_z[i], offset[i], valid);
        }
    }
}

// The training forward of a strip that is held on chip, as forward_train.cuh says it.
#pragma once
#include "forward_train.cuh"

// Vectors in flight while a strip is loaded.
constexpr int kLoadBatch = 8;

// block: the strip is in shared memory, where each thread keeps to the vectors that it loaded itself.
template <class Owner>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    train_block_kernel(const __grid_constant__ BnTrain args) {
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

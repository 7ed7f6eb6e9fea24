// What the forward passes have in common: the walk that normalizes.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../common/epilogue.cuh"
#include "../common/reduce.cuh"
#include "../common/tile_iterator.cuh"

// Vectors that a thread has in flight.
constexpr int kForwardBatch = 4;

// Normalizes this CTA's part, from the end to the front: what was not kept comes first, and of that what was read last,
// which is still in L2.
template <class Owner>
__device__ __forceinline__ void normalize_backwards(Owner owner, const typename Owner::Data* x,
                                                    const Kept<Owner>& kept,
                                                    const Scales<Owner>& scales, const Output<Owner>& output) {
    using V = Vector<typename Owner::Data, Owner::kVec>;
    if (owner.steps == 0) return;
    owner.to_last();
#pragma unroll 1
    for (uint32_t left = owner.steps; left > 0; left -= min(left, uint32_t{kForwardBatch})) {
        typename V::Raw raw[kForwardBatch], raw_z[kForwardBatch];
        int64_t offset[kForwardBatch];
        bool valid[kForwardBatch];
#pragma unroll
        for (int i = 0; i < kForwardBatch; i++) {
            const uint32_t step = left - 1 - i;
            offset[i] = owner.offset;
            valid[i] = owner.valid() && static_cast<uint32_t>(i) < left;
            raw[i] = V::zero();
            if (valid[i]) raw[i] = kept.has(step) ? kept.at(step) : V::load(x + offset[i] * Owner::kVec);
            raw_z[i] = output.load_z(offset[i], valid[i]);
            owner.retreat();
        }
#pragma unroll
        for (int i = 0; i < kForwardBatch; i++) output.store(scales, raw[i], raw_z[i], offset[i], valid[i]);
    }
}

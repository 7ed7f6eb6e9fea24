// What the forward passes have in common: the walk that normalizes.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "epilogue.cuh"
#include "ownership.cuh"

// Vectors that a thread has in flight.
constexpr int kForwardBatch = 4;

// Normalizes this CTA's part, from the end to the front: what was read last is still in L2.
template <class Owner>
__device__ __forceinline__ void normalize_backwards(Owner owner, const typename Owner::Data* x,
                                                    const Scales<Owner>& scales, const Output<Owner>& output) {
    using V = Vector<typename Owner::Data, Owner::kVec>;
    owner.to_last();
    for (uint32_t done = 0; done < owner.steps; done += kForwardBatch) {
        typename V::Raw raw[kForwardBatch], raw_z[kForwardBatch];
        int64_t offset[kForwardBatch];
        bool valid[kForwardBatch];
#pragma unroll
        for (int i = 0; i < kForwardBatch; i++) {
            offset[i] = owner.offset;
            valid[i] = owner.valid() && done + i < owner.steps;
            raw[i] = valid[i] ? V::load(x + offset[i] * Owner::kVec) : V::zero();
            raw_z[i] = output.load_z(offset[i], valid[i]);
            owner.retreat();
        }
#pragma unroll
        for (int i = 0; i < kForwardBatch; i++) output.store(scales, raw[i], raw_z[i], offset[i], valid[i]);
    }
}

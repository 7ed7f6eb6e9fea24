// The gradient of one vector before and behind the epilogue's relu: what all backward kernels have in common.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "epilogue.cuh"
#include "ownership.cuh"

// Vectors of x and of dy that a thread has in flight.
constexpr int kBackwardBatch = 4;

template <class Owner>
struct GradientBatch {
    using Raw = typename Vector<typename Owner::Data, Owner::kVec>::Raw;
    Raw x[kBackwardBatch], dy[kBackwardBatch];
    uint32_t bits[kBackwardBatch];
    int64_t offset[kBackwardBatch];
    bool valid[kBackwardBatch];
};

template <class Owner>
struct Gradient {
    using T = typename Owner::Data;
    using V = Vector<T, Owner::kVec>;

    const T* x;
    const T* dy;
    T* dx;
    T* dz; // null where there is no residual
    const uint32_t* mask; // null where relu's mask is computed from x, or there is none
    bool computes_mask;

    template <class Args>
    __device__ __forceinline__ explicit Gradient(const Args& args)
        : x(static_cast<const T*>(args.x)),
          dy(static_cast<const T*>(args.dy)),
          dx(static_cast<T*>(args.dx)),
          dz((args.epilogue & BN_ADD) != 0 ? static_cast<T*>(args.dz) : nullptr),
          mask(args.epilogue == BN_ADD_RELU ? args.relu_mask : nullptr),
          computes_mask(args.epilogue == BN_RELU) {}

    // Starts the loads of a batch; `step` moves the owner on.
    template <class Step>
    __device__ __forceinline__ void load(GradientBatch<Owner>& batch, Owner& owner, uint32_t done, Step step) const {
#pragma unroll
        for (int i = 0; i < kBackwardBatch; i++) {
            batch.offset[i] = owner.offset;
            batch.valid[i] = owner.valid() && done + i < owner.steps;
            batch.x[i] = batch.dy[i] = V::zero();
            batch.bits[i] = 0;
            if (batch.valid[i]) {
                batch.x[i] = V::load(x + owner.offset * Owner::kVec);
                batch.dy[i] = V::load(dy + owner.offset * Owner::kVec);
                if (mask != nullptr) batch.bits[i] = MaskBits<Owner::kVec>::load(mask, owner.offset);
            }
            step();
        }
    }

    // x and g of one vector.
    __device__ __forceinline__ void masked(const Scales<Owner>& scales, const GradientBatch<Owner>& batch, int i,
                                           float (&v)[Owner::kVec], float (&g)[Owner::kVec]) const {
        V::unpack(batch.x[i], v);
        V::unpack(batch.dy[i], g);
        if (mask != nullptr) {
#pragma unroll
            for (int e = 0; e < Owner::kVec; e++) g[e] = (batch.bits[i] >> e & 1u) != 0 ? g[e] : 0.0f;
        }
        if (computes_mask) {
            // By y as it was stored, so that a y which rounds to zero passes nothing; NaN passes.
#pragma unroll
            for (int e = 0; e < Owner::kVec; e++)
                g[e] = rounded<T>(scales.normalized(v[e], e)) <= 0.0f ? 0.0f : g[e];
        }
    }

    __device__ __forceinline__ void store_dz(int64_t offset, const float (&g)[Owner::kVec]) const {
        if (dz != nullptr) V::store(dz + offset * Owner::kVec, V::pack(g));
    }
    __device__ __forceinline__ void store_dx(int64_t offset, const float (&v)[Owner::kVec]) const {
        V::store(dx + offset * Owner::kVec, V::pack(v));
    }
};

// The gradient of one vector before and behind the epilogue's relu: what all backward kernels have in common.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../common/epilogue.cuh"
#include "../common/reduce.cuh"
#include "../common/tile_iterator.cuh"

// Vectors of x and of dy that a thread has in flight.
constexpr int kBackwardBatch = 4;

template <class Owner>
struct GradientBatch {
    typename Owner::Raw x[kBackwardBatch], dy[kBackwardBatch];
    uint32_t bits[kBackwardBatch];
    int64_t offset[kBackwardBatch];
    bool valid[kBackwardBatch];
    bool is_masked[kBackwardBatch]; // dy is g already
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
          dz(args.epilogue.has_residual != 0 ? static_cast<T*>(args.dz) : nullptr),
          mask(reads_mask(args.epilogue) ? args.relu_mask : nullptr),
          computes_mask(recomputes_v(args.epilogue)) {}

    // Starts the load of vector `i` of a batch, which is that of the owner's `step`: x and g from where they are kept.
    __device__ __forceinline__ void load(GradientBatch<Owner>& batch, int i, const Owner& owner, uint32_t step,
                                         const Kept<Owner>& kept_x, const Kept<Owner>& kept_g) const {
        const int64_t offset = owner.offset;
        batch.offset[i] = offset;
        batch.is_masked[i] = kept_g.has(step);
        batch.x[i] = batch.dy[i] = V::zero();
        batch.bits[i] = 0;
        if (!batch.valid[i]) return;
        batch.x[i] = kept_x.has(step) ? kept_x.at(step) : V::load(x + offset * Owner::kVec);
        if (batch.is_masked[i]) {
            batch.dy[i] = kept_g.at(step);
        } else {
            batch.dy[i] = V::load(dy + offset * Owner::kVec);
            if (mask != nullptr) batch.bits[i] = MaskBits<Owner::kVec>::load(mask, offset);
        }
    }

    // x and g of one vector.
    __device__ __forceinline__ void masked(const Scales<Owner>& scales, const GradientBatch<Owner>& batch, int i,
                                           float (&v)[Owner::kVec], float (&g)[Owner::kVec]) const {
        V::unpack(batch.x[i], v);
        V::unpack(batch.dy[i], g);
        if (batch.is_masked[i]) return;
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
    // g as it is kept.
    __device__ __forceinline__ typename V::Raw packed(const GradientBatch<Owner>& batch, int i,
                                                      const float (&g)[Owner::kVec]) const {
        return mask != nullptr || computes_mask ? V::pack(g) : batch.dy[i];
    }

    __device__ __forceinline__ void store_dz(int64_t offset, const float (&g)[Owner::kVec]) const {
        if (dz != nullptr) V::store(dz + offset * Owner::kVec, V::pack(g));
    }
    __device__ __forceinline__ void store_dx(int64_t offset, const float (&v)[Owner::kVec]) const {
        V::store(dx + offset * Owner::kVec, V::pack(v));
    }
};

// Calls `with(batch, i, step)` for each vector of a CTA's part, from the first step to the last.
template <class Owner, class With>
__device__ __forceinline__ void walk_forwards(Owner owner, const Gradient<Owner>& gradient, const Kept<Owner>& kept_x,
                                              With with) {
#pragma unroll 1
    for (uint32_t done = 0; done < owner.steps; done += kBackwardBatch) {
        GradientBatch<Owner> batch;
#pragma unroll
        for (int i = 0; i < kBackwardBatch; i++) {
            batch.valid[i] = owner.valid();
            gradient.load(batch, i, owner, done + i, kept_x, Kept<Owner>::nothing());
            owner.advance();
        }
#pragma unroll
        for (int i = 0; i < kBackwardBatch; i++) {
            if (!batch.valid[i]) break;
            with(batch, i, done + i);
        }
    }
}

// As walk_forwards, from the last step to the first: what was read last is still in L2.
template <class Owner, class With>
__device__ __forceinline__ void walk_backwards(Owner owner, const Gradient<Owner>& gradient, const Kept<Owner>& kept_x,
                                               const Kept<Owner>& kept_g, With with) {
    if (owner.steps == 0) return;
    owner.to_last();
#pragma unroll 1
    for (uint32_t left = owner.steps; left > 0; left -= min(left, uint32_t{kBackwardBatch})) {
        GradientBatch<Owner> batch;
#pragma unroll
        for (int i = 0; i < kBackwardBatch; i++) {
            batch.valid[i] = owner.valid() && static_cast<uint32_t>(i) < left;
            gradient.load(batch, i, owner, left - 1 - i, kept_x, kept_g);
            owner.retreat();
        }
#pragma unroll
        for (int i = 0; i < kBackwardBatch; i++) {
            if (batch.valid[i]) with(batch, i);
        }
    }
}

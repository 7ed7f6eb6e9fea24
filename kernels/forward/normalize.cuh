// The walk of the forward passes that normalizes: y = epilogue(fma(x - mean, scale, shift)).
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../common/affine.cuh"
#include "../common/epilogue.cuh"
#include "../common/smem.cuh"
#include "../common/tile_iterator.cuh"

// Vectors that a thread has in flight.
constexpr int kForwardUnroll = 4;

// The output of a forward pass: the epilogue of one vector, and the stores of y and of the mask.
template <class Iter>
struct Output {
    using T = typename Iter::Data;
    using V = Vector<T, Iter::kVec>;

    const T* z; // (n, c, s); null without a residual
    T* y; // (n, c, s)
    uint32_t* mask; // ceil(n * c * s / 32); null where it is not kept in place
    BnActivation activation;

    template <class Args>
    __device__ __forceinline__ explicit Output(const Args& args)
        : z(args.epilogue.has_residual != 0 ? static_cast<const T*>(args.z) : nullptr),
          y(static_cast<T*>(args.y)),
          mask(args.tiling.mask_in_place != 0 ? args.relu_mask : nullptr),
          activation(args.epilogue.activation) {}

    __device__ __forceinline__ typename V::Raw load_z(int64_t offset, bool valid) const {
        return z != nullptr && valid ? V::load(z + offset * Iter::kVec) : V::zero();
    }

    // Every lane of the warp calls it, for the mask's shuffle; invalid ones store nothing.
    __device__ __forceinline__ void store(const Affines<Iter>& affines, typename V::Raw raw, typename V::Raw raw_z,
                                          int64_t offset, bool valid) const {
        float v[Iter::kVec];
        V::unpack(raw, v);
#pragma unroll
        for (int e = 0; e < Iter::kVec; e++) v[e] = normalized(affines.at(e), v[e]);
        if (z != nullptr) {
            float residual[Iter::kVec];
            V::unpack(raw_z, residual);
#pragma unroll
            for (int e = 0; e < Iter::kVec; e++) v[e] += residual[e];
        }
        apply_activation(activation, v);
        const typename V::Raw packed = V::pack(v);
        if (valid) V::store(y + offset * Iter::kVec, packed);
        if (mask != nullptr) {
            uint32_t bits = 0;
            V::unpack(packed, v);
#pragma unroll
            for (int e = 0; e < Iter::kVec; e++) bits |= relu_passes(v[e]) ? 1u << e : 0u;
            MaskBits<Iter::kVec>::store(mask, offset, bits, valid);
        }
    }
};

// Vectors that a thread loads before it uses the first.
template <class Iter>
struct ForwardBatch {
    using V = Vector<typename Iter::Data, Iter::kVec>;

    typename V::Raw x[kForwardUnroll], z[kForwardUnroll];
    int64_t offset[kForwardUnroll];
    bool valid[kForwardUnroll];

    // Starts the loads of the last of `left` iterations, from the last to the first.
    __device__ __forceinline__ void load(Iter& iter, uint32_t left, const typename Iter::Data* in,
                                         const SmemTile<Iter>& smem_x, const Output<Iter>& output) {
#pragma unroll
        for (int i = 0; i < kForwardUnroll; i++) {
            const uint32_t iteration = left - 1 - i;
            offset[i] = iter.offset;
            valid[i] = iter.valid() && static_cast<uint32_t>(i) < left;
            x[i] = V::zero();
            if (valid[i]) x[i] = smem_x.contains(iteration) ? smem_x.at(iteration) : V::load(in + offset[i] * Iter::kVec);
            z[i] = output.load_z(offset[i], valid[i]);
            --iter;
        }
    }
    __device__ __forceinline__ void store(const Affines<Iter>& affines, const Output<Iter>& output) const {
#pragma unroll
        for (int i = 0; i < kForwardUnroll; i++) output.store(affines, x[i], z[i], offset[i], valid[i]);
    }
};

// Normalizes this CTA's chunk, from its last iteration to its first: vectors that are not in `smem_x` come first, and
// of these the ones that were read last, which are still in L2. `make_affines()` is called once, by all threads, when the
// first loads are under way. x: (n, c, s).
template <class Iter, class MakeAffines>
__device__ __forceinline__ void normalize_reverse(Iter iter, const typename Iter::Data* x, const SmemTile<Iter>& smem_x,
                                                  const Output<Iter>& output, MakeAffines make_affines) {
    uint32_t left = iter.iterations;
    if (left > 0) iter.seek_end();
    ForwardBatch<Iter> batch;
    batch.load(iter, left, x, smem_x, output);
    const Affines<Iter> affines = make_affines();
#pragma unroll 1
    while (true) {
        batch.store(affines, output);
        if (left <= kForwardUnroll) break;
        left -= kForwardUnroll;
        batch.load(iter, left, x, smem_x, output);
    }
}

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

// Normalizes this CTA's chunk, from its last iteration to its first: vectors that are not in `smem_x` come first, and
// of these the ones that were read last, which are still in L2. `make_affines()` is called once, by all threads, when the
// first loads are under way. x: (n, c, s).
template <class Iter, class MakeAffines>
__device__ __forceinline__ void normalize_reverse(Iter iter, const typename Iter::Data* x, const SmemTile<Iter>& smem_x,
                                                  const Output<Iter>& output, MakeAffines make_affines) {
    using V = Vector<typename Iter::Data, Iter::kVec>;
    typename V::Raw raw[kForwardUnroll], raw_z[kForwardUnroll];
    int64_t offset[kForwardUnroll];
    bool valid[kForwardUnroll];
    uint32_t left = iter.iterations;
    const auto load = [&] {
#pragma unroll
        for (int i = 0; i < kForwardUnroll; i++) {
            const uint32_t iteration = left - 1 - i;
            offset[i] = iter.offset;
            valid[i] = iter.valid() && static_cast<uint32_t>(i) < left;
            raw[i] = V::zero();
            if (valid[i])
                raw[i] = smem_x.contains(iteration) ? smem_x.at(iteration) : V::load(x + offset[i] * Iter::kVec);
            raw_z[i] = output.load_z(offset[i], valid[i]);
            --iter;
        }
    };
    if (left > 0) iter.seek_end();
    load();
    const Affines<Iter> affines = make_affines();
    bool is_loaded = true;
#pragma unroll 1
    for (; left > 0; left -= min(left, uint32_t{kForwardUnroll})) {
        if (!is_loaded) load();
        is_loaded = false;
#pragma unroll
        for (int i = 0; i < kForwardUnroll; i++) output.store(affines, raw[i], raw_z[i], offset[i], valid[i]);
    }
}

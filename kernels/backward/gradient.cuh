// The gradient of one vector before and behind the activation, and the walks over x and dy:
//
//     g = dy * activation'(v + z)        dz = g
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../common/affine.cuh"
#include "../common/epilogue.cuh"
#include "../common/smem.cuh"
#include "../common/tile_iterator.cuh"

// Sums of a channel, in the order of `Sums::of`: sum(g), sum(g * (x - mean)), sum(x - mean).
enum { kSumG, kSumGXmu, kSumXmu };

// The vectors that a thread loads before it uses the first. A derivative that takes any value needs more registers for
// itself, and so much time that fewer loads need be in flight.
template <class Iter, bool kIsReal_>
struct GradientBatch {
    static constexpr bool kIsReal = kIsReal_;
    static constexpr int kUnroll = kIsReal ? 2 : 4;

    typename Iter::Raw x[kUnroll], dy[kUnroll];
    uint32_t bits[kUnroll];
    int64_t offset[kUnroll];
    bool valid[kUnroll];
    bool is_kept[kUnroll]; // in shared memory: dy is what was kept there
};

template <class Iter>
struct Gradient {
    using T = typename Iter::Data;
    using V = Vector<T, Iter::kVec>;

    const T* x; // (n, c, s)
    const T* dy; // (n, c, s)
    T* dx; // (n, c, s); null where nobody needs it
    T* dz; // (n, c, s); null without a residual, and where nobody needs it
    const uint32_t* mask; // ceil(n * c * s / 32); null where none is read
    BnActivation derivative; // of v, which is computed again from x; the identity's where the mask says all
    bool is_real; // the derivative takes any value: dy is kept in shared memory. Else g is, which is dy or 0.

    template <class Args>
    __device__ __forceinline__ explicit Gradient(const Args& args)
        : x(static_cast<const T*>(args.x)),
          dy(static_cast<const T*>(args.dy)),
          dx(static_cast<T*>(args.dx)),
          dz(static_cast<T*>(args.dz)),
          mask(args.relu_mask),
          derivative(recomputes_v(args.epilogue) ? args.epilogue.activation : BN_IDENTITY),
          is_real(derivative_of(derivative) == Derivative::kReal) {}

    // Starts the loads of vector `i` of a batch, the iterator's `iteration`: from shared memory where x, and g or dy,
    // are kept.
    template <class Batch>
    __device__ __forceinline__ void load(Batch& batch, int i, const Iter& iter, uint32_t iteration,
                                         const SmemTile<Iter>& smem_x, const SmemTile<Iter>& smem_g) const {
        const int64_t offset = iter.offset;
        batch.offset[i] = offset;
        batch.is_kept[i] = smem_g.contains(iteration);
        batch.x[i] = batch.dy[i] = V::zero();
        batch.bits[i] = 0;
        if (!batch.valid[i]) return;
        batch.x[i] = smem_x.contains(iteration) ? smem_x.at(iteration) : V::load(x + offset * Iter::kVec);
        if (batch.is_kept[i]) {
            batch.dy[i] = smem_g.at(iteration);
        } else {
            batch.dy[i] = V::load(dy + offset * Iter::kVec);
            if (mask != nullptr) batch.bits[i] = MaskBits<Iter::kVec>::load(mask, offset);
        }
    }

    // Asks L2 for the thread's first vectors, from the first iteration or, behind seek_end, from the last: before a walk
    // that has to wait for coefficients.
    __device__ __forceinline__ void prefetch(Iter iter, bool is_reverse) const {
        constexpr int kVectors = 4;
        if (is_reverse && iter.iterations > 0) iter.seek_end();
#pragma unroll
        for (int i = 0; i < kVectors; i++) {
            const bool is_in = !is_reverse || static_cast<uint32_t>(i) < iter.iterations;
            if (is_in && iter.valid()) {
                prefetch_to_l2(x + iter.offset * Iter::kVec);
                prefetch_to_l2(dy + iter.offset * Iter::kVec);
            }
            if (is_reverse)
                --iter;
            else
                ++iter;
        }
    }

    // x and g of one vector.
    template <class Batch>
    __device__ __forceinline__ void unpack(const Affines<Iter>& affines, const Batch& batch, int i,
                                           float (&x)[Iter::kVec], float (&g)[Iter::kVec]) const {
        V::unpack(batch.x[i], x);
        V::unpack(batch.dy[i], g);
        if (!Batch::kIsReal && batch.is_kept[i]) return;
        if (!Batch::kIsReal && mask != nullptr) {
#pragma unroll
            for (int e = 0; e < Iter::kVec; e++) g[e] = (batch.bits[i] >> e & 1u) != 0 ? g[e] : 0.0f;
        }
        apply_derivative<T, Batch::kIsReal>(derivative, [&](int e) { return normalized(affines.at(e), x[e]); }, g);
    }

    // g or dy as it is kept in shared memory. Where rounding g would change it, as strategies that keep nothing do not,
    // dy is kept.
    template <class Batch>
    __device__ __forceinline__ typename V::Raw packed(const Batch& batch, int i, const float (&g)[Iter::kVec]) const {
        return !Batch::kIsReal && (mask != nullptr || derivative != BN_IDENTITY) ? V::pack(g) : batch.dy[i];
    }

    __device__ __forceinline__ void store_dz(int64_t offset, const float (&g)[Iter::kVec]) const {
        if (dz != nullptr) V::store(dz + offset * Iter::kVec, V::pack(g));
    }
    __device__ __forceinline__ void store_dx(int64_t offset, const float (&v)[Iter::kVec]) const {
        if (dx != nullptr) V::store(dx + offset * Iter::kVec, V::pack(v));
    }
    // Whether there is a walk that writes.
    __device__ __forceinline__ bool writes() const { return dx != nullptr || dz != nullptr; }
};

// for_each_vector with batches of this type.
template <class Batch, class Iter, class With>
__device__ __forceinline__ void for_each_in(Iter iter, const Gradient<Iter>& gradient, const SmemTile<Iter>& smem_x,
                                            With with) {
#pragma unroll 1
    for (uint32_t done = 0; done < iter.iterations; done += Batch::kUnroll) {
        Batch batch;
#pragma unroll
        for (int i = 0; i < Batch::kUnroll; i++) {
            batch.valid[i] = iter.valid();
            gradient.load(batch, i, iter, done + i, smem_x, SmemTile<Iter>::empty());
            ++iter;
        }
#pragma unroll
        for (int i = 0; i < Batch::kUnroll; i++) {
            if (!batch.valid[i]) break;
            with(batch, i, done + i);
        }
    }
}

// Calls `with(batch, i, iteration)` for each vector of a CTA's chunk, from the first iteration to the last. The branch
// is uniform.
template <class Iter, class With>
__device__ __forceinline__ void for_each_vector(const Iter& iter, const Gradient<Iter>& gradient,
                                                const SmemTile<Iter>& smem_x, With with) {
    if (gradient.is_real)
        for_each_in<GradientBatch<Iter, true>>(iter, gradient, smem_x, with);
    else
        for_each_in<GradientBatch<Iter, false>>(iter, gradient, smem_x, with);
}

// for_each_vector_reverse with batches of this type.
template <class Batch, class Iter, class With>
__device__ __forceinline__ void for_each_in_reverse(Iter iter, const Gradient<Iter>& gradient,
                                                    const SmemTile<Iter>& smem_x, const SmemTile<Iter>& smem_g,
                                                    With with) {
    if (iter.iterations == 0) return;
    iter.seek_end();
#pragma unroll 1
    for (uint32_t left = iter.iterations; left > 0; left -= min(left, uint32_t{Batch::kUnroll})) {
        Batch batch;
#pragma unroll
        for (int i = 0; i < Batch::kUnroll; i++) {
            batch.valid[i] = iter.valid() && static_cast<uint32_t>(i) < left;
            gradient.load(batch, i, iter, left - 1 - i, smem_x, smem_g);
            --iter;
        }
#pragma unroll
        for (int i = 0; i < Batch::kUnroll; i++) {
            if (batch.valid[i]) with(batch, i);
        }
    }
}

// for_each_vector from the last iteration to the first: the vectors that were read last are still in L2.
template <class Iter, class With>
__device__ __forceinline__ void for_each_vector_reverse(const Iter& iter, const Gradient<Iter>& gradient,
                                                        const SmemTile<Iter>& smem_x, const SmemTile<Iter>& smem_g,
                                                        With with) {
    if (gradient.is_real)
        for_each_in_reverse<GradientBatch<Iter, true>>(iter, gradient, smem_x, smem_g, with);
    else
        for_each_in_reverse<GradientBatch<Iter, false>>(iter, gradient, smem_x, smem_g, with);
}

// The normalization of one vector and what is fused behind it. A uniform branch at run time decides which epilogue.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../abi.h"
#include "element.cuh"
#include "sync.cuh"

// Whether a backward pass computes v again from x, for the activation's derivative: without a residual that is all it takes.
__host__ __device__ __forceinline__ bool recomputes_v(const BnEpilogue& epilogue) {
    return epilogue.activation != BN_IDENTITY && epilogue.has_residual == 0;
}

// Whether a backward pass reads the mask that its forward pass kept: behind a residual, which it does not read again.
__host__ __device__ __forceinline__ bool reads_mask(const BnEpilogue& epilogue) {
    return epilogue.activation != BN_IDENTITY && epilogue.has_residual != 0;
}

// What normalizes one channel: y = fma(x - hi, scale, offset), where offset = beta - lo * scale takes in the rest of
// the mean. Never x * scale + shift, which loses the digits that x and the mean have in common.
struct alignas(16) Scale {
    float hi, scale, offset, unused;
};

__device__ __forceinline__ float inv_std_of(float var, float eps) {
    const float padded = var + eps;
    return padded == 0.0f ? 0.0f : 1.0f / sqrtf(padded);
}

__device__ __forceinline__ Scale scale_of(const float* gamma, const float* beta, uint32_t channel, float hi, float lo,
                                          float inv_std) {
    const float scale = gamma != nullptr ? inv_std * gamma[channel] : inv_std;
    const float offset = beta != nullptr ? beta[channel] : 0.0f;
    return {hi, scale, fmaf(-lo, scale, offset), 0.0f};
}

// The scales of a strip whose statistics are given. A strip's last channels may not exist: theirs are never used, but
// threads load them.
template <class Args>
__device__ __forceinline__ void share_running_scales(const Args& args, uint32_t strip, unsigned char* shared) {
    const BnTiling& t = args.tiling;
    const BnStatistics& running = args.statistics;
    for (uint32_t i = threadIdx.x; i < t.strip_channels; i += blockDim.x) {
        const uint32_t channel = strip * t.strip_channels + i;
        Scale scale = {0.0f, 0.0f, 0.0f, 0.0f};
        if (channel < t.channels) {
            const float inv_std = inv_std_of(running.var[channel], running.eps);
            scale = scale_of(args.gamma, args.beta, channel, running.mean[channel], 0.0f, inv_std);
        }
        reinterpret_cast<Scale*>(shared)[i] = scale;
    }
    __syncthreads();
}

// max(v, 0) that keeps NaN: fmaxf would hide one.
__device__ __forceinline__ float relu(float v) { return v <= 0.0f ? 0.0f : v; }

// The scales of a thread's lanes, out of the CTA's shared memory.
template <class Owner>
struct Scales {
    Scale of[Owner::kLanes];

    __device__ __forceinline__ Scales(const Owner& owner, const BnTiling& t, const unsigned char* shared) {
#pragma unroll
        for (int lane = 0; lane < Owner::kLanes; lane++)
            of[lane] = reinterpret_cast<const Scale*>(shared)[owner.strip_channel(t, lane)];
    }
    __device__ __forceinline__ float normalized(float x, int element) const {
        const Scale& s = of[element % Owner::kLanes];
        return fmaf(x - s.hi, s.scale, s.offset);
    }
};

// The bits of the relu mask that belong to one vector: bit i of the whole mask is element i in memory order.
template <int kVec>
struct MaskBits;

template <>
struct MaskBits<8> {
    static __device__ __forceinline__ void store(uint32_t* mask, int64_t offset, uint32_t bits, bool valid) {
        if (valid) reinterpret_cast<uint8_t*>(mask)[offset] = static_cast<uint8_t>(bits);
    }
    static __device__ __forceinline__ uint32_t load(const uint32_t* mask, int64_t offset) {
        return reinterpret_cast<const uint8_t*>(mask)[offset];
    }
};

template <>
struct MaskBits<4> {
    // Plan sees to it that lanes 2i and 2i + 1 hold the halves of one byte, or neither holds anything.
    static __device__ __forceinline__ void store(uint32_t* mask, int64_t offset, uint32_t bits, bool valid) {
        const uint32_t upper = exchange(bits, 1);
        if (valid && (offset & 1) == 0)
            reinterpret_cast<uint8_t*>(mask)[offset >> 1] = static_cast<uint8_t>(bits | upper << 4);
    }
    static __device__ __forceinline__ uint32_t load(const uint32_t* mask, int64_t offset) {
        return reinterpret_cast<const uint8_t*>(mask)[offset >> 1] >> ((offset & 1) * 4) & 15u;
    }
};

template <>
struct MaskBits<1> {
    // A scalar form keeps no mask in place: pack_mask_kernel makes it from y.
    static __device__ __forceinline__ void store(uint32_t*, int64_t, uint32_t, bool) {}
    static __device__ __forceinline__ uint32_t load(const uint32_t* mask, int64_t offset) {
        return mask[offset >> 5] >> (offset & 31) & 1u;
    }
};

// The output side of a forward pass.
template <class Owner>
struct Output {
    using T = typename Owner::Data;
    using V = Vector<T, Owner::kVec>;

    const T* z;
    T* y;
    uint32_t* mask; // null where it is not kept in place
    bool has_relu;

    template <class Args>
    __device__ __forceinline__ explicit Output(const Args& args)
        : z(args.epilogue.has_residual != 0 ? static_cast<const T*>(args.z) : nullptr),
          y(static_cast<T*>(args.y)),
          mask(args.tiling.mask_in_place != 0 ? args.relu_mask : nullptr),
          has_relu(args.epilogue.activation == BN_RELU) {}

    __device__ __forceinline__ typename V::Raw load_z(int64_t offset, bool valid) const {
        return z != nullptr && valid ? V::load(z + offset * Owner::kVec) : V::zero();
    }

    // Every lane of the warp calls it, for the mask's sake; invalid ones store nothing.
    __device__ __forceinline__ void store(const Scales<Owner>& scales, typename V::Raw raw, typename V::Raw raw_z,
                                          int64_t offset, bool valid) const {
        float v[Owner::kVec];
        V::unpack(raw, v);
#pragma unroll
        for (int i = 0; i < Owner::kVec; i++) v[i] = scales.normalized(v[i], i);
        if (z != nullptr) {
            float residual[Owner::kVec];
            V::unpack(raw_z, residual);
#pragma unroll
            for (int i = 0; i < Owner::kVec; i++) v[i] += residual[i];
        }
        if (has_relu) {
#pragma unroll
            for (int i = 0; i < Owner::kVec; i++) v[i] = relu(v[i]);
        }
        const typename V::Raw packed = V::pack(v);
        if (valid) V::store(y + offset * Owner::kVec, packed);
        if (mask != nullptr) {
            uint32_t bits = 0;
            V::unpack(packed, v);
#pragma unroll
            for (int i = 0; i < Owner::kVec; i++) bits |= v[i] <= 0.0f ? 0u : 1u << i;
            MaskBits<Owner::kVec>::store(mask, offset, bits, valid);
        }
    }
};

// The data types: their conversions to and from f32, in which everything is computed.
//
// A new dtype is one specialization of Element, its place in Dtypes, and a value of BnDtype with BN_DTYPES (abi.h); and
// one of MaskBits (epilogue.cuh), where its vectors have another number of values.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "../abi.h"

// A dtype: its value in the ABI, its name in messages, its conversions one by one, and those of a word of 32 bits,
// which has 4 / sizeof(T) values.
template <class T>
struct Element;

template <>
struct Element<float> {
    static constexpr BnDtype kDtype = BN_F32;
    static constexpr const char* kName = "f32";
    static __device__ __forceinline__ float to_float(float v) { return v; }
    static __device__ __forceinline__ float from_float(float v) { return v; }
    static __device__ __forceinline__ void unpack(uint32_t word, float* v) { v[0] = __uint_as_float(word); }
    static __device__ __forceinline__ uint32_t pack(const float* v) { return __float_as_uint(v[0]); }
};

template <>
struct Element<__half> {
    static constexpr BnDtype kDtype = BN_F16;
    static constexpr const char* kName = "f16";
    static __device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
    static __device__ __forceinline__ __half from_float(float v) { return __float2half_rn(v); }
    static __device__ __forceinline__ void unpack(uint32_t word, float* v) {
        __half2 pair;
        memcpy(&pair, &word, 4);
        const float2 both = __half22float2(pair);
        v[0] = both.x;
        v[1] = both.y;
    }
    static __device__ __forceinline__ uint32_t pack(const float* v) {
        const __half2 pair = __floats2half2_rn(v[0], v[1]);
        uint32_t word;
        memcpy(&word, &pair, 4);
        return word;
    }
};

template <>
struct Element<__nv_bfloat16> {
    static constexpr BnDtype kDtype = BN_BF16;
    static constexpr const char* kName = "bf16";
    static __device__ __forceinline__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }
    static __device__ __forceinline__ __nv_bfloat16 from_float(float v) { return __float2bfloat16_rn(v); }
    // A bf16 is the upper half of a float: no conversion is needed.
    static __device__ __forceinline__ void unpack(uint32_t word, float* v) {
        v[0] = __uint_as_float(word << 16);
        v[1] = __uint_as_float(word & 0xffff0000u);
    }
    static __device__ __forceinline__ uint32_t pack(const float* v) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(v[0], v[1]);
        uint32_t word;
        memcpy(&word, &pair, 4);
        return word;
    }
};

// Types, as an argument.
template <class... T>
struct Types {
    static constexpr int kCount = sizeof...(T);
};

// THE list of dtypes. Kernels are made ready in its order.
using Dtypes = Types<float, __half, __nv_bfloat16>;
static_assert(Dtypes::kCount == BN_DTYPES, "each value of BnDtype has its type");

// v rounded to T, as a float.
template <class T>
__device__ __forceinline__ float rounded(float v) {
    return Element<T>::to_float(Element<T>::from_float(v));
}

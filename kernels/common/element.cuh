// The data types: their conversions to and from f32, in which everything is computed.
//
// A new dtype is one specialization of Element and of Vector (vector.cuh), a value of BnDtype, and one case and one
// name in launch.cuh.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

template <class T>
struct Element;

template <>
struct Element<float> {
    static __device__ __forceinline__ float to_float(float v) { return v; }
    static __device__ __forceinline__ float from_float(float v) { return v; }
};

template <>
struct Element<__half> {
    static __device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
    static __device__ __forceinline__ __half from_float(float v) { return __float2half_rn(v); }
};

template <>
struct Element<__nv_bfloat16> {
    static __device__ __forceinline__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }
    static __device__ __forceinline__ __nv_bfloat16 from_float(float v) { return __float2bfloat16_rn(v); }
};

// v rounded to T, as a float.
template <class T>
__device__ __forceinline__ float rounded(float v) {
    return Element<T>::to_float(Element<T>::from_float(v));
}

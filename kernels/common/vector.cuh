// Vectors, the unit of every load and store of data: 16 bytes, or one element in the scalar access patterns.
#pragma once
#include "element.cuh"

// Elements of a 16-byte vector.
template <class T>
constexpr int kVecOf = 16 / sizeof(T);

// kVec elements that are loaded and stored at once. `Raw` holds them in registers before they are unpacked to f32.
template <class T, int kVec>
struct Vector;

template <class T>
struct Vector<T, 1> {
    using Raw = T;
    static __device__ __forceinline__ Raw zero() { return Element<T>::from_float(0.0f); }
    static __device__ __forceinline__ Raw load(const T* p) { return *p; }
    static __device__ __forceinline__ void store(T* p, Raw raw) { *p = raw; }
    static __device__ __forceinline__ void unpack(Raw raw, float* v) { v[0] = Element<T>::to_float(raw); }
    static __device__ __forceinline__ Raw pack(const float* v) { return Element<T>::from_float(v[0]); }
};

// The loads and stores of the three 16-byte vectors. nvcc makes one LDG.128 or STG.128 of each uint4 access.
template <class T>
struct Vector16 {
    using Raw = uint4;
    static __device__ __forceinline__ Raw zero() { return make_uint4(0, 0, 0, 0); }
    static __device__ __forceinline__ Raw load(const T* p) { return *reinterpret_cast<const uint4*>(p); }
    static __device__ __forceinline__ void store(T* p, Raw raw) { *reinterpret_cast<uint4*>(p) = raw; }
};

template <>
struct Vector<float, 4> : Vector16<float> {
    static __device__ __forceinline__ void unpack(Raw raw, float* v) {
        v[0] = __uint_as_float(raw.x);
        v[1] = __uint_as_float(raw.y);
        v[2] = __uint_as_float(raw.z);
        v[3] = __uint_as_float(raw.w);
    }
    static __device__ __forceinline__ Raw pack(const float* v) {
        return make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]), __float_as_uint(v[3]));
    }
};

template <>
struct Vector<__half, 8> : Vector16<__half> {
    static __device__ __forceinline__ void unpack(Raw raw, float* v) {
        const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            __half2 pair;
            memcpy(&pair, &words[i], 4);
            const float2 both = __half22float2(pair);
            v[2 * i] = both.x;
            v[2 * i + 1] = both.y;
        }
    }
    static __device__ __forceinline__ Raw pack(const float* v) {
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const __half2 pair = __floats2half2_rn(v[2 * i], v[2 * i + 1]);
            memcpy(&words[i], &pair, 4);
        }
        return make_uint4(words[0], words[1], words[2], words[3]);
    }
};

template <>
struct Vector<__nv_bfloat16, 8> : Vector16<__nv_bfloat16> {
    // A bf16 is the upper half of a float: no conversion is needed.
    static __device__ __forceinline__ void unpack(Raw raw, float* v) {
        const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            v[2 * i] = __uint_as_float(words[i] << 16);
            v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
        }
    }
    static __device__ __forceinline__ Raw pack(const float* v) {
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const __nv_bfloat162 pair = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
            memcpy(&words[i], &pair, 4);
        }
        return make_uint4(words[0], words[1], words[2], words[3]);
    }
};

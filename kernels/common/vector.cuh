// Vectors, the unit of every load and store of data: 16 bytes, or one element in the scalar access patterns.
#pragma once
#include "element.cuh"

// Asks for the line of `p` to be brought to L2. Nothing waits for it.
// PTX ISA, "Data Movement and Conversion Instructions: prefetch".
__device__ __forceinline__ void prefetch_to_l2(const void* p) {
#ifndef __CUDA_EMULATOR__
    asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(p)));
#else
    (void)p;
#endif
}

// Elements of a 16-byte vector.
template <class T>
constexpr int kVecOf = BN_VECTOR_BYTES / sizeof(T);

// kVec elements that are loaded and stored at once. `Raw` holds them in registers before they are unpacked to f32.
// nvcc makes one LDG.128 or STG.128 of each uint4 access. Words of one element are taken without a loop, for which it
// would order the instructions of f32 otherwise than in what was measured.
template <class T, int kVec>
struct Vector {
    static_assert(kVec == kVecOf<T>, "a vector has 16 bytes, or one element");
    using Raw = uint4;
    static constexpr int kWordElements = 4 / sizeof(T);
    static __device__ __forceinline__ Raw zero() { return make_uint4(0, 0, 0, 0); }
    static __device__ __forceinline__ Raw load(const T* p) { return *reinterpret_cast<const uint4*>(p); }
    static __device__ __forceinline__ void store(T* p, Raw raw) { *reinterpret_cast<uint4*>(p) = raw; }
    static __device__ __forceinline__ void unpack(Raw raw, float* v) {
        if constexpr (kWordElements == 1) {
            Element<T>::unpack(raw.x, v);
            Element<T>::unpack(raw.y, v + 1);
            Element<T>::unpack(raw.z, v + 2);
            Element<T>::unpack(raw.w, v + 3);
        } else {
            const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
            for (int i = 0; i < 4; i++) Element<T>::unpack(words[i], v + i * kWordElements);
        }
    }
    static __device__ __forceinline__ Raw pack(const float* v) {
        if constexpr (kWordElements == 1) {
            return make_uint4(Element<T>::pack(v), Element<T>::pack(v + 1), Element<T>::pack(v + 2),
                              Element<T>::pack(v + 3));
        } else {
            uint32_t words[4];
#pragma unroll
            for (int i = 0; i < 4; i++) words[i] = Element<T>::pack(v + i * kWordElements);
            return make_uint4(words[0], words[1], words[2], words[3]);
        }
    }
};

template <class T>
struct Vector<T, 1> {
    using Raw = T;
    static __device__ __forceinline__ Raw zero() { return Element<T>::from_float(0.0f); }
    static __device__ __forceinline__ Raw load(const T* p) { return *p; }
    static __device__ __forceinline__ void store(T* p, Raw raw) { *p = raw; }
    static __device__ __forceinline__ void unpack(Raw raw, float* v) { v[0] = Element<T>::to_float(raw); }
    static __device__ __forceinline__ Raw pack(const float* v) { return Element<T>::from_float(v[0]); }
};

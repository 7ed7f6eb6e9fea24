// binary16, converted by integers, so that every bit is the GPU's: round to nearest even, subnormals kept, NaN
// canonical (0x7fff).
#pragma once
#include "cuda_emulator/intrinsics.h"
#include "cuda_emulator/vector_types.h"

namespace cuda_emulator {

inline unsigned short half_bits_from_float(float value) {
    const unsigned bits = bits_to<unsigned>(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fffu;
    if (magnitude >= 0x477ff000u) return (unsigned short)(sign | 0x7c00u);  // 65520 and above round to infinity
    if (magnitude >= 0x38800000u) {                                         // a normal half: 2^-14 and above
        const unsigned rounded = magnitude + 0x0fffu + (magnitude >> 13 & 1u);
        return (unsigned short)(sign | ((rounded - 0x38000000u) >> 13));
    }
    if (magnitude <= 0x33000000u) return (unsigned short)sign;  // 2^-25 is a tie, and the even neighbour is 0
    const unsigned exponent = magnitude >> 23, mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    const unsigned shift = 126u - exponent;  // 14..24: what a unit of 2^-24 leaves of the mantissa
    const unsigned kept = mantissa >> shift, rest = mantissa & ((1u << shift) - 1u), half = 1u << (shift - 1u);
    return (unsigned short)(sign | (kept + (rest > half || (rest == half && (kept & 1u)))));
}

inline float float_from_half_bits(unsigned short half) {
    const unsigned sign = (unsigned)(half & 0x8000u) << 16, exponent = half >> 10 & 31u, mantissa = half & 0x3ffu;
    if (exponent == 31u) return bits_to<float>(mantissa ? 0x7fffffffu : sign | 0x7f800000u);
    if (exponent != 0u) return bits_to<float>(sign | (exponent + 112u) << 23 | mantissa << 13);
    return bits_to<float>(sign | bits_to<unsigned>((float)mantissa * 0x1p-24f));
}

}  // namespace cuda_emulator

struct __half_raw {
    unsigned short x;
};

struct __half {
    unsigned short __x;
    __half() = default;
    __half(__half_raw raw) : __x(raw.x) {}
    explicit __half(float value) : __x(cuda_emulator::half_bits_from_float(value)) {}
    explicit operator float() const { return cuda_emulator::float_from_half_bits(__x); }
};
typedef __half half;

struct alignas(4) __half2 {
    __half x, y;
    __half2() = default;
    __half2(__half a, __half b) : x(a), y(b) {}
};
typedef __half2 half2;

inline float __half2float(__half value) { return cuda_emulator::float_from_half_bits(value.__x); }
inline __half __float2half_rn(float value) { return __half(value); }
inline __half __float2half(float value) { return __half(value); }
inline __half2 __floats2half2_rn(float a, float b) { return __half2(__half(a), __half(b)); }
inline __half2 __float22half2_rn(float2 value) { return __floats2half2_rn(value.x, value.y); }
inline __half2 __halves2half2(__half a, __half b) { return __half2(a, b); }
inline float2 __half22float2(__half2 value) { return float2{__half2float(value.x), __half2float(value.y)}; }
inline __half __low2half(__half2 value) { return value.x; }
inline __half __high2half(__half2 value) { return value.y; }
inline float __low2float(__half2 value) { return __half2float(value.x); }
inline float __high2float(__half2 value) { return __half2float(value.y); }
inline unsigned short __half_as_ushort(__half value) { return value.__x; }
inline __half __ushort_as_half(unsigned short bits) { return __half(__half_raw{bits}); }

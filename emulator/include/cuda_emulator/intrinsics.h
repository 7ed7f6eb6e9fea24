// Arithmetic intrinsics that are exact or correctly rounded on a GPU. The approximate ones (__fdividef, __expf, rsqrtf,
// ...) are left out: no CPU gives their bits.
#pragma once
#include <cmath>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include "abi.h"
#include "qualifiers.h"

namespace cuda_emulator {
template <class To, class From>
inline To bits_to(From from) {
    static_assert(sizeof(To) == sizeof(From), "a reinterpretation keeps its size");
    To to;
    __builtin_memcpy(&to, &from, sizeof(To));
    return to;
}
}  // namespace cuda_emulator

inline unsigned __float_as_uint(float x) { return cuda_emulator::bits_to<unsigned>(x); }
inline int __float_as_int(float x) { return cuda_emulator::bits_to<int>(x); }
inline float __uint_as_float(unsigned x) { return cuda_emulator::bits_to<float>(x); }
inline float __int_as_float(int x) { return cuda_emulator::bits_to<float>(x); }
inline long long __double_as_longlong(double x) { return cuda_emulator::bits_to<long long>(x); }
inline double __longlong_as_double(long long x) { return cuda_emulator::bits_to<double>(x); }

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return __builtin_sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float __int2float_rn(int x) { return (float)x; }
inline float __uint2float_rn(unsigned x) { return (float)x; }
inline float __ll2float_rn(long long x) { return (float)x; }

inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll((unsigned long long)x); }

// The overloads that CUDA has in the global namespace.
inline int min(int a, int b) { return b < a ? b : a; }
inline unsigned min(unsigned a, unsigned b) { return b < a ? b : a; }
inline unsigned min(int a, unsigned b) { return min((unsigned)a, b); }
inline unsigned min(unsigned a, int b) { return min(a, (unsigned)b); }
inline long min(long a, long b) { return b < a ? b : a; }
inline unsigned long min(unsigned long a, unsigned long b) { return b < a ? b : a; }
inline long long min(long long a, long long b) { return b < a ? b : a; }
inline unsigned long long min(unsigned long long a, unsigned long long b) { return b < a ? b : a; }
inline float min(float a, float b) { return fminf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline int max(int a, int b) { return a < b ? b : a; }
inline unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }
inline unsigned max(int a, unsigned b) { return max((unsigned)a, b); }
inline unsigned max(unsigned a, int b) { return max(a, (unsigned)b); }
inline long max(long a, long b) { return a < b ? b : a; }
inline unsigned long max(unsigned long a, unsigned long b) { return a < b ? b : a; }
inline long long max(long long a, long long b) { return a < b ? b : a; }
inline unsigned long long max(unsigned long long a, unsigned long long b) { return a < b ? b : a; }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

// <cmath> has them in std; CUDA has them in the global namespace as well.
using std::isfinite;
using std::isinf;
using std::isnan;

inline void __nanosleep(unsigned) { cuda_emulator_yield(); }
inline void __trap() { cuda_emulator_trap(); }

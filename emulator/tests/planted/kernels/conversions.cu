#include "planted.h"
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// The conversions, called by the host: the functions are the same.
extern "C" unsigned short half_from_float(float value) { return __half_as_ushort(__float2half_rn(value)); }
extern "C" float float_from_half(unsigned short bits) { return __half2float(__ushort_as_half(bits)); }
extern "C" unsigned short bfloat_from_float(float value) { return __bfloat16_as_ushort(__float2bfloat16_rn(value)); }
extern "C" float float_from_bfloat(unsigned short bits) { return __bfloat162float(__ushort_as_bfloat16(bits)); }

// y = 2x in pairs of halves, eight a vector.
static __global__ void double_halves_kernel(const uint4* x, uint4* y) {
    uint4 vector = __ldcs(x + threadIdx.x);
    __half2* pairs = reinterpret_cast<__half2*>(&vector);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 pair = __half22float2(pairs[i]);
        pairs[i] = __floats2half2_rn(2.0f * pair.x, 2.0f * pair.y);
    }
    __stcs(y + threadIdx.x, vector);
}

extern "C" int launch_double_halves(const void* x, void* y, unsigned vectors) {
    return launch(double_halves_kernel, 1, vectors, 0, static_cast<const uint4*>(x), static_cast<uint4*>(y));
}

// threadIdx, blockIdx, blockDim, gridDim.
#pragma once
#include "vector_types.h"

// The built-in variables of the running CUDA thread. The glue defines them, the scheduler writes them. A CUDA thread never
// sees them change, hence `const`: the thread sanitizer's pass calls no hook for what is const.
extern "C" {
extern __thread const uint3 threadIdx;
extern __thread const uint3 blockIdx;
// uint3 rather than CUDA's dim3: what has a constructor is not const to the compiler before it ran.
extern __thread const uint3 blockDim;
extern __thread const uint3 gridDim;
}

#define warpSize 32

// threadIdx, blockIdx, blockDim, gridDim.
#pragma once
#include "vector_types.h"

// Of the running CUDA thread; the glue defines them, the scheduler writes them. They never change as a CUDA thread sees
// them, hence `const`, and for what is const the thread sanitizer's pass calls no hook.
extern "C" {
extern __thread const uint3 threadIdx;
extern __thread const uint3 blockIdx;
// uint3 rather than CUDA's dim3: what has a constructor is not const to the compiler before it ran.
extern __thread const uint3 blockDim;
extern __thread const uint3 gridDim;
}

#define warpSize 32

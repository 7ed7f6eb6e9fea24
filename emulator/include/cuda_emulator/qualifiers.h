// CUDA's declaration words for g++.
#pragma once

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __grid_constant__
// A CTA runs on one OS thread, so what belongs to a CTA is what belongs to that thread.
#define __shared__ static thread_local
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)

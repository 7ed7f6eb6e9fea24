// Collectives that not everyone comes to.
#include "planted.h"

// 0 right; 1 half of the lanes wait at a barrier instead; 2 halves bring different masks that overlap; 3 reads from a lane that is not in
// the mask; 4 the calling lane is not in its mask; 5 two masks that divide the warp (right); 6 some lanes have returned
// (right, by PTX: a shuffle waits for those that live); 7 reads from a lane that has returned.
static __global__ void shuffle_kernel(float* y, int how) {
    const unsigned lane = threadIdx.x;
    const bool low = lane < 16;
    float value = static_cast<float>(lane);
    if (how == 0) value = __shfl_xor_sync(0xffffffffu, value, 16);
    if (how == 1) {
        if (low) value = __shfl_xor_sync(0xffffffffu, value, 1);
        __syncthreads();
    }
    if (how == 2) value = __shfl_xor_sync(low ? 0xffffffffu : 0xffff0000u, value, 1);
    if (how == 3) value = __shfl_xor_sync(low ? 0x0000ffffu : 0xffff0000u, value, 16);
    if (how == 4) value = __shfl_xor_sync(0x0000ffffu, value, 1);
    if (how == 5) value = low ? __shfl_xor_sync(0x0000ffffu, value, 1) : __shfl_xor_sync(0xffff0000u, value, 1);
    if (how >= 6) {
        if (low) {
            y[lane] = -1.0f;
            return;
        }
        value = __shfl_xor_sync(0xffffffffu, value, how == 6 ? 1 : 16);
    }
    y[lane] = value;
}

extern "C" int launch_shuffle(float* y, int how) { return launch(shuffle_kernel, 1, 32, 0, y, how); }

// 0 right; 1 one thread waits for its warp instead, which waits for it; 2 some threads return before it (right: a barrier
// waits for those that live).
static __global__ void barrier_kernel(float* y, int how) {
    if (how == 2 && threadIdx.x >= 40) {
        y[threadIdx.x] = 0.0f;
        return;
    }
    if (how == 1 && threadIdx.x == 32) {
        __syncwarp();
    } else {
        __syncthreads();
    }
    y[threadIdx.x] = 1.0f;
}

extern "C" int launch_barrier(float* y, int how) { return launch(barrier_kernel, 1, 64, 0, y, how); }

// Votes and shuffles of all kinds, with results that the test computes itself.
static __global__ void collectives_kernel(unsigned* y) {
    const unsigned t = threadIdx.x, lane = t % 32;
    unsigned* out = y + t * 12;
    out[0] = __ballot_sync(0xffffffffu, lane % 3 == 0);
    out[1] = __any_sync(0xffffffffu, lane == 7);
    out[2] = __all_sync(0xffffffffu, lane < 31);
    out[3] = __shfl_sync(0xffffffffu, t, 5);
    out[4] = __shfl_sync(0xffffffffu, t, 5, 8);
    out[5] = __shfl_xor_sync(0xffffffffu, t, 9);
    out[6] = __shfl_down_sync(0xffffffffu, t, 3u);
    out[7] = __shfl_up_sync(0xffffffffu, t, 3u, 16);
    out[8] = (unsigned)(__shfl_xor_sync(0xffffffffu, 0x100000000ull * t + 1, 1) >> 32);
    out[9] = (unsigned)__syncthreads_count(t % 5 == 0);
    out[10] = (unsigned)__syncthreads_or(t == 63);
    out[11] = (unsigned)__syncthreads_and(t != 63);
}

extern "C" int launch_collectives(unsigned* y) { return launch(collectives_kernel, 1, 64, 0, y); }

// The position of every thread, in three dimensions.
static __global__ void position_kernel(unsigned* y) {
    const unsigned cta = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    y[cta * blockDim.x * blockDim.y * blockDim.z + thread] =
        blockIdx.x + 10 * blockIdx.y + 100 * blockIdx.z + 1000 * threadIdx.x + 10000 * threadIdx.y + 100000 * threadIdx.z;
}

extern "C" int launch_position(unsigned* y) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(2, 3, 4);
    config.blockDim = dim3(5, 3, 2);
    void* arguments[] = {&y};
    return cudaLaunchKernelExC(&config, position_kernel, arguments);
}

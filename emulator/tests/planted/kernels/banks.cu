// Accesses of shared memory with and without bank conflicts.
#include <cuda_emulator.h>
#include "planted.h"

struct alignas(16) Slot {
    float of[4];
};
// Four words to the compiler too.
struct Words {
    float of[4];
};

// Each thread stores a slot in row `threadIdx.x % 8` of eight rows of `stride` slots, and column `threadIdx.x / 8`, and loads
// it again: 8-way conflicts where the stride is a multiple of 8.
template <class T>
static __global__ void rows_kernel(float* y, unsigned stride) {
    T* const slots = static_cast<T*>(cuda_emulator::dynamic_shared());
    T& slot = slots[threadIdx.x % 8 * stride + threadIdx.x / 8];
    T value;
    for (int i = 0; i < 4; i++) value.of[i] = static_cast<float>(threadIdx.x + i);
    slot = value;
    __syncthreads();
    const T loaded = slot;
    y[blockIdx.x * blockDim.x + threadIdx.x] = loaded.of[0] + loaded.of[3];
}

extern "C" int launch_rows(float* y, unsigned ctas, unsigned threads, unsigned stride, int is_aligned) {
    return is_aligned ? launch(rows_kernel<Slot>, ctas, threads, 8 * stride * 16, y, stride)
                      : launch(rows_kernel<Words>, ctas, threads, 8 * stride * 16, y, stride);
}

// Word `threadIdx.x * stride` of each thread, stored and loaded again `turns` times; with `shuffles` the threads meet between
// two turns. A thread takes `turns` turns, and one less for each of the warps before its own. Then all load word 0.
template <class T>
static __global__ void words_kernel(float* y, unsigned stride, unsigned turns, int shuffles) {
    volatile T* const words = static_cast<T*>(cuda_emulator::dynamic_shared());  // so that each load is made
    T sum = 0;
    for (unsigned turn = threadIdx.x / 32; turn < turns; turn++) {
        words[threadIdx.x * stride] = static_cast<T>(turn);
        if (shuffles) __syncwarp();
        sum += words[threadIdx.x * stride];
    }
    __syncthreads();
    y[threadIdx.x] = static_cast<float>(sum + words[0]);
}

extern "C" int launch_words(float* y, unsigned threads, unsigned stride, unsigned turns, int shuffles, int bytes) {
    const unsigned shared = threads * stride * bytes;
    return bytes == 8   ? launch(words_kernel<double>, 1, threads, shared, y, stride, turns, shuffles)
           : bytes == 4 ? launch(words_kernel<float>, 1, threads, shared, y, stride, turns, shuffles)
                        : launch(words_kernel<unsigned short>, 1, threads, shared, y, stride, turns, shuffles);
}

// The first `lanes` of each warp store a word.
static __global__ void some_lanes_kernel(float* y, unsigned lanes) {
    __shared__ float words[64];
    if (threadIdx.x % 32 < lanes) words[threadIdx.x] = 1.0f;
    __syncthreads();
    if (threadIdx.x == 0) y[0] = words[lanes - 1];
}

extern "C" int launch_some_lanes(float* y, unsigned lanes) { return launch(some_lanes_kernel, 1, 64, 0, y, lanes); }

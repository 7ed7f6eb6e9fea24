// Missing order: between threads, lanes and CTAs.
#include "planted.h"

// Each thread reads what its neighbour wrote; the barrier between is optional.
static __global__ void neighbour_kernel(float* y, int barrier) {
    __shared__ float values[256];
    values[threadIdx.x] = static_cast<float>(threadIdx.x);
    if (barrier) __syncthreads();
    y[threadIdx.x] = values[(threadIdx.x + 1) % blockDim.x];
}

extern "C" int launch_neighbour(float* y, int barrier) { return launch(neighbour_kernel, 1, 256, 0, y, barrier); }

// The barrier that is often forgotten: between the last read and the next write.
static __global__ void reuse_kernel(float* y, int barrier) {
    __shared__ float value;
    float sum = 0.0f;
    for (int i = 0; i < 4; i++) {
        if (threadIdx.x == 32u * i) value = static_cast<float>(i);
        __syncthreads();
        sum += value;
        if (barrier) __syncthreads();
    }
    y[threadIdx.x] = sum;
}

extern "C" int launch_reuse(float* y, int barrier) { return launch(reuse_kernel, 1, 128, 0, y, barrier); }

// Lanes exchange through shared memory; __syncwarp is enough inside a warp, and not between warps.
static __global__ void warp_kernel(float* y, unsigned distance, unsigned mask) {
    __shared__ float values[64];
    values[threadIdx.x] = static_cast<float>(threadIdx.x);
    if (mask) {
        if (mask >> (threadIdx.x % 32) & 1u) {
            __syncwarp(mask);
        } else {
            __syncwarp(~mask);
        }
    }
    y[threadIdx.x] = values[threadIdx.x ^ distance];
}

extern "C" int launch_warp(float* y, unsigned distance, unsigned mask) {
    return launch(warp_kernel, 1, 64, 0, y, distance, mask);
}

// Two threads write different halves of a word: no race. One byte further: one.
static __global__ void halves_kernel(unsigned short* y, int overlap) {
    y[threadIdx.x - (overlap && threadIdx.x == 33)] = static_cast<unsigned short>(threadIdx.x);
}

extern "C" int launch_halves(unsigned short* y, int overlap) { return launch(halves_kernel, 1, 64, 0, y, overlap); }

// A wide store and a narrow load by another thread, without order.
static __global__ void widths_kernel(uint4* y, unsigned* z, int barrier) {
    if (threadIdx.x == 0) y[0] = make_uint4(1, 2, 3, 4);
    if (barrier) __syncthreads();
    if (threadIdx.x == 1) z[0] = reinterpret_cast<const unsigned*>(y)[2];
}

extern "C" int launch_widths(void* y, unsigned* z, int barrier) {
    return launch(widths_kernel, 1, 64, 0, static_cast<uint4*>(y), z, barrier);
}

// The thread whose value stays depends on the order in which they run.
static __global__ void last_writer_kernel(unsigned* y, int by_order) {
    y[by_order ? 0 : threadIdx.x] = threadIdx.x;
}

extern "C" int launch_last_writer(unsigned* y, int by_order) { return launch(last_writer_kernel, 1, 64, 0, y, by_order); }

// The last CTA sums what all others stored. How the others tell it: 0 acquire-release, 1 not at all (a plain guess), 2
// with the barrier before the release forgotten, 3 with the barrier after the acquire forgotten; 4 as 2, where only one
// thread stores and reads, which in some orders runs before the release by luck.
static __global__ void last_block_kernel(float* partial, unsigned* counter, float* y, int how) {
    __shared__ unsigned ticket;
    const unsigned t = threadIdx.x;
    if (how != 4 || t == 33) partial[blockIdx.x * blockDim.x + t] = 1.0f;
    if (how != 2 && how != 4) __syncthreads();
    if (t == 0) {
        ticket = how == 1 ? blockIdx.x : cuda_emulator::atomic_inc_acq_rel(counter, gridDim.x - 1);
    }
    if (how != 3) __syncthreads();
    if (how == 3 ? blockIdx.x == 1 && t >= 32 : ticket == gridDim.x - 1 && (how != 4 || t == 33)) {
        float sum = 0.0f;
        for (unsigned i = t; i < gridDim.x * blockDim.x; i += blockDim.x) sum += partial[i];
        y[t] = sum;
    }
}

extern "C" int launch_last_block(float* partial, unsigned* counter, float* y, unsigned ctas, int how) {
    return launch(last_block_kernel, ctas, 64, 0, partial, counter, y, how);
}

// A barrier of the whole grid, twice, so that a counter that is not reset shows. `broken`: 0 right; 1 the wait is left
// out; 2 the release is left out, so that nobody can arrive; 3 the wait acquires nothing. 4 is right again: the wait is
// relaxed, and acquires once at its end.
static __global__ void grid_barrier_kernel(float* values, unsigned* counter, float* y, int broken) {
    for (unsigned round = 0; round < 2; round++) {
        float* mine = values + round * gridDim.x;
        if (threadIdx.x == 0) mine[blockIdx.x] = static_cast<float>(blockIdx.x + 1);
        __syncthreads();
        if (threadIdx.x == 0) {
            const unsigned step = blockIdx.x == 0 ? 0x80000000u - (gridDim.x - 1) : 1u;
            unsigned old = cuda_emulator::load_acquire(counter);
            if (broken < 2) old = cuda_emulator::atomic_add_acq_rel(counter, step);
            if (broken > 2) {
                old = cuda_emulator::atomic_add_release(counter, step);
                while (((cuda_emulator::load_relaxed(counter) ^ old) & 0x80000000u) == 0) {
                }
                if (broken == 4) (void)cuda_emulator::load_acquire(counter);
            } else if (broken != 1) {
                while (((cuda_emulator::load_acquire(counter) ^ old) & 0x80000000u) == 0) {
                }
            }
        }
        __syncthreads();
        float sum = 0.0f;
        for (unsigned i = 0; i < gridDim.x; i++) sum += mine[i];
        if (threadIdx.x == 0) y[round * gridDim.x + blockIdx.x] = sum;
    }
}

extern "C" int launch_grid_barrier(float* values, unsigned* counter, float* y, unsigned ctas, int cooperative,
                                   int broken) {
    return launch_as(grid_barrier_kernel, ctas, 64, 0, cooperative, values, counter, y, broken);
}

// Two threads read a word, then one of them writes it: found also where the writer was the last to read.
static __global__ void read_write_kernel(float* x, float* y, int barrier) {
    const float value = x[0];
    if (barrier) __syncthreads();
    y[threadIdx.x] = value;
    if (threadIdx.x == 0) x[0] = 2.0f;
}

extern "C" int launch_read_write(float* x, float* y, int barrier) {
    return launch(read_write_kernel, 1, 2, 0, x, y, barrier);
}

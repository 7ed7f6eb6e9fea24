// Barriers, shuffles and votes. Every lane brings its mask, so a lane that does not arrive, or arrives with another mask,
// is found.
#pragma once
#include <string.h>
#include "abi.h"
#include "position.h"

inline void __syncthreads() { cuda_emulator_block_barrier(0); }
inline int __syncthreads_count(int predicate) { return (int)cuda_emulator_block_barrier(predicate != 0); }
inline int __syncthreads_or(int predicate) { return cuda_emulator_block_barrier(predicate != 0) != 0; }
inline int __syncthreads_and(int predicate) { return cuda_emulator_block_barrier(predicate == 0) == 0; }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
    cuda_emulator_warp_collective(kCudaEmulatorWarpBarrier, mask, 0, 0);
}

namespace cuda_emulator {

inline unsigned lane() {
    return ((threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x) & 31u;
}

template <class T>
T shuffle(unsigned mask, T value, unsigned source) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 2, 4 or 8 bytes");
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(T));
    bits = cuda_emulator_warp_collective(kCudaEmulatorShuffle, mask, bits, source);
    T result;
    __builtin_memcpy(&result, &bits, sizeof(T));
    return result;
}

}  // namespace cuda_emulator

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const unsigned segment = cuda_emulator::lane() & ~(unsigned)(width - 1);
    return cuda_emulator::shuffle(mask, value, segment | ((unsigned)source & (unsigned)(width - 1)));
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
    const unsigned lane = cuda_emulator::lane(), last = lane | (unsigned)(width - 1);
    const unsigned source = lane ^ (unsigned)lane_mask;
    return cuda_emulator::shuffle(mask, value, source > last ? lane : source);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const unsigned lane = cuda_emulator::lane(), last = lane | (unsigned)(width - 1);
    return cuda_emulator::shuffle(mask, value, lane + delta > last ? lane : lane + delta);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const unsigned lane = cuda_emulator::lane(), first = lane & ~(unsigned)(width - 1);
    return cuda_emulator::shuffle(mask, value, lane < first + delta ? lane : lane - delta);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return (unsigned)cuda_emulator_warp_collective(kCudaEmulatorBallot, mask, predicate != 0, 0);
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate == 0) == 0; }

// Refused: the lanes that happen to run together are no fact of the program.
unsigned __activemask() = delete;

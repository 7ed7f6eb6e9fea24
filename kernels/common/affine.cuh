// The per-channel coefficients: the normalization as an affine map, from shared memory to the accumulators of a thread.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../abi.h"
#include "smem.cuh"

// The normalization of one channel: y = fma(x - mean, scale, shift), where shift = beta - mean_lo * scale takes in the
// residual of the mean. Never x * scale + shift, which loses the digits that x and the mean have in common.
struct alignas(16) Affine {
    float mean, scale, shift, unused;
};

// 1 / sqrt(var + eps), and 0 where there is nothing to scale.
__device__ __forceinline__ float inv_std_of(float var, float eps) {
    const float padded = var + eps;
    return padded == 0.0f ? 0.0f : 1.0f / sqrtf(padded);
}

// gamma, beta: (c), or null.
__device__ __forceinline__ Affine affine_of(const float* gamma, const float* beta, uint32_t channel, float mean,
                                            float mean_lo, float inv_std) {
    const float scale = gamma != nullptr ? inv_std * gamma[channel] : inv_std;
    const float shift = beta != nullptr ? beta[channel] : 0.0f;
    return {mean, scale, fmaf(-mean_lo, scale, shift), 0.0f};
}

// Writes the coefficients of a tile to shared memory, (tile_channels), and waits for all of them. A writer brings those
// of its channel, `make()`. The last channels of the last tile may not exist: they get zeros, since threads load them.
template <class Coeffs, class Make>
__device__ __forceinline__ void write_coeffs(const BnTiling& t, const SharedStorage& smem, bool is_writer,
                                             uint32_t tile_channel, uint32_t channel, Make make) {
    if (is_writer && tile_channel < t.tile_channels) {
        Coeffs coeffs = {0.0f, 0.0f, 0.0f, 0.0f};
        if (channel < t.channels) coeffs = make();
        reinterpret_cast<Coeffs*>(smem.coeffs)[tile_channel] = coeffs;
    }
    __syncthreads();
}

// The affines of running statistics. Plan guarantees a thread per channel of the tile.
template <class Args>
__device__ __forceinline__ void write_running_affines(const Args& args, uint32_t tile, const SharedStorage& smem) {
    const BnTiling& t = args.tiling;
    const BnStatistics& running = args.statistics;
    const uint32_t channel = tile * t.tile_channels + threadIdx.x;
    write_coeffs<Affine>(t, smem, true, threadIdx.x, channel, [&] {
        const float inv_std = inv_std_of(running.var[channel], running.eps);
        return affine_of(args.gamma, args.beta, channel, running.mean[channel], 0.0f, inv_std);
    });
}

// The coefficients of a thread's accumulators, in registers.
template <class Iter, class Coeffs>
struct ThreadCoeffs {
    Coeffs of[Iter::kAccums];

    __device__ __forceinline__ ThreadCoeffs(const Iter& iter, const BnTiling& t, const SharedStorage& smem) {
#pragma unroll
        for (int acc = 0; acc < Iter::kAccums; acc++)
            of[acc] = reinterpret_cast<const Coeffs*>(smem.coeffs)[iter.tile_channel(t, acc)];
    }
    // The coefficients of element `element` of the thread's vectors.
    __device__ __forceinline__ const Coeffs& at(int element) const { return of[element % Iter::kAccums]; }
};

template <class Iter>
using Affines = ThreadCoeffs<Iter, Affine>;

__device__ __forceinline__ float normalized(const Affine& affine, float x) {
    return fmaf(x - affine.mean, affine.scale, affine.shift);
}

// The per-channel coefficients: the normalization as an affine map, from shared memory to the accumulators of a thread.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../abi.h"
#include "smem.cuh"
#include "tile_iterator.cuh"

// The normalization of one channel: y = fma(x - mean, scale, shift), where shift = beta - mean_lo * scale takes in the
// residual of the mean. Never x * scale + shift, which loses the digits that x and the mean have in common.
struct alignas(16) Affine {
    float mean, scale, shift;
    float inv_std; // for whoever writes dgamma; no part of the map
};

// 1 / sqrt(var + eps), and 0 where there is nothing to scale.
__device__ __forceinline__ float inv_std_of(float var, float eps) {
    const float padded = var + eps;
    return padded == 0.0f ? 0.0f : 1.0f / sqrtf(padded);
}

// gamma and beta of a channel.
struct Parameters {
    float gamma, beta;

    // Asks for them; nothing waits for a value before its first use.
    // gamma, beta: (c), or null.
    static __device__ __forceinline__ Parameters load(const float* gamma, const float* beta, uint32_t channel) {
        return {gamma != nullptr ? gamma[channel] : 1.0f, beta != nullptr ? beta[channel] : 0.0f};
    }
};

__device__ __forceinline__ Affine affine_of(const Parameters& parameters, float mean, float mean_lo, float inv_std) {
    const float scale = inv_std * parameters.gamma;
    return {mean, scale, fmaf(-mean_lo, scale, parameters.beta), inv_std};
}

// Writes the coefficients of a tile to shared memory, (tile_channels), and waits for all of them. A writer brings those
// of its channel, `make()`. The last channels of the last tile may not exist: they get zeros, since threads load them.
template <class Coeffs, class Make>
__device__ __forceinline__ void write_coeffs(const BnTiling& t, const SharedStorage& smem, bool is_writer,
                                             uint32_t tile_channel, uint32_t channel, Make make) {
    if (is_writer && tile_channel < t.tile_channels) {
        Coeffs coeffs = {0.0f, 0.0f, 0.0f, 0.0f};
        if (channel < t.channels) coeffs = make();
        smem.coeffs<Coeffs>()[tile_channel] = coeffs;
    }
    __syncthreads();
}

// The running statistics and parameters of the channel that a thread writes the affine of. Plan guarantees a thread per
// channel of the tile.
struct RunningInputs {
    uint32_t channel;
    float mean, var;
    Parameters parameters;

    // Asks for them.
    template <class Args>
    __device__ __forceinline__ RunningInputs(const Args& args, uint32_t tile)
        : channel(tile * args.tiling.tile_channels + threadIdx.x), mean(0.0f), var(0.0f), parameters({0.0f, 0.0f}) {
        if (threadIdx.x >= args.tiling.tile_channels || channel >= args.tiling.channels) return;
        mean = args.statistics.mean[channel];
        var = args.statistics.var[channel];
        parameters = Parameters::load(args.gamma, args.beta, channel);
    }

    __device__ __forceinline__ void write_affines(const BnTiling& t, float eps, const SharedStorage& smem) const {
        write_coeffs<Affine>(t, smem, true, threadIdx.x, channel,
                             [&] { return affine_of(parameters, mean, 0.0f, inv_std_of(var, eps)); });
    }
};

// The coefficients of a thread's accumulators, in registers.
template <class Iter, class Coeffs>
struct ThreadCoeffs {
    Coeffs of[Iter::kAccums];

    ThreadCoeffs() = default;
    __device__ __forceinline__ ThreadCoeffs(const Iter& iter, const BnTiling& t, const SharedStorage& smem) {
        TileElement at = iter.first_element();
#pragma unroll
        for (int acc = 0; acc < Iter::kAccums; acc++) {
            of[acc] = smem.coeffs<Coeffs>()[at.channel];
            if (++at.element == t.inner) at = {at.channel + 1, 0};
        }
    }
    // The coefficients of element `element` of the thread's vectors.
    __device__ __forceinline__ const Coeffs& at(int element) const { return of[element % Iter::kAccums]; }
};

template <class Iter>
using Affines = ThreadCoeffs<Iter, Affine>;

__device__ __forceinline__ float normalized(const Affine& affine, float x) {
    return fmaf(x - affine.mean, affine.scale, affine.shift);
}

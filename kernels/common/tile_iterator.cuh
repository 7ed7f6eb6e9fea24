// The tile iterators: which thread owns which vector of a channel tile, in two access patterns.
//
// A tile is a group of neighbouring channels: `rows` rows of `width` vectors, `row_vectors` from one row to the next.
// Tile i begins at column i * width. A CTA owns the chunk [split * chunk, (split + 1) * chunk) of it.
//
//   Contiguous  The tile is one channel, and so is every vector. The chunk counts vectors row by row. Thread t owns
//               vector i * threads + t of it in iteration i: one accumulator per thread.
//   Strided     The tile has several channels. The chunk counts rows. Thread t keeps to column t % width, and owns row
//               i * (threads / width) + t / width of the chunk in iteration i: one accumulator per element of its
//               vector. The channel of an accumulator matters only where accumulators are reduced and coefficients
//               loaded.
//
// All threads of a CTA run the same number of iterations. A thread's valid iterations come first. Offsets count vectors
// and are 64-bit. Plan guarantees that the chunks cover the tile and that there are fewer than 2^31 iterations.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../abi.h"
#include "vector.cuh"

// A tile, and a CTA's share of it.
struct TileCoord {
    uint32_t tile;
    uint32_t split;
};

// The coordinate of a CTA of a launch without teams. Neighbouring CTAs take neighbouring tiles.
__device__ __forceinline__ TileCoord tile_coord(const BnTiling& tiling, uint32_t cta) {
    return {cta % tiling.tiles, cta / tiling.tiles};
}

// The number of `begin`, `begin + stride`, ... before `end`.
__device__ __forceinline__ uint32_t count_strided(int64_t begin, int64_t end, uint32_t stride) {
    return begin < end ? static_cast<uint32_t>((end - begin + stride - 1) / stride) : 0;
}

template <class T, int kVecElements>
struct Contiguous {
    using Data = T;
    using Raw = typename Vector<T, kVecElements>::Raw;
    static constexpr int kVec = kVecElements;
    // Accumulators of a thread.
    static constexpr int kAccums = 1;
    static constexpr bool kIsStrided = false;

    const BnTiling& t;
    int64_t offset;
    int64_t col, col_stride, stride;
    uint32_t iteration, iterations, valid_iterations;

    __device__ __forceinline__ Contiguous(const BnTiling& tiling, TileCoord coord) : t(tiling) {
        const int64_t begin = coord.split * t.chunk;
        const int64_t end = min(t.rows * t.width, begin + t.chunk);
        const int64_t index = begin + threadIdx.x;
        iteration = 0;
        iterations = count_strided(begin, end, blockDim.x);
        valid_iterations = count_strided(index, end, blockDim.x);
        const int64_t row = index / t.width;
        col = index - row * t.width;
        offset = row * t.row_vectors + coord.tile * t.width + col;
        const int64_t row_stride = blockDim.x / t.width;
        col_stride = blockDim.x - row_stride * t.width;
        stride = row_stride * t.row_vectors + col_stride;
    }
    __device__ __forceinline__ bool valid() const { return iteration < valid_iterations; }
    __device__ __forceinline__ void operator++() {
        iteration++;
        offset += stride;
        col += col_stride;
        if (col >= t.width) {
            col -= t.width;
            offset += t.row_vectors - t.width;
        }
    }
    __device__ __forceinline__ void operator--() {
        iteration--;
        offset -= stride;
        col -= col_stride;
        if (col < 0) {
            col += t.width;
            offset -= t.row_vectors - t.width;
        }
    }
    // Moves from the first iteration to the last.
    __device__ __forceinline__ void seek_end() {
        const int64_t ahead = (static_cast<int64_t>(iterations) - 1) * blockDim.x;
        const int64_t row = (col + ahead) / t.width;
        iteration = iterations - 1;
        offset += ahead + row * (t.row_vectors - t.width);
        col += ahead - row * t.width;
    }
    // The channel of accumulator `acc` within the tile.
    __device__ __forceinline__ uint32_t tile_channel(const BnTiling&, int) const { return 0; }
};

template <class T, int kVecElements>
struct Strided {
    using Data = T;
    using Raw = typename Vector<T, kVecElements>::Raw;
    static constexpr int kVec = kVecElements;
    static constexpr int kAccums = kVecElements;
    static constexpr bool kIsStrided = true;

    int64_t offset, stride;
    uint32_t col;
    uint32_t iteration, iterations, valid_iterations;

    __device__ __forceinline__ Strided(const BnTiling& t, TileCoord coord) {
        const uint32_t width = static_cast<uint32_t>(t.width);
        const int64_t begin = coord.split * t.chunk;
        const uint32_t row_stride = blockDim.x / width;
        col = threadIdx.x % width;
        const uint32_t thread_row = threadIdx.x / width;
        const int64_t tensor_col = coord.tile * t.width + col;
        const int64_t end = min(t.rows, begin + t.chunk);
        const int64_t row = begin + thread_row;
        iteration = 0;
        iterations = count_strided(begin, end, row_stride);
        // Threads beyond the last full row of columns, and columns beyond the tensor's row, own nothing.
        valid_iterations =
            thread_row < row_stride && tensor_col < t.row_vectors ? count_strided(row, end, row_stride) : 0;
        offset = row * t.row_vectors + tensor_col;
        stride = static_cast<int64_t>(row_stride) * t.row_vectors;
    }
    __device__ __forceinline__ bool valid() const { return iteration < valid_iterations; }
    __device__ __forceinline__ void operator++() {
        iteration++;
        offset += stride;
    }
    __device__ __forceinline__ void operator--() {
        iteration--;
        offset -= stride;
    }
    __device__ __forceinline__ void seek_end() {
        iteration = iterations - 1;
        offset += (static_cast<int64_t>(iterations) - 1) * stride;
    }
    __device__ __forceinline__ uint32_t tile_channel(const BnTiling& t, int acc) const {
        return (col * kVec + acc) / t.inner;
    }
};

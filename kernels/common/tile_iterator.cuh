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

// No BnStrategy: an instance for all of them.
constexpr int kAnyStrategy = -1;

// A tile, and a CTA's share of it.
struct TileCoord {
    uint32_t tile;
    uint32_t split;
};

// An element of a row of a tile: a channel of the tile, and which of its `inner` elements.
struct TileElement {
    uint32_t channel;
    uint32_t element;
};

// n / d, 0 <= n < 2^63, rounded down. A division of 64 bits is a call of a hundred instructions, one of 32 bits twenty.
__device__ __forceinline__ int64_t divided(int64_t n, const BnDivisor& by) {
    return static_cast<int64_t>(__umul64hi(by.reciprocal, static_cast<uint64_t>(n) << 1) >> by.shift);
}
__device__ __forceinline__ uint32_t divided(uint32_t n, const BnDivisor& by) {
    return static_cast<uint32_t>(divided(static_cast<int64_t>(n), by));
}

// The coordinate of a CTA of a launch without teams. Neighbouring CTAs take neighbouring tiles.
__device__ __forceinline__ TileCoord tile_coord(const BnTiling& tiling, uint32_t cta) {
    const uint32_t split = divided(cta, tiling.by_tiles);
    return {cta - split * tiling.tiles, split};
}

// The number of `begin`, `begin + stride`, ... before `end`, where `stride` is the length of an iteration.
__device__ __forceinline__ uint32_t count_strided(const BnTiling& t, int64_t begin, int64_t end, uint32_t stride) {
    return begin < end ? static_cast<uint32_t>(divided(end - begin + stride - 1, t.by_iteration)) : 0;
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
        iterations = count_strided(t, begin, end, blockDim.x);
        valid_iterations = count_strided(t, index, end, blockDim.x);
        const int64_t row = divided(index, t.by_width);
        col = index - row * t.width;
        offset = row * t.row_vectors + coord.tile * t.width + col;
        const int64_t row_stride = divided(blockDim.x, t.by_width);
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
        const int64_t row = divided(col + ahead, t.by_width);
        iteration = iterations - 1;
        offset += ahead + row * (t.row_vectors - t.width);
        col += ahead - row * t.width;
    }
    // The element of a row at which the thread's vectors begin, as the channel within the tile and the element of it.
    __device__ __forceinline__ TileElement first_element() const { return {0, 0}; }
};

template <class T, int kVecElements>
struct Strided {
    using Data = T;
    using Raw = typename Vector<T, kVecElements>::Raw;
    static constexpr int kVec = kVecElements;
    static constexpr int kAccums = kVecElements;
    static constexpr bool kIsStrided = true;

    const BnTiling& t;
    int64_t offset, stride;
    uint32_t iteration, iterations, valid_iterations;

    __device__ __forceinline__ Strided(const BnTiling& tiling, TileCoord coord) : t(tiling) {
        const int64_t begin = coord.split * t.chunk;
        const uint32_t row_stride = divided(blockDim.x, t.by_width);
        const uint32_t thread_row = row(), col = threadIdx.x - thread_row * static_cast<uint32_t>(t.width);
        const int64_t tensor_col = coord.tile * t.width + col;
        const int64_t end = min(t.rows, begin + t.chunk);
        const int64_t first_row = begin + thread_row;
        iteration = 0;
        iterations = count_strided(t, begin, end, row_stride);
        // Threads beyond the last full row of columns, and columns beyond the tensor's row, own nothing.
        valid_iterations =
            thread_row < row_stride && tensor_col < t.row_vectors ? count_strided(t, first_row, end, row_stride) : 0;
        offset = first_row * t.row_vectors + tensor_col;
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
    // The row of an iteration, and the column, that the thread owns.
    __device__ __forceinline__ uint32_t row() const { return divided(threadIdx.x, t.by_width); }
    __device__ __forceinline__ uint32_t col() const { return threadIdx.x - row() * static_cast<uint32_t>(t.width); }
    __device__ __forceinline__ TileElement first_element() const {
        const uint32_t element = col() * kVec, channel = divided(element, t.by_inner);
        return {channel, element - channel * t.inner};
    }
};

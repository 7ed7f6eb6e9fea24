// Who owns which element: the two forms in which a CTA walks its part of a strip.
//
// A strip is a group of neighbouring channels: `rows` rows of `width` vectors, `row_vectors` from one row to the next.
//
//   Rows      the strip is one channel, and so is every vector. Thread t takes vectors t, t + threads, ... of the
//             strip's chunk, counted row by row: one accumulator a thread.
//   Columns   the strip has several channels; thread t keeps to column t % width, and takes every (threads / width)-th
//             row of the chunk: one accumulator for each element of its vector. Which channel an element belongs to
//             matters only where accumulators are merged and coefficients loaded.
//
// Both walk in steps that are the same for all threads of a CTA. A thread's valid steps come before its invalid ones.
// Offsets count vectors and are 64-bit.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "abi.h"
#include "element.cuh"

// Which strip, and which part of it.
struct Part {
    uint32_t strip;
    uint32_t split;
};

// The part of this CTA. Neighbouring CTAs take neighbouring strips.
__device__ __forceinline__ Part part_of(const BnTiling& tiling, uint32_t cta) {
    return {cta % tiling.strips, cta / tiling.strips};
}

template <class T, int kVecElements>
struct Rows {
    using Data = T;
    static constexpr int kVec = kVecElements;
    // Accumulators of a thread.
    static constexpr int kLanes = 1;
    static constexpr bool kIsColumns = false;

    int64_t offset, index, end;
    int64_t col, width, jump, wrap;
    int64_t col_step;
    uint32_t steps;
    uint32_t channel;

    __device__ __forceinline__ Rows(const BnTiling& t, Part part) {
        const int64_t begin = part.split * t.chunk;
        width = t.width;
        end = min(t.rows * width, begin + t.chunk);
        steps = end > begin ? static_cast<uint32_t>((end - begin + blockDim.x - 1) / blockDim.x) : 0;
        index = begin + threadIdx.x;
        const int64_t row = index / width;
        col = index - row * width;
        offset = row * t.row_vectors + part.strip * width + col;
        const int64_t row_step = blockDim.x / width;
        col_step = blockDim.x - row_step * width;
        jump = row_step * t.row_vectors + col_step;
        wrap = t.row_vectors - width;
        channel = part.strip;
    }
    __device__ __forceinline__ bool valid() const { return index < end; }
    __device__ __forceinline__ void advance() {
        index += blockDim.x;
        offset += jump;
        col += col_step;
        if (col >= width) {
            col -= width;
            offset += wrap;
        }
    }
    __device__ __forceinline__ void retreat() {
        index -= blockDim.x;
        offset -= jump;
        col -= col_step;
        if (col < 0) {
            col += width;
            offset -= wrap;
        }
    }
    // From the first step to the last.
    __device__ __forceinline__ void to_last() {
        const int64_t ahead = static_cast<int64_t>(steps - 1) * blockDim.x;
        const int64_t row = (col + ahead) / width;
        index += ahead;
        offset += ahead + row * wrap;
        col += ahead - row * width;
    }
    // How many of this thread's steps are valid.
    __device__ __forceinline__ uint32_t valid_steps() const {
        return valid() ? static_cast<uint32_t>((end - index + blockDim.x - 1) / blockDim.x) : 0;
    }
    // The strip's channel of accumulator `lane`.
    __device__ __forceinline__ uint32_t strip_channel(const BnTiling&, int) const { return 0; }
};

template <class T, int kVecElements>
struct Columns {
    using Data = T;
    static constexpr int kVec = kVecElements;
    static constexpr int kLanes = kVecElements;
    static constexpr bool kIsColumns = true;

    int64_t offset, index, end, jump;
    uint32_t row_step, col, steps;
    uint32_t channel;

    __device__ __forceinline__ Columns(const BnTiling& t, Part part) {
        const uint32_t width = static_cast<uint32_t>(t.width);
        const int64_t begin = part.split * t.chunk;
        row_step = blockDim.x / width;
        col = threadIdx.x % width;
        const uint32_t lane_row = threadIdx.x / width;
        const int64_t strip_col = part.strip * t.width + col;
        end = min(t.rows, begin + t.chunk);
        steps = end > begin ? static_cast<uint32_t>((end - begin + row_step - 1) / row_step) : 0;
        index = begin + lane_row;
        offset = index * t.row_vectors + strip_col;
        jump = row_step * t.row_vectors;
        channel = part.strip * t.strip_channels;
        // Threads beyond the last full row of columns, and columns beyond the tensor's row, own nothing.
        if (lane_row >= row_step || strip_col >= t.row_vectors) end = INT64_MIN;
    }
    __device__ __forceinline__ bool valid() const { return index < end; }
    __device__ __forceinline__ void advance() {
        index += row_step;
        offset += jump;
    }
    __device__ __forceinline__ void retreat() {
        index -= row_step;
        offset -= jump;
    }
    __device__ __forceinline__ void to_last() {
        const int64_t ahead = static_cast<int64_t>(steps) - 1;
        index += ahead * row_step;
        offset += ahead * jump;
    }
    __device__ __forceinline__ uint32_t valid_steps() const {
        return valid() ? static_cast<uint32_t>((end - index + row_step - 1) / row_step) : 0;
    }
    __device__ __forceinline__ uint32_t strip_channel(const BnTiling& t, int lane) const {
        return (col * kVec + lane) / t.span;
    }
};

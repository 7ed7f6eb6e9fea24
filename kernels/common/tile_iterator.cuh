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

#include "../abi.h"
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

// How many of `begin`, `begin + step`, ... come before `end`. Plan keeps it below 2^31.
__device__ __forceinline__ uint32_t count_of(int64_t begin, int64_t end, uint32_t step) {
    return begin < end ? static_cast<uint32_t>((end - begin + step - 1) / step) : 0;
}

template <class T, int kVecElements>
struct Rows {
    using Data = T;
    using Raw = typename Vector<T, kVecElements>::Raw;
    static constexpr int kVec = kVecElements;
    // Accumulators of a thread.
    static constexpr int kLanes = 1;
    static constexpr bool kIsColumns = false;

    const BnTiling& t;
    int64_t offset;
    int64_t col, col_step, jump;
    uint32_t step, steps, valid_steps;

    __device__ __forceinline__ Rows(const BnTiling& tiling, Part part) : t(tiling) {
        const int64_t begin = part.split * t.chunk;
        const int64_t end = min(t.rows * t.width, begin + t.chunk);
        const int64_t index = begin + threadIdx.x;
        step = 0;
        steps = count_of(begin, end, blockDim.x);
        valid_steps = count_of(index, end, blockDim.x);
        const int64_t row = index / t.width;
        col = index - row * t.width;
        offset = row * t.row_vectors + part.strip * t.width + col;
        const int64_t row_step = blockDim.x / t.width;
        col_step = blockDim.x - row_step * t.width;
        jump = row_step * t.row_vectors + col_step;
    }
    __device__ __forceinline__ bool valid() const { return step < valid_steps; }
    __device__ __forceinline__ void advance() {
        step++;
        offset += jump;
        col += col_step;
        if (col >= t.width) {
            col -= t.width;
            offset += t.row_vectors - t.width;
        }
    }
    __device__ __forceinline__ void retreat() {
        step--;
        offset -= jump;
        col -= col_step;
        if (col < 0) {
            col += t.width;
            offset -= t.row_vectors - t.width;
        }
    }
    // From the first step to the last.
    __device__ __forceinline__ void to_last() {
        const int64_t ahead = (static_cast<int64_t>(steps) - 1) * blockDim.x;
        const int64_t row = (col + ahead) / t.width;
        step = steps - 1;
        offset += ahead + row * (t.row_vectors - t.width);
        col += ahead - row * t.width;
    }
    // The strip's channel of accumulator `lane`.
    __device__ __forceinline__ uint32_t strip_channel(const BnTiling&, int) const { return 0; }
};

template <class T, int kVecElements>
struct Columns {
    using Data = T;
    using Raw = typename Vector<T, kVecElements>::Raw;
    static constexpr int kVec = kVecElements;
    static constexpr int kLanes = kVecElements;
    static constexpr bool kIsColumns = true;

    int64_t offset, jump;
    uint32_t col;
    uint32_t step, steps, valid_steps;

    __device__ __forceinline__ Columns(const BnTiling& t, Part part) {
        const uint32_t width = static_cast<uint32_t>(t.width);
        const int64_t begin = part.split * t.chunk;
        const uint32_t row_step = blockDim.x / width;
        col = threadIdx.x % width;
        const uint32_t lane_row = threadIdx.x / width;
        const int64_t strip_col = part.strip * t.width + col;
        const int64_t end = min(t.rows, begin + t.chunk);
        const int64_t row = begin + lane_row;
        step = 0;
        steps = count_of(begin, end, row_step);
        // Threads beyond the last full row of columns, and columns beyond the tensor's row, own nothing.
        valid_steps = lane_row < row_step && strip_col < t.row_vectors ? count_of(row, end, row_step) : 0;
        offset = row * t.row_vectors + strip_col;
        jump = static_cast<int64_t>(row_step) * t.row_vectors;
    }
    __device__ __forceinline__ bool valid() const { return step < valid_steps; }
    __device__ __forceinline__ void advance() {
        step++;
        offset += jump;
    }
    __device__ __forceinline__ void retreat() {
        step--;
        offset -= jump;
    }
    __device__ __forceinline__ void to_last() {
        step = steps - 1;
        offset += (static_cast<int64_t>(steps) - 1) * jump;
    }
    __device__ __forceinline__ uint32_t strip_channel(const BnTiling& t, int lane) const {
        return (col * kVec + lane) / t.span;
    }
};

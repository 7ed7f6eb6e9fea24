// Reductions within a CTA: from the accumulators of threads to one partial per channel, in an order that Plan fixes.
//
//   thread_reduce         any number of partials, by one thread
//   warp_reduce           lanes of a warp, by butterfly shuffles
//   warp_reduce_items     any number of partials, by lanes of a warp
//   block_reduce          the threads of each channel
//   block_reduce_accums   the accumulators of all threads
//
// team.cuh has the levels above: cluster_reduce and grid_reduce.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../abi.h"
#include "smem.cuh"
#include "sync.cuh"
#include "tile_iterator.cuh"
#include "welford.cuh"

// The threads of a CTA that reduce one channel of the tile: `size` neighbouring threads, a power of two. Threads beyond
// the last channel have nothing to add.
struct ChannelThreads {
    uint32_t size, tile_channel, rank;

    __device__ __forceinline__ explicit ChannelThreads(uint32_t channels) {
        // 2^ceil(log2(channels)) groups: both powers of two.
        const uint32_t log2_groups = channels <= 1 ? 0 : 32 - __clz(channels - 1);
        const uint32_t log2_size = 31 - __clz(blockDim.x) - log2_groups;
        size = 1u << log2_size;
        tile_channel = threadIdx.x >> log2_size;
        rank = threadIdx.x & (size - 1);
    }
    // The channel within the tensor, or one past the last for a thread that has none.
    __device__ __forceinline__ uint32_t channel(const BnTiling& t, uint32_t tile) const {
        const uint32_t channel = tile * t.tile_channels + tile_channel;
        return tile_channel < t.tile_channels && channel < t.channels ? channel : t.channels;
    }
    // The threads of the channel that lie in one warp.
    __device__ __forceinline__ uint32_t lanes() const { return min(size, kWarp); }
};

// Reduces `item(first)`, `item(first + stride)`, ... before `item(count)` by one thread. kAtOnce of them are asked for
// before the first is used, and merge as a tree: neighbours have equal counts.
template <class Partial, int kAtOnce, class Item>
__device__ __forceinline__ Partial thread_reduce(uint32_t first, uint32_t count, uint32_t stride, Item item) {
    Partial partial = Partial::identity();
#pragma unroll 1
    for (uint32_t next = first; next < count; next += kAtOnce * stride) {
        Partial items[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; i++)
            items[i] = next + i * stride < count ? item(next + i * stride) : Partial::identity();
#pragma unroll
        for (int step = 1; step < kAtOnce; step *= 2) {
#pragma unroll
            for (int i = 0; i + step < kAtOnce; i += 2 * step) items[i] = merge(items[i], items[i + step]);
        }
        partial = merge(partial, items[0]);
    }
    return partial;
}

// Reduces the partials of `lanes` neighbouring lanes of a warp, a power of two: each gets the result.
template <class Partial>
__device__ __forceinline__ Partial warp_reduce(Partial partial, uint32_t lanes) {
    // The lower lane's partial goes first on both sides, so that both get the same bits.
#pragma unroll 1
    for (uint32_t mask = 1; mask < lanes; mask <<= 1) {
        const Partial other = partial.shfl_xor(mask);
        const bool is_upper = (threadIdx.x & mask) != 0;
        partial = merge(Partial::select(is_upper, other, partial), Partial::select(is_upper, partial, other));
    }
    return partial;
}

// Items of global or shared memory that a thread asks for at once, where there may be many.
constexpr int kItemsAtOnce = 4;

// Reduces `item(0)` to `item(count - 1)` by `lanes` neighbouring lanes of a warp, a power of two: each gets the result.
template <class Partial, class Item>
__device__ __forceinline__ Partial warp_reduce_items(uint32_t lanes, uint32_t count, Item item) {
    const uint32_t first = threadIdx.x & (lanes - 1);
    return warp_reduce(thread_reduce<Partial, kItemsAtOnce>(first, count, lanes, item), lanes);
}

// Reduces the partials of the threads of each channel; every thread of a channel gets its result. Every thread of the
// CTA calls it.
template <class Partial>
__device__ __forceinline__ Partial block_reduce(const ChannelThreads& threads, Partial partial,
                                                const SharedStorage& smem) {
    partial = warp_reduce(partial, threads.lanes());
    if (threads.size <= kWarp) return partial;
    Partial* const warps = smem.warp_partials<Partial>();
    if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = partial;
    __syncthreads();
    const uint32_t count = threads.size / kWarp;
    partial = warp_reduce(warps[threads.tile_channel * count + (threadIdx.x & (count - 1))], count);
    __syncthreads(); // `warps` may be written again
    return partial;
}

// Reduces the accumulators of a CTA's threads to one partial a channel, which every thread of the channel gets.
//
// With strided access a channel's partials come from all over the CTA. They go through shared memory, some rows at a
// time: (slots_of_thread, width, slot_rows), slot_stride from one partial of a thread to its next. The odd number of
// rows keeps threads that store neighbouring columns in different banks, and a channel's threads load neighbouring rows.
template <class Iter, class Accumulator>
__device__ __forceinline__ typename Accumulator::Partial block_reduce_accums(const BnTiling& t, const Iter& iter,
                                                                             const ChannelThreads& threads,
                                                                             const SharedStorage& smem,
                                                                             const Accumulator& accums) {
    using Partial = typename Accumulator::Partial;
    if constexpr (!Iter::kIsStrided) {
        return block_reduce(threads, accums.partial(0), smem);
    } else {
        Partial* const slots = smem.slots<Partial>();
        const uint32_t rows = divided(blockDim.x, t.by_width);
        const uint32_t stride = slot_stride(t), row = iter.row(), col = iter.col();
        const bool paired = is_paired<Iter>(t);
        const uint32_t first = threads.tile_channel * t.inner; // the channel's elements in a row
        const uint32_t first_col = first / Iter::kVec, last_col = (first + t.inner - 1) / Iter::kVec;
        const uint32_t per_row = paired ? last_col - first_col + 1 : t.inner;
        const uint32_t count = threads.tile_channel < t.tile_channels ? per_row * t.slot_rows : 0;
        Partial partial = Partial::identity();
#pragma unroll 1
        for (uint32_t begin = 0; begin < rows; begin += t.slot_rows) {
            if (begin <= row && row < min(begin + t.slot_rows, rows)) {
                Partial* const own = slots + col * t.slot_rows + (row - begin);
                if (paired) {
                    const uint32_t left = t.inner - iter.first_element().element; // of the first channel
                    const int end = static_cast<int>(min(left, uint32_t{Iter::kVec}));
                    own[0] = accums.partial(0, end);
                    if (end < Iter::kVec) own[stride] = accums.partial(end, Iter::kVec);
                } else {
#pragma unroll
                    for (int acc = 0; acc < Iter::kVec; acc++) own[acc * stride] = accums.partial(acc);
                }
            }
            __syncthreads();
            const Partial of_rows = thread_reduce<Partial, 2>(threads.rank, count, threads.size, [&](uint32_t i) {
                const uint32_t at = divided(i, t.by_slot_rows), slot_row = i - at * t.slot_rows;
                const uint32_t element = first + at, paired_col = first_col + at;
                const uint32_t part = paired ? (paired_col * Iter::kVec < first ? 1 : 0) : element % Iter::kVec;
                const uint32_t part_col = paired ? paired_col : element / Iter::kVec;
                if (begin + slot_row >= rows) return Partial::identity();
                return slots[part * stride + part_col * t.slot_rows + slot_row];
            });
            partial = merge(partial, of_rows);
            __syncthreads();
        }
        return block_reduce(threads, partial, smem);
    }
}

// A partial as the sixteen bytes that travel between CTAs.
template <class Partial>
__device__ __forceinline__ uint4 to_raw(const Partial& partial) {
    static_assert(sizeof(Partial) <= sizeof(uint4), "a partial has sixteen bytes");
    uint4 raw = make_uint4(0, 0, 0, 0);
    memcpy(&raw, &partial, Partial::kBytes);
    return raw;
}

// `raw` is passed by value: nvcc makes sixteen loads of a byte for a reference to memory.
template <class Partial>
__device__ __forceinline__ Partial from_raw(const uint4 raw) {
    Partial partial = Partial::identity();
    memcpy(&partial, &raw, Partial::kBytes);
    return partial;
}

// The partials of passes in the workspace: (splits, channels).
template <class Partial>
__device__ __forceinline__ Partial load_partial(const BnWorkspace& workspace, const BnTiling& t, uint32_t split,
                                                uint32_t channel) {
    const uint4* const partials = static_cast<const uint4*>(workspace.partials);
    return from_raw<Partial>(partials[static_cast<int64_t>(split) * t.channels + channel]);
}

template <class Partial>
__device__ __forceinline__ void store_partial(const BnWorkspace& workspace, const BnTiling& t, uint32_t split,
                                              uint32_t channel, const Partial& partial) {
    static_assert(Partial::kLeavesWord, "no partial in a workspace looks like one with a tag");
    static_cast<uint4*>(workspace.partials)[static_cast<int64_t>(split) * t.channels + channel] = to_raw(partial);
}

// Reduces the partials of all splits of a channel by the threads of the channel: the start of a second pass.
template <class Partial>
__device__ __forceinline__ Partial block_reduce_splits(const BnWorkspace& workspace, const BnTiling& t,
                                                       const ChannelThreads& threads, uint32_t channel,
                                                       const SharedStorage& smem) {
    const uint32_t count = channel < t.channels ? t.splits : 0;
    const Partial own = thread_reduce<Partial, kItemsAtOnce>(threads.rank, count, threads.size, [&](uint32_t split) {
        return load_partial<Partial>(workspace, t, split, channel);
    });
    return block_reduce(threads, own, smem);
}

// Reduces the partials of all splits of a channel by one warp; identity() for a channel that does not exist.
template <class Partial>
__device__ __forceinline__ Partial warp_reduce_splits(const BnWorkspace& workspace, const BnTiling& t,
                                                      uint32_t channel) {
    return warp_reduce_items<Partial>(kWarp, channel < t.channels ? t.splits : 0, [&](uint32_t split) {
        return load_partial<Partial>(workspace, t, split, channel);
    });
}

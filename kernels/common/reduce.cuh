// Reductions within a CTA: from the accumulators of threads to one partial per channel, in an order that Plan fixes.
//
//   warp_reduce           lanes of a warp, by butterfly shuffles
//   block_reduce          any number of partials per channel, by the threads of each channel
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
        const uint32_t groups = channels <= 1 ? 1 : 1u << (32 - __clz(channels - 1));
        size = blockDim.x / groups;
        tile_channel = threadIdx.x / size;
        rank = threadIdx.x % size;
    }
    // The channel within the tensor, or one past the last for a thread that has none.
    __device__ __forceinline__ uint32_t channel(const BnTiling& t, uint32_t tile) const {
        const uint32_t channel = tile * t.tile_channels + tile_channel;
        return tile_channel < t.tile_channels && channel < t.channels ? channel : t.channels;
    }
};

// Reduces the partials of `lanes` neighbouring lanes of a warp, a power of two: each gets the result.
template <class Partial>
__device__ __forceinline__ Partial warp_reduce(Partial partial, uint32_t lanes) {
    // The lower lane's partial goes first on both sides, so that both get the same bits.
    for (uint32_t mask = 1; mask < lanes; mask <<= 1) {
        const Partial other = partial.shfl_xor(mask);
        partial = (threadIdx.x & mask) != 0 ? merge(other, partial) : merge(partial, other);
    }
    return partial;
}

// Reduces `count` partials per channel, `item(0)` to `item(count - 1)`; every thread of a channel gets its result. The
// order of merges depends on `count` and the sizes alone. Every thread of the CTA calls it.
template <class Partial, class Item>
__device__ __forceinline__ Partial block_reduce(const ChannelThreads& threads, uint32_t count,
                                                const SharedStorage& smem, Item item) {
    Partial partial = Partial::identity();
    for (uint32_t j = threads.rank; j < count; j += threads.size) partial = merge(partial, item(j));
    partial = warp_reduce(partial, min(threads.size, kWarp));
    if (threads.size > kWarp) {
        Partial* const warps = reinterpret_cast<Partial*>(smem.warp_partials);
        if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = partial;
        __syncthreads();
        const uint32_t first = threads.tile_channel * (threads.size / kWarp);
        partial = warps[first];
        for (uint32_t i = 1; i < threads.size / kWarp; i++) partial = merge(partial, warps[first + i]);
    }
    __syncthreads(); // the memory that `item` and the warps read may be written again
    return partial;
}

// Reduces the accumulators of a CTA's threads; `accums(i)` is this thread's accumulator i.
template <class Iter, class Partial, class Accums>
__device__ __forceinline__ Partial block_reduce_accums(const BnTiling& t, const ChannelThreads& threads,
                                                       const SharedStorage& smem, Accums accums) {
    if constexpr (!Iter::kIsStrided) {
        const Partial own = accums(0);
        return block_reduce<Partial>(threads, blockDim.x, smem, [&](uint32_t) { return own; });
    } else {
        Partial* const partials = reinterpret_cast<Partial*>(smem.thread_partials);
#pragma unroll
        for (int acc = 0; acc < Iter::kAccums; acc++) partials[acc * blockDim.x + threadIdx.x] = accums(acc);
        __syncthreads();
        const uint32_t width = static_cast<uint32_t>(t.width);
        const uint32_t first = threads.tile_channel * t.inner;
        const uint32_t count = threads.tile_channel < t.tile_channels ? blockDim.x / width * t.inner : 0;
        return block_reduce<Partial>(threads, count, smem, [&](uint32_t j) {
            const uint32_t row = j / t.inner;
            const uint32_t element = first + (j - row * t.inner);
            return partials[element % Iter::kVec * blockDim.x + row * width + element / Iter::kVec];
        });
    }
}

// A partial as the sixteen bytes that travel between CTAs.
template <class Partial>
__device__ __forceinline__ uint4 to_raw(const Partial& partial) {
    static_assert(sizeof(Partial) <= sizeof(uint4), "a partial has sixteen bytes");
    uint4 raw = make_uint4(0, 0, 0, 0);
    memcpy(&raw, &partial, sizeof(Partial));
    return raw;
}

// `raw` is passed by value: nvcc makes sixteen loads of a byte for a reference to memory.
template <class Partial>
__device__ __forceinline__ Partial from_raw(const uint4 raw) {
    Partial partial;
    memcpy(&partial, &raw, sizeof(Partial));
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
    static_cast<uint4*>(workspace.partials)[static_cast<int64_t>(split) * t.channels + channel] = to_raw(partial);
}

// Reduces the partials of all splits of a channel by the threads of the channel: the start of a second pass.
template <class Partial>
__device__ __forceinline__ Partial block_reduce_splits(const BnWorkspace& workspace, const BnTiling& t,
                                                       const ChannelThreads& threads, uint32_t channel,
                                                       const SharedStorage& smem) {
    return block_reduce<Partial>(threads, channel < t.channels ? t.splits : 0, smem, [&](uint32_t split) {
        return load_partial<Partial>(workspace, t, split, channel);
    });
}

// Reduces the partials of all splits of a channel by one warp; identity() for a channel that does not exist.
template <class Partial>
__device__ __forceinline__ Partial warp_reduce_splits(const BnWorkspace& workspace, const BnTiling& t,
                                                      uint32_t channel) {
    Partial partial = Partial::identity();
    if (channel < t.channels) {
        for (uint32_t split = threadIdx.x % kWarp; split < t.splits; split += kWarp)
            partial = merge(partial, load_partial<Partial>(workspace, t, split, channel));
    }
    return warp_reduce(partial, kWarp);
}

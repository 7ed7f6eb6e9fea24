// From the accumulators of threads to one result a channel, in an order that Plan fixes.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../abi.h"
#include "sync.cuh"
#include "tile_iterator.cuh"
#include "welford.cuh"

// The dynamic shared memory of a CTA, part by part. Plan computes the same sizes.
struct Shared {
    static constexpr uint32_t kPartialBytes = 16;
    static constexpr uint32_t kMaxWarps = BN_MAX_THREADS / kWarp;

    unsigned char* warps; // one partial a warp
    unsigned char* channels; // sixteen bytes for each channel of the strip
    unsigned char* mailboxes; // in a cluster: two partials for each channel of the strip and CTA, and two barriers
    unsigned char* slots; // in the columns forms: one partial for each element of each thread's vector
    unsigned char* strip; // what is kept of the strip

    template <class Owner>
    static __device__ __forceinline__ Shared carve(const BnTiling& t) {
        Shared s;
        s.warps = dynamic_shared();
        s.channels = s.warps + kMaxWarps * kPartialBytes;
        s.mailboxes = s.channels + t.strip_channels * kPartialBytes;
        const uint32_t partials = t.strategy == BN_CLUSTER ? 2 * t.strip_channels * t.splits + 1 : 0;
        s.slots = s.mailboxes + partials * kPartialBytes;
        s.strip = s.slots + (Owner::kIsColumns ? Owner::kVec * blockDim.x * kPartialBytes : 0);
        return s;
    }
};

// What a CTA keeps of its part of a strip: the vectors of its first `steps` steps, where only the thread that owns a
// vector touches it.
template <class Owner>
struct Kept {
    using Raw = typename Owner::Raw;

    uint32_t start; // from the start of the shared memory, which the compiler must see to be that
    uint32_t steps;

    static __device__ __forceinline__ Kept nothing() { return {0, 0}; }
    static __device__ __forceinline__ Kept in(const unsigned char* memory, uint32_t steps) {
        return {static_cast<uint32_t>(memory - dynamic_shared()), steps};
    }
    // As many steps more.
    __device__ __forceinline__ Kept next() const {
        return {start + steps * blockDim.x * static_cast<uint32_t>(sizeof(Raw)), steps};
    }
    __device__ __forceinline__ bool has(uint32_t step) const { return step < steps; }
    __device__ __forceinline__ Raw& at(uint32_t step) const {
        return reinterpret_cast<Raw*>(dynamic_shared() + start)[step * blockDim.x + threadIdx.x];
    }
};

// Which channel of a strip a thread works for where all of a channel's partials meet: `size` neighbouring threads, a
// power of two, work for each. Threads beyond the last channel have nothing to add.
struct Group {
    uint32_t size, strip_channel, rank;

    __device__ __forceinline__ explicit Group(uint32_t channels) {
        // 2^ceil(log2(channels)) groups: both powers of two.
        const uint32_t groups = channels <= 1 ? 1 : 1u << (32 - __clz(channels - 1));
        size = blockDim.x / groups;
        strip_channel = threadIdx.x / size;
        rank = threadIdx.x % size;
    }
    // The channel, or one past the last for a thread that has none.
    __device__ __forceinline__ uint32_t channel(const BnTiling& t, uint32_t strip) const {
        const uint32_t channel = strip * t.strip_channels + strip_channel;
        return strip_channel < t.strip_channels && channel < t.channels ? channel : t.channels;
    }
};

// Merges the partials of `lanes` neighbouring lanes of a warp, a power of two: each gets the result.
template <class Partial>
__device__ __forceinline__ Partial merge_lanes(Partial partial, uint32_t lanes) {
    // The lower lane's partial goes first on both sides, so that both get the same bits.
    for (uint32_t mask = 1; mask < lanes; mask <<= 1) {
        const Partial other = partial.exchanged(mask);
        partial = (threadIdx.x & mask) != 0 ? merge(other, partial) : merge(partial, other);
    }
    return partial;
}

// Merges `count` partials, `item(0)` to `item(count - 1)`, of the channel of each group; every thread of the group gets
// the result. The order of merges depends on `count` and the sizes alone. Every thread of the CTA calls it.
template <class Partial, class Item>
__device__ __forceinline__ Partial merge_group(const Group& group, uint32_t count, const Shared& shared, Item item) {
    Partial partial = Partial::none();
    for (uint32_t j = group.rank; j < count; j += group.size) partial = merge(partial, item(j));
    partial = merge_lanes(partial, min(group.size, kWarp));
    if (group.size > kWarp) {
        Partial* const warps = reinterpret_cast<Partial*>(shared.warps);
        if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = partial;
        __syncthreads();
        const uint32_t first = group.strip_channel * (group.size / kWarp);
        partial = warps[first];
        for (uint32_t i = 1; i < group.size / kWarp; i++) partial = merge(partial, warps[first + i]);
    }
    __syncthreads(); // what `item` and the warps read may be written again
    return partial;
}

// Merges the accumulators of a CTA's threads: `lanes(i)` is that of this thread's lane i.
template <class Owner, class Partial, class Lanes>
__device__ __forceinline__ Partial merge_threads(const BnTiling& t, const Group& group, const Shared& shared,
                                                 Lanes lanes) {
    if constexpr (!Owner::kIsColumns) {
        const Partial own = lanes(0);
        return merge_group<Partial>(group, blockDim.x, shared, [&](uint32_t) { return own; });
    } else {
        Partial* const slots = reinterpret_cast<Partial*>(shared.slots);
#pragma unroll
        for (int lane = 0; lane < Owner::kLanes; lane++) slots[lane * blockDim.x + threadIdx.x] = lanes(lane);
        __syncthreads();
        const uint32_t width = static_cast<uint32_t>(t.width);
        const uint32_t first = group.strip_channel * t.span;
        const uint32_t count = group.strip_channel < t.strip_channels ? blockDim.x / width * t.span : 0;
        return merge_group<Partial>(group, count, shared, [&](uint32_t j) {
            const uint32_t row = j / t.span;
            const uint32_t element = first + (j - row * t.span);
            return slots[element % Owner::kVec * blockDim.x + row * width + element / Owner::kVec];
        });
    }
}

// A partial as the sixteen bytes in which it travels.
template <class Partial>
__device__ __forceinline__ uint4 to_raw(const Partial& partial) {
    static_assert(sizeof(Partial) <= sizeof(uint4), "a partial has sixteen bytes");
    uint4 raw = make_uint4(0, 0, 0, 0);
    memcpy(&raw, &partial, sizeof(Partial));
    return raw;
}

// By value: of a reference to memory the compiler would make sixteen loads of a byte.
template <class Partial>
__device__ __forceinline__ Partial from_raw(const uint4 raw) {
    Partial partial;
    memcpy(&partial, &raw, sizeof(Partial));
    return partial;
}

// Sixteen bytes of the workspace for each split and channel.
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

// Merges the splits of a channel by one warp; none of a channel that does not exist.
template <class Partial>
__device__ __forceinline__ Partial merge_splits(const BnWorkspace& workspace, const BnTiling& t, uint32_t channel) {
    Partial partial = Partial::none();
    if (channel < t.channels) {
        for (uint32_t split = threadIdx.x % kWarp; split < t.splits; split += kWarp)
            partial = merge(partial, load_partial<Partial>(workspace, t, split, channel));
    }
    return merge_lanes(partial, kWarp);
}

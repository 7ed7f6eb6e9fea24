// Reductions across the CTAs of a team: from one partial per channel in each CTA to one of the whole tile, in the order
// of the CTAs.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../abi.h"
#include "reduce.cuh"
#include "smem.cuh"
#include "sync.cuh"
#include "tile_iterator.cuh"

// Whether this architecture has the strategy that an instance is for. One that it has not is compiled to nothing.
__device__ constexpr bool has_strategy(int strategy) { return strategy != BN_CLUSTER || BN_HAS_CLUSTERS != 0; }

// The CTAs that share a tile: one (block), a cluster, or some of a cooperative grid. Each CTA makes one Team; all CTAs
// of a team call `reduce` equally often.
//
// kStrategy is a BnStrategy, whose code alone the instance has, or kAnyStrategy: then it is that of the launch.
template <int kStrategy>
class Team {
  public:
    __device__ __forceinline__ Team(const BnTiling& t, const BnWorkspace& workspace, const SharedStorage& smem)
        : t_(t),
          workspace_(workspace),
          smem_(smem),
          index_(divided(blockIdx.x, t.by_splits)),
          rank_(blockIdx.x - index_ * t.splits),
          reductions_(0),
          arrival_(0) {
        if (strategy() != BN_CLUSTER) return;
        if (threadIdx.x == 0) mbarrier_init(mbarriers(), 2);
        cluster_arrive_relaxed(); // cluster_reduce waits
    }

    // Begins the launch for the team: all threads, behind begin_dependent_launch.
    __device__ __forceinline__ void begin() {
        if (exchanges() && threadIdx.x == 0) arrival_ = begin_exchanges(workspace_.exchanges);
    }

    // The team takes the tiles `first_tile()`, `+ t.teams`, ...; each CTA its split of them.
    __device__ __forceinline__ uint32_t first_tile() const { return index_; }
    __device__ __forceinline__ TileCoord coord(uint32_t tile) const { return {tile, rank_}; }

    // Every thread of a channel brings the CTA's partial; the first of them, rank 0, gets the team's. All threads of the
    // CTA call it, with a __syncthreads between two calls.
    //
    // Two stages of buffers are enough: who stores to a slot again has values of the reduction between, which the readers
    // of the slot sent, or had to send for them, after they had read it. A slot has the same writer in all of a launch.
    template <class Partial>
    __device__ __forceinline__ Partial reduce(const ChannelThreads& threads, const Partial& own) {
        if (strategy() == BN_CLUSTER) return cluster_reduce(threads, own, reductions_++); // clusters have two CTAs at least
        return exchanges() ? grid_reduce(threads, own, reductions_++) : own;
    }

    // The CTA has its last partials: others may end. All threads call it once, behind the last `reduce`. A cluster has one
    // tile.
    __device__ __forceinline__ void arrive_exit() const {
        if (strategy() == BN_CLUSTER) cluster_arrive_relaxed();
    }
    // The CTA may end: no other sends to it any more, nor waits for what it has sent. All threads call it.
    __device__ __forceinline__ void wait_exit() const {
        if (strategy() == BN_CLUSTER) cluster_wait();
        if (exchanges() && epoch() >= kLastEpoch) reset_exchanges();
    }

  private:
    // The epoch from which on a launch makes the counter 0 again. The launch before that may begin one below it and move it
    // by BN_MAX_EXCHANGES, as this one may: no tag of both comes twice.
    static constexpr uint32_t kLastEpoch = kTagBit / 2;
    static_assert(kLastEpoch + 2 * static_cast<uint64_t>(BN_MAX_EXCHANGES) <= kTagBit, "tags have 31 bits");

    const BnTiling& t_;
    const BnWorkspace& workspace_;
    const SharedStorage& smem_;
    const uint32_t index_, rank_;
    uint32_t reductions_;
    Arrival arrival_; // thread 0's

    __device__ __forceinline__ BnStrategy strategy() const {
        return kStrategy == kAnyStrategy ? t_.strategy : static_cast<BnStrategy>(kStrategy);
    }
    // Whether the CTAs of a grid share tiles.
    __device__ __forceinline__ bool exchanges() const { return strategy() == BN_GRID && t_.splits > 1; }

    __device__ __forceinline__ Mbarrier* mbarriers() const {
        return reinterpret_cast<Mbarrier*>(smem_.recv() + 2 * t_.tile_channels * t_.splits);
    }

    // Each CTA stores its partials to the receive buffers of all CTAs, its own among them: (2, tile_channels, splits).
    template <class Partial>
    __device__ __forceinline__ Partial cluster_reduce(const ChannelThreads& threads, const Partial& own,
                                                      uint32_t reduction) const {
        const uint32_t stage = reduction % 2;
        Mbarrier* const mbarrier = mbarriers() + stage;
        uint4* const recv = smem_.recv() + stage * t_.tile_channels * t_.splits;
        if (threadIdx.x == 0) mbarrier_arrive_expect_tx(mbarrier, t_.tile_channels * t_.splits * sizeof(uint4));
        const bool has_channel = threads.tile_channel < t_.tile_channels;
        uint4* const partials = recv + threads.tile_channel * t_.splits;
        if (reduction == 0) cluster_wait(); // no CTA sends to one that is not ready
        if (has_channel) {
#pragma unroll 1
            for (uint32_t peer = threads.rank; peer < t_.splits; peer += threads.size)
                st_async(&partials[rank_], to_raw(own), mbarrier, peer);
        }
        // The warp of the channel's first thread goes on alone. All others wait for it at the next __syncthreads.
        if (threads.rank >= kWarp) return Partial::identity();
        mbarrier_wait_parity(mbarrier, reduction / 2 % 2);
        return warp_reduce_items<Partial>(threads.lanes(), has_channel ? t_.splits : 0, [&](uint32_t peer) {
            return from_raw<Partial>(partials[peer]);
        });
    }

    // The epoch of the launch, in shared memory behind the first reduction.
    __device__ __forceinline__ uint32_t& epoch() const { return smem_.recv()->x; }

    // Partials go through the workspace: for each team and stage (tile_channels, splits) of the CTAs, and (tile_channels)
    // of the team. Each CTA reduces some of several channels for all: else the work would grow with the square of the
    // team. A count of values takes no place in what is sent: the tiling tells it.
    template <class Partial>
    __device__ __forceinline__ Partial grid_reduce(const ChannelThreads& threads, const Partial& own,
                                                   uint32_t reduction) const {
        if (reduction == 0) {
            if (threadIdx.x == 0)
                epoch() = exchange_epoch(workspace_.exchanges, arrival_, gridDim.x, t_.exchanges);
            __syncthreads();
        }
        const uint32_t tag = kTagBit | (epoch() + reduction);
        const uint32_t channels = t_.tile_channels, splits = t_.splits;
        uint4* const partials = static_cast<uint4*>(workspace_.partials) +
                                static_cast<int64_t>(index_ * 2 + reduction % 2) * (splits + 1) * channels;
        const bool has_channel = threads.tile_channel < channels;
        if (threads.rank == 0 && has_channel) store(&partials[threads.tile_channel * splits + rank_], own, tag);
        if (channels == 1) return block_reduce(threads, reduce_channel<Partial>(threads, partials, tag), smem_);

        const ChannelThreads own_threads(divided(channels + splits - 1, t_.by_splits));
        const uint32_t own_channel = rank_ + own_threads.tile_channel * splits;
        const bool has_own = own_channel < channels;
        Partial of_channel = Partial::identity();
        if (has_own) of_channel = reduce_channel<Partial>(own_threads, partials + own_channel * splits, tag);
        of_channel = block_reduce(own_threads, of_channel, smem_);
        uint4* const reduced = partials + channels * splits;
        if (own_threads.rank == 0 && has_own) store(&reduced[own_channel], of_channel, tag);
        if (threads.rank != 0 || !has_channel) return Partial::identity();
        const uint4* const slot = &reduced[threads.tile_channel];
        return with_count(from_raw<Partial>(wait_tagged(slot, load_tagged(slot, tag), tag)), static_cast<float>(t_.m));
    }

    template <class Partial>
    static __device__ __forceinline__ void store(uint4* slot, const Partial& partial, uint32_t tag) {
        static_assert(Partial::kLeavesWord, "the tag takes the last word");
        uint4 raw = to_raw(partial);
        raw.w = tag;
        store_tagged(slot, raw);
    }
    template <class Partial>
    static __device__ __forceinline__ Partial with_count(Partial partial, float count) {
        partial.set_count(count);
        return partial;
    }

    // Reduces the partials that all CTAs have sent of one channel, (splits), each thread some of them.
    template <class Partial>
    __device__ __forceinline__ Partial reduce_channel(const ChannelThreads& threads, const uint4* partials,
                                                      uint32_t tag) const {
        Partial partial = Partial::identity();
#pragma unroll 1
        for (uint32_t i = threads.rank; i < t_.splits; i += threads.size) {
            const float count = i + 1 == t_.splits ? t_.last_chunk_values : t_.chunk_values;
            const uint4 raw = wait_tagged(&partials[i], load_tagged(&partials[i], tag), tag);
            partial = merge(partial, with_count(from_raw<Partial>(raw), count));
        }
        return partial;
    }

    // Makes the workspace as it was at first, before tags come again that some slot may still have. The last CTA to leave
    // does, all of its threads. Its ticket is not that of count_batch, which others of the launch may be taking.
    __device__ __forceinline__ void reset_exchanges() const {
        __syncthreads();
        if (__syncthreads_or(threadIdx.x == 0 && last_ticket(workspace_.reset_ticket, gridDim.x)) == 0) return;
        uint4* const partials = static_cast<uint4*>(workspace_.partials);
        for (uint64_t i = threadIdx.x; i < workspace_.len; i += blockDim.x) partials[i] = make_uint4(0, 0, 0, 0);
        if (threadIdx.x == 0) *workspace_.exchanges = 0;
    }
};

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
          reductions_(0) {
        if (strategy() != BN_CLUSTER) return;
        if (threadIdx.x == 0) mbarrier_init(mbarriers(), 2);
        cluster_arrive_relaxed(); // cluster_reduce waits
    }

    // The team takes the tiles `first_tile()`, `+ t.teams`, ...; each CTA its split of them.
    __device__ __forceinline__ uint32_t first_tile() const { return index_; }
    __device__ __forceinline__ TileCoord coord(uint32_t tile) const { return {tile, rank_}; }

    // Every thread of a channel brings the CTA's partial; the first of them, rank 0, gets the team's. All threads of the
    // CTA call it, with a __syncthreads between two calls.
    //
    // Two stages of buffers are enough: a CTA that writes a stage again has the others' partials of the reduction
    // between, which they sent after they had read this stage.
    template <class Partial>
    __device__ __forceinline__ Partial reduce(const ChannelThreads& threads, const Partial& own) {
        if (strategy() == BN_BLOCK || (strategy() != BN_CLUSTER && t_.splits == 1)) return own; // clusters have two at least
        const uint32_t reduction = reductions_++;
        return strategy() == BN_CLUSTER ? cluster_reduce(threads, own, reduction)
                                         : grid_reduce(threads, own, reduction);
    }

    // The CTA has its last partials: others may end. All threads call it once, behind the last `reduce`. A cluster has one
    // tile.
    __device__ __forceinline__ void arrive_exit() const {
        if (strategy() == BN_CLUSTER) cluster_arrive_relaxed();
    }
    // The CTA may end: no other sends to it any more, nor waits for what it has sent.
    __device__ __forceinline__ void wait_exit() const {
        if (strategy() == BN_CLUSTER) cluster_wait();
    }

  private:
    const BnTiling& t_;
    const BnWorkspace& workspace_;
    const SharedStorage& smem_;
    const uint32_t index_, rank_;
    uint32_t reductions_;

    __device__ __forceinline__ BnStrategy strategy() const {
        return kStrategy == kAnyStrategy ? t_.strategy : static_cast<BnStrategy>(kStrategy);
    }

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

    // Partials go through the workspace: (teams, 2, splits + 1, tile_channels). Each CTA reduces some of several
    // channels for all, at the price of a second barrier; otherwise the work would grow with the square of the team.
    template <class Partial>
    __device__ __forceinline__ Partial grid_reduce(const ChannelThreads& threads, const Partial& own,
                                                   uint32_t reduction) const {
        const uint32_t channels = t_.tile_channels, splits = t_.splits;
        uint4* const partials = static_cast<uint4*>(workspace_.partials) +
                                static_cast<int64_t>(index_ * 2 + reduction % 2) * (splits + 1) * channels;
        const bool has_channel = threads.tile_channel < channels;
        if (threads.rank == 0 && has_channel) partials[rank_ * channels + threads.tile_channel] = to_raw(own);
        team_barrier();
        if (channels == 1) return block_reduce_items<Partial>(threads, splits, [&](uint32_t i) { return partials[i]; });
        const ChannelThreads all(1);
        uint4* const reduced = partials + splits * channels;
        for (uint32_t channel = rank_; channel < channels; channel += splits) {
            const Partial of_channel = block_reduce_items<Partial>(
                all, splits, [&](uint32_t i) { return partials[i * channels + channel]; });
            if (threadIdx.x == 0) reduced[channel] = to_raw(of_channel);
        }
        team_barrier();
        return has_channel ? from_raw<Partial>(reduced[threads.tile_channel]) : Partial::identity();
    }

    // Reduces the partials `raw(0)` to `raw(count - 1)` by the threads of each channel.
    template <class Partial, class Raw>
    __device__ __forceinline__ Partial block_reduce_items(const ChannelThreads& threads, uint32_t count, Raw raw) const {
        const Partial own = thread_reduce<Partial, kItemsAtOnce>(threads.rank, count, threads.size, [&](uint32_t i) {
            return from_raw<Partial>(raw(i));
        });
        return block_reduce(threads, own, smem_);
    }

    __device__ __forceinline__ void team_barrier() const {
        __syncthreads();
        if (threadIdx.x == 0)
            grid_barrier(workspace_.counters + index_ * (BN_COUNTER_BYTES / sizeof(uint32_t)), rank_, t_.splits);
        __syncthreads();
    }
};

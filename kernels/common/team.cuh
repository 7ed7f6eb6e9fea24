// From one partial a channel in each CTA of a team to one of the whole strip, in the order of the CTAs.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../abi.h"
#include "reduce.cuh"
#include "sync.cuh"
#include "tile_iterator.cuh"

// The CTAs that share a strip: one alone (block), a cluster, or some of a cooperative grid. Each CTA makes one Team, and
// all of a team merge as often as each other.
class Team {
  public:
    __device__ __forceinline__ Team(const BnTiling& t, const BnWorkspace& workspace, const Shared& shared)
        : t_(t),
          workspace_(workspace),
          shared_(shared),
          index_(blockIdx.x / t.splits),
          rank_(blockIdx.x % t.splits),
          merges_(0) {
        if (t.strategy != BN_CLUSTER) return;
        if (threadIdx.x == 0) start_arrivals(arrivals(), 2);
        cluster_arrive();
        cluster_wait(); // nothing is sent to a CTA that is not ready
    }

    // The team takes the strips `first_strip()`, `+ t.teams`, ...; each CTA its part of them.
    __device__ __forceinline__ uint32_t first_strip() const { return index_; }
    __device__ __forceinline__ Part part(uint32_t strip) const { return {strip, rank_}; }

    // Every thread of a group brings the CTA's partial of the group's channel, and gets the team's. All threads call it,
    // and a __syncthreads lies between two calls.
    //
    // What is read here may be written again two merges later, and not before: a CTA that has come so far has the others'
    // partials of the merge between, which they sent after they had read these. Hence two boxes of everything.
    template <class Partial>
    __device__ __forceinline__ Partial merged(const Group& group, const Partial& own) {
        if (t_.splits == 1) return own;
        const uint32_t merge = merges_++;
        return t_.strategy == BN_CLUSTER ? of_cluster(group, own, merge) : of_grid(group, own, merge);
    }

    // Before the CTA ends.
    __device__ __forceinline__ void leave() const {
        if (t_.strategy != BN_CLUSTER) return;
        cluster_arrive();
        cluster_wait();
    }

  private:
    const BnTiling& t_;
    const BnWorkspace& workspace_;
    const Shared& shared_;
    const uint32_t index_, rank_;
    uint32_t merges_;

    __device__ __forceinline__ Arrivals* arrivals() const {
        return reinterpret_cast<Arrivals*>(shared_.mailboxes + 2 * t_.strip_channels * t_.splits * sizeof(uint4));
    }

    // Each CTA sends its partials to all, itself among them.
    template <class Partial>
    __device__ __forceinline__ Partial of_cluster(const Group& group, const Partial& own, uint32_t merge_number) const {
        const uint32_t box = merge_number % 2;
        Arrivals* const arrived = arrivals() + box;
        uint4* const mailbox = reinterpret_cast<uint4*>(shared_.mailboxes) + box * t_.strip_channels * t_.splits;
        if (threadIdx.x == 0) expect_bytes(arrived, t_.strip_channels * t_.splits * sizeof(uint4));
        const bool has_channel = group.strip_channel < t_.strip_channels;
        uint4* const letters = mailbox + group.strip_channel * t_.splits;
        if (has_channel) {
#pragma unroll 1
            for (uint32_t peer = group.rank; peer < t_.splits; peer += group.size)
                send(&letters[rank_], to_raw(own), arrived, peer);
        }
        wait_for_bytes(arrived, merge_number / 2 % 2);
        Partial all = Partial::none();
        if (has_channel) {
#pragma unroll 1
            for (uint32_t peer = 0; peer < t_.splits; peer++) all = merge(all, from_raw<Partial>(letters[peer]));
        }
        return all;
    }

    // Through the workspace. Where a strip has several channels the CTAs share the work, which would else grow with the
    // square of the team: each merges some of the channels for all, at the price of meeting twice.
    template <class Partial>
    __device__ __forceinline__ Partial of_grid(const Group& group, const Partial& own, uint32_t merge_number) const {
        const uint32_t channels = t_.strip_channels, splits = t_.splits;
        uint4* const box = static_cast<uint4*>(workspace_.partials) +
                           static_cast<int64_t>(index_ * 2 + merge_number % 2) * (splits + 1) * channels;
        const bool has_channel = group.strip_channel < channels;
        if (group.rank == 0 && has_channel) box[rank_ * channels + group.strip_channel] = to_raw(own);
        meet_team();
        if (channels == 1) {
            return merge_group<Partial>(group, splits, shared_, [&](uint32_t i) { return from_raw<Partial>(box[i]); });
        }
        const Group all(1);
        uint4* const merged = box + splits * channels;
        for (uint32_t channel = rank_; channel < channels; channel += splits) {
            const Partial of_channel = merge_group<Partial>(all, splits, shared_, [&](uint32_t i) {
                return from_raw<Partial>(box[i * channels + channel]);
            });
            if (threadIdx.x == 0) merged[channel] = to_raw(of_channel);
        }
        meet_team();
        return has_channel ? from_raw<Partial>(merged[group.strip_channel]) : Partial::none();
    }

    __device__ __forceinline__ void meet_team() const {
        __syncthreads();
        if (threadIdx.x == 0) meet(workspace_.counters + index_ * (BN_COUNTER_BYTES / sizeof(uint32_t)), rank_, t_.splits);
        __syncthreads();
    }
};

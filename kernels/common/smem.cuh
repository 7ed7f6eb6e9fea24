// The dynamic shared memory of a CTA. Plan computes the same sizes.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../abi.h"
#include "sync.cuh"

// Partials that each thread brings with strided access: one for each accumulator; or, where a channel has at least as
// many elements side by side as a vector, one for each of the two channels that a vector can be of.
template <class Iter>
__device__ __forceinline__ bool is_paired(const BnTiling& t) {
    return t.inner >= Iter::kVec;
}
template <class Iter>
__device__ __forceinline__ uint32_t slots_of_thread(const BnTiling& t) {
    return is_paired<Iter>(t) ? min(Iter::kVec, 2) : Iter::kVec;
}
// Slots from one partial of a thread to its next: those of all columns in `slot_rows` rows. Four more than a multiple of
// eight, which fill all banks once, where it would be one: two channels of four threads each then load from all banks.
__device__ __forceinline__ uint32_t slot_stride(const BnTiling& t) {
    return (static_cast<uint32_t>(t.width) * t.slot_rows) | 4;
}

// The parts of the shared memory, in their order, by what lies before each: an address would take two registers.
class SharedStorage {
  public:
    template <class Iter>
    static __device__ __forceinline__ SharedStorage layout(const BnTiling& t) {
        SharedStorage s;
        s.recv_ = (kMaxWarps + t.tile_channels + t.tile_channels / 8) * kPartialBytes;
        uint32_t partials = t.strategy == BN_GRID ? 1 : 0;
        if (t.strategy == BN_CLUSTER) partials = 2 * t.tile_channels * t.splits + 1;
        s.slots_ = s.recv_ + partials * kPartialBytes;
        s.tile_ = s.slots_ + (Iter::kIsStrided ? slots_of_thread<Iter>(t) * slot_stride(t) * kPartialBytes : 0);
        return s;
    }

    // (warps)
    template <class Partial>
    __device__ __forceinline__ Partial* warp_partials() const {
        return reinterpret_cast<Partial*>(dynamic_shared());
    }
    // (tile_channels), sixteen bytes each: TrainInputs, Affine or DxCoeffs. One place in nine is left out, so that
    // threads of neighbouring columns, whose channels are four or eight apart, find theirs in different banks.
    template <class Coeffs>
    __device__ __forceinline__ Coeffs& coeffs(uint32_t tile_channel) const {
        Coeffs* const all = reinterpret_cast<Coeffs*>(dynamic_shared() + kMaxWarps * kPartialBytes);
        return all[tile_channel + tile_channel / 8];
    }
    // The receive buffer of a cluster: (2, tile_channels, splits) partials, and 2 mbarriers. In a grid, the epoch of its
    // exchanges.
    __device__ __forceinline__ uint4* recv() const { return reinterpret_cast<uint4*>(dynamic_shared() + recv_); }
    // With strided access: the partials of threads, at most BN_MAX_SLOTS.
    template <class Partial>
    __device__ __forceinline__ Partial* slots() const {
        return reinterpret_cast<Partial*>(dynamic_shared() + slots_);
    }
    // Bytes before the vectors that are kept, SmemTile.
    __device__ __forceinline__ uint32_t tile() const { return tile_; }

  private:
    static constexpr uint32_t kPartialBytes = BN_PARTIAL_BYTES;
    static constexpr uint32_t kMaxWarps = BN_MAX_THREADS / kWarp;

    uint32_t recv_, slots_, tile_;
};

// The vectors of a CTA's first `iterations` iterations, (iterations, threads), kept in shared memory. Only the thread
// that owns a vector touches it.
template <class Iter>
struct SmemTile {
    using Raw = typename Iter::Raw;

    uint32_t start; // from the start of the shared memory, so that the compiler sees the address space
    uint32_t iterations;

    static __device__ __forceinline__ SmemTile empty() { return {0, 0}; }
    static __device__ __forceinline__ SmemTile in(const SharedStorage& smem, uint32_t iterations) {
        return {smem.tile(), iterations};
    }
    // The tile of the same size behind this one.
    __device__ __forceinline__ SmemTile next() const {
        return {start + iterations * blockDim.x * static_cast<uint32_t>(sizeof(Raw)), iterations};
    }
    __device__ __forceinline__ bool contains(uint32_t iteration) const { return iteration < iterations; }
    __device__ __forceinline__ Raw& at(uint32_t iteration) const {
        return reinterpret_cast<Raw*>(dynamic_shared() + start)[iteration * blockDim.x + threadIdx.x];
    }
};

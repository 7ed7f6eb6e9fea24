// The best that a device can do: the floors and the costs that the kernels are compared with. No part of
// any operation; compiled with the feature `bench` alone.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../abi.h"
#include "../common/sync.cuh"

// Vectors that a thread of a strided copy has in flight, as in the passes that it is the floor of.
constexpr int kProbeUnroll = 4;

// out = a, or with two inputs out = a ^ b, and more = a where it is not null: the least that a pass moves. Every CTA
// takes one chunk of kUnroll vectors per thread after the other, and has these of each input in flight. Reads 16 bytes
// per vector and input, writes 16 per vector and output.
// a, b, out, more: (vectors)
template <bool kHasTwoInputs, int kUnroll>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS) copy_kernel(const __grid_constant__ BnProbe args) {
    const uint4* const a = static_cast<const uint4*>(args.a);
    const uint4* const b = static_cast<const uint4*>(args.b);
    uint4* const out = static_cast<uint4*>(args.out);
    begin_dependent_launch();
    const int64_t chunk = static_cast<int64_t>(blockDim.x) * kUnroll;
    for (int64_t start = blockIdx.x * chunk; start < args.vectors; start += gridDim.x * chunk) {
        uint4 raw_a[kUnroll], raw_b[kUnroll];
#pragma unroll
        for (int i = 0; i < kUnroll; i++) {
            const int64_t at = start + i * static_cast<int64_t>(blockDim.x) + threadIdx.x;
            raw_a[i] = at < args.vectors ? a[at] : make_uint4(0, 0, 0, 0);
            if (kHasTwoInputs) raw_b[i] = at < args.vectors ? b[at] : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < kUnroll; i++) {
            const int64_t at = start + i * static_cast<int64_t>(blockDim.x) + threadIdx.x;
            if (kHasTwoInputs && args.more != nullptr && at < args.vectors)
                static_cast<uint4*>(args.more)[at] = raw_a[i];
            if (kHasTwoInputs)
                raw_a[i] = make_uint4(raw_a[i].x ^ raw_b[i].x, raw_a[i].y ^ raw_b[i].y, raw_a[i].z ^ raw_b[i].z,
                                      raw_a[i].w ^ raw_b[i].w);
            if (at < args.vectors) out[at] = raw_a[i];
        }
    }
}

// out = a, by CTAs that each copy a tile, `width` vectors of every row: the cost of a channel tile's stride. CTAs that
// share a tile share its rows. Reads 16 bytes per vector, writes 16.
// a, out: (vectors / row_vectors, row_vectors)
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    strided_copy_kernel(const __grid_constant__ BnProbe args) {
    const uint4* const a = static_cast<const uint4*>(args.a);
    uint4* const out = static_cast<uint4*>(args.out);
    begin_dependent_launch();
    const int64_t tiles = args.row_vectors / args.width, rows = args.vectors / args.row_vectors;
    const int64_t splits = gridDim.x / tiles, split = blockIdx.x / tiles;
    const int64_t row_stride = blockDim.x / args.width;
    const int64_t begin = rows * split / splits, end = rows * (split + 1) / splits;
    const int64_t col = blockIdx.x % tiles * args.width + threadIdx.x % args.width;
    for (int64_t start = begin + threadIdx.x / args.width; start < end; start += row_stride * kProbeUnroll) {
        uint4 raw[kProbeUnroll];
#pragma unroll
        for (int i = 0; i < kProbeUnroll; i++) {
            const int64_t row = start + i * row_stride;
            raw[i] = row < end ? a[row * args.row_vectors + col] : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < kProbeUnroll; i++) {
            const int64_t row = start + i * row_stride;
            if (row < end) out[row * args.row_vectors + col] = raw[i];
        }
    }
}

// `rounds` exchanges of sixteen bytes between the CTAs of teams of `team`, as a Team makes one for a tile of one channel, by
// the first `exchange_ctas` CTAs of a cooperative grid. CTAs from `storing_from` on store `stores` vectors per thread in each
// round, 16 bytes per vector, each CTA to a share of `out` of its own. A CTA that does both stores first, so that its stores
// are under way at the exchange. Without rounds it is an empty launch, which need not be cooperative. Tags come again after
// 2^31 rounds.
// out: (gridDim.x, vectors / gridDim.x)
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    grid_exchange_kernel(const __grid_constant__ BnProbe args) {
    begin_dependent_launch();
    const bool takes_part = blockIdx.x < args.exchange_ctas && args.rounds > 0;
    const bool stores = args.stores > 0 && blockIdx.x >= args.storing_from;
    const uint32_t rank = blockIdx.x % args.team;
    const int64_t share = stores ? args.vectors / gridDim.x : 0;
    uint4* const out = static_cast<uint4*>(args.out) + blockIdx.x * share;
    uint32_t& epoch = *reinterpret_cast<uint32_t*>(dynamic_shared());
    if (takes_part) {
        if (threadIdx.x == 0)
            epoch = exchange_epoch(args.exchanges, begin_exchanges(args.exchanges), args.exchange_ctas, args.rounds);
        __syncthreads();
    }
    int64_t at = threadIdx.x;
    for (uint32_t round = 0; round < args.rounds; round++) {
        for (uint32_t i = 0; stores && i < args.stores; i++) {
            out[at] = make_uint4(round, i, 0, 0);
            at = at + blockDim.x < share ? at + blockDim.x : threadIdx.x;
        }
        if (!takes_part) continue;
        const uint32_t tag = kTagBit | (epoch + round);
        uint4* const team = static_cast<uint4*>(args.partials) + round % 2 * args.exchange_ctas + (blockIdx.x - rank);
        if (threadIdx.x == 0) store_tagged(&team[rank], make_uint4(round, rank, 0, tag));
        for (uint32_t peer = threadIdx.x; peer < args.team; peer += blockDim.x)
            (void)wait_tagged(&team[peer], load_tagged(&team[peer], tag), tag);
        __syncthreads();
    }
}

// `rounds` exchanges of sixteen bytes between all CTAs of a cluster of `team`, as cluster_reduce does them. Each CTA
// writes the number of partials that it received.
// out: (gridDim.x) of uint32_t, or null
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    cluster_exchange_kernel(const __grid_constant__ BnProbe args) {
    uint4* const recv = reinterpret_cast<uint4*>(dynamic_shared()); // (2, team)
    Mbarrier* const mbarriers = reinterpret_cast<Mbarrier*>(recv + 2 * args.team); // (2)
    const uint32_t rank = blockIdx.x % args.team;
    if (threadIdx.x == 0) mbarrier_init(mbarriers, 2);
    cluster_arrive_relaxed();
    cluster_wait();
    begin_dependent_launch();
    uint32_t sum = 0;
    for (uint32_t round = 0; round < args.rounds; round++) {
        uint4* const stage = recv + round % 2 * args.team;
        if (threadIdx.x == 0) mbarrier_arrive_expect_tx(&mbarriers[round % 2], args.team * sizeof(uint4));
        if (threadIdx.x < args.team)
            st_async(&stage[rank], make_uint4(sum, rank, round, 1), &mbarriers[round % 2], threadIdx.x);
        mbarrier_wait_parity(&mbarriers[round % 2], round / 2 % 2);
        for (uint32_t peer = 0; peer < args.team; peer++) sum += stage[peer].w;
        __syncthreads();
    }
    if (threadIdx.x == 0 && args.out != nullptr) static_cast<uint32_t*>(args.out)[blockIdx.x] = sum;
    cluster_arrive_relaxed();
    cluster_wait();
}

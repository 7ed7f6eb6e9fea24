// What a device can do at best: the floors and the costs that the kernels of this folder are held against. No part of any
// operation; compiled with the feature `bench` alone.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../abi.h"
#include "../common/sync.cuh"

// Vectors that a thread of a strided copy has in flight, as in the passes that it is the floor of.
constexpr int kProbeBatch = 4;

// out = a, or with two inputs out = a ^ b, and more = a where it is there: the least that passes move. Reads 16 bytes a
// vector and input, writes 16 a vector and output. Every CTA takes one chunk of kBatch vectors a thread after the other, and
// has these of each input in flight.
template <bool kHasTwo, int kBatch>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS) stream_kernel(const __grid_constant__ BnProbe args) {
    const uint4* const a = static_cast<const uint4*>(args.a);
    const uint4* const b = static_cast<const uint4*>(args.b);
    uint4* const out = static_cast<uint4*>(args.out);
    const int64_t chunk = static_cast<int64_t>(blockDim.x) * kBatch;
    for (int64_t start = blockIdx.x * chunk; start < args.vectors; start += gridDim.x * chunk) {
        uint4 raw_a[kBatch], raw_b[kBatch];
#pragma unroll
        for (int i = 0; i < kBatch; i++) {
            const int64_t at = start + i * static_cast<int64_t>(blockDim.x) + threadIdx.x;
            raw_a[i] = at < args.vectors ? a[at] : make_uint4(0, 0, 0, 0);
            if (kHasTwo) raw_b[i] = at < args.vectors ? b[at] : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < kBatch; i++) {
            const int64_t at = start + i * static_cast<int64_t>(blockDim.x) + threadIdx.x;
            if (kHasTwo && args.more != nullptr && at < args.vectors) static_cast<uint4*>(args.more)[at] = raw_a[i];
            if (kHasTwo)
                raw_a[i] = make_uint4(raw_a[i].x ^ raw_b[i].x, raw_a[i].y ^ raw_b[i].y, raw_a[i].z ^ raw_b[i].z,
                                      raw_a[i].w ^ raw_b[i].w);
            if (at < args.vectors) out[at] = raw_a[i];
        }
    }
}

// out = a, by CTAs that each copy a strip of `width` vectors of every row of `row_vectors`: what the stride of a strip of
// channels costs. CTAs that share a strip share its rows.
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS) strided_kernel(const __grid_constant__ BnProbe args) {
    const uint4* const a = static_cast<const uint4*>(args.a);
    uint4* const out = static_cast<uint4*>(args.out);
    const int64_t strips = args.row_vectors / args.width, rows = args.vectors / args.row_vectors;
    const int64_t splits = gridDim.x / strips, split = blockIdx.x / strips;
    const int64_t row_step = blockDim.x / args.width;
    const int64_t begin = rows * split / splits, end = rows * (split + 1) / splits;
    const int64_t col = blockIdx.x % strips * args.width + threadIdx.x % args.width;
    for (int64_t start = begin + threadIdx.x / args.width; start < end; start += row_step * kProbeBatch) {
        uint4 raw[kProbeBatch];
#pragma unroll
        for (int i = 0; i < kProbeBatch; i++) {
            const int64_t row = start + i * row_step;
            raw[i] = row < end ? a[row * args.row_vectors + col] : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < kProbeBatch; i++) {
            const int64_t row = start + i * row_step;
            if (row < end) out[row * args.row_vectors + col] = raw[i];
        }
    }
}

// Teams of `team` CTAs of a cooperative grid, its first `meeting` CTAs, meet `rounds` times; those from `storing_from` on
// store `stores` vectors a thread in each round, 16 bytes a vector, each CTA to a part of `out` of its own. A CTA that does
// both stores first, so that its stores are under way when it meets. With no round an empty launch, which need not be
// cooperative.
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS) meeting_kernel(const __grid_constant__ BnProbe args) {
    const bool meets = blockIdx.x < args.meeting, stores = args.stores > 0 && blockIdx.x >= args.storing_from;
    uint32_t* const counter = args.counters + blockIdx.x / args.team * (BN_COUNTER_BYTES / sizeof(uint32_t));
    const int64_t part = stores ? args.vectors / gridDim.x : 0;
    uint4* const out = static_cast<uint4*>(args.out) + blockIdx.x * part;
    int64_t at = threadIdx.x;
    for (uint32_t round = 0; round < args.rounds; round++) {
        for (uint32_t i = 0; stores && i < args.stores; i++) {
            out[at] = make_uint4(round, i, 0, 0);
            at = at + blockDim.x < part ? at + blockDim.x : threadIdx.x;
        }
        if (!meets) continue;
        __syncthreads();
        if (threadIdx.x == 0) meet(counter, blockIdx.x % args.team, args.team);
        __syncthreads();
    }
}

// The CTAs of a cluster of `team` send each other sixteen bytes `rounds` times, as a merge of statistics does.
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS) exchange_kernel(const __grid_constant__ BnProbe args) {
    uint4* const boxes = reinterpret_cast<uint4*>(dynamic_shared());
    Arrivals* const arrivals = reinterpret_cast<Arrivals*>(boxes + 2 * args.team);
    const uint32_t rank = blockIdx.x % args.team;
    if (threadIdx.x == 0) start_arrivals(arrivals, 2);
    cluster_arrive();
    cluster_wait();
    uint32_t sum = 0;
    for (uint32_t round = 0; round < args.rounds; round++) {
        uint4* const box = boxes + round % 2 * args.team;
        if (threadIdx.x == 0) expect_bytes(&arrivals[round % 2], args.team * sizeof(uint4));
        if (threadIdx.x < args.team)
            send(&box[rank], make_uint4(sum, rank, round, 1), &arrivals[round % 2], threadIdx.x);
        wait_for_bytes(&arrivals[round % 2], round / 2 % 2);
        for (uint32_t peer = 0; peer < args.team; peer++) sum += box[peer].w;
        __syncthreads();
    }
    if (threadIdx.x == 0 && args.out != nullptr) static_cast<uint32_t*>(args.out)[blockIdx.x] = sum;
    cluster_arrive();
    cluster_wait();
}

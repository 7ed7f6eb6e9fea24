// The forward pass with the batch's statistics:
//
//     mean = sum(x) / m        var = sum((x - mean)^2) / m        inv_std = 1 / sqrt(var + eps)
//     y    = epilogue((x - mean) * inv_std * gamma + beta)
//     running <- keep * running + momentum * batch
//
// train_fused_kernel  block, cluster, grid: a team keeps its tile in shared memory. Reads x once, writes y:
//                     2 * sizeof(T) bytes per element, the floor. Vectors beyond the grid's shared memory are read
//                     again.
// normalize_kernel    two-pass: after moments_kernel has left partials it reduces them, reads x from its end and writes
//                     y: 3 * sizeof(T) bytes per element in all. Every CTA reduces the partials of its tile for itself,
//                     so there is no third launch.
//
// In both the CTA of a tile's first split writes the saved and running statistics of its channels. Plan guarantees that the chunks cover the tensor, that
// the alignment of the data suits Iter, and that the teams of a grid are resident together.
#pragma once
#include "../common/team.cuh"
#include "normalize.cuh"
#include "reduce_moments.cuh"

// The count after one more batch; it saturates.
__device__ __forceinline__ int64_t counted(int64_t batches) { return batches == INT64_MAX ? batches : batches + 1; }

// The values that the statistics of a channel are combined with. The first of the channel's threads asks for them before
// the walk over x, so that nothing waits for them behind; they come to where the channel's coefficients will be.
struct alignas(16) TrainInputs {
    Parameters parameters;
    // The running statistics, for the first split.
    float old_mean, old_var;

    static __device__ __forceinline__ void start(const BnTrain& args, TileCoord coord, const ChannelThreads& threads,
                                                 const SharedStorage& smem) {
        const uint32_t channel = threads.channel(args.tiling, coord.tile);
        if (threads.rank != 0 || channel == args.tiling.channels) return;
        TrainInputs& to = smem.coeffs<TrainInputs>(threads.tile_channel);
        copy_or(to.parameters.gamma, args.gamma, channel, 1.0f);
        copy_or(to.parameters.beta, args.beta, channel, 0.0f);
        const BnRunning& running = args.running;
        const bool is_cumulative = running.cumulative != 0;
        const bool needs_old = running.mean != nullptr && coord.split == 0 &&
                               (is_cumulative || (running.keep != 0.0f && running.momentum != 0.0f));
        copy_or(to.old_mean, needs_old ? running.mean : nullptr, channel, 0.0f);
        copy_or(to.old_var, needs_old ? running.var : nullptr, channel, 0.0f);
        if (is_cumulative && needs_old) prefetch_to_l2(running.num_batches_tracked);
    }
    // Starts the copy of a channel's value, or writes the one that stands for it. Not both: nothing orders a copy behind
    // an earlier store to its place.
    static __device__ __forceinline__ void copy_or(float& to, const float* from, uint32_t channel, float otherwise) {
        if (from != nullptr)
            copy_async(&to, from + channel);
        else
            to = otherwise;
    }
    // The values that the thread has asked for.
    static __device__ __forceinline__ TrainInputs wait(const ChannelThreads& threads, const SharedStorage& smem) {
        copy_async_wait();
        return smem.coeffs<TrainInputs>(threads.tile_channel);
    }
};

// Writes the statistics of a channel, `inv_std` among them.
__device__ __forceinline__ void write_saved_and_running_stats(const BnTrain& args, uint32_t channel,
                                                              const Moments& moments, float var, float inv_std,
                                                              const TrainInputs& inputs) {
    args.saved_mean[channel] = moments.mean;
    args.saved_inv_std[channel] = inv_std;
    const BnRunning& running = args.running;
    if (running.mean == nullptr) return;
    const bool is_infinite = !isfinite(moments.mean);
    if (running.skip_non_finite != 0 && (is_infinite || !isfinite(var))) return;
    float keep = running.keep, momentum = running.momentum;
    if (running.cumulative != 0) {
        const int64_t batches = counted(*running.num_batches_tracked);
        const float count = static_cast<float>(batches > 1 ? batches : 1);
        momentum = 1.0f / count;
        keep = (count - 1.0f) / count;
    }
    // A weight of 0 takes nothing of its value: a NaN in it must not survive.
    if (momentum == 0.0f) return;
    const float old_mean = keep == 0.0f ? 0.0f : inputs.old_mean;
    const float old_var = keep == 0.0f ? 0.0f : inputs.old_var;
    // The small terms first: two roundings of the result's size. The mean_lo of an infinite mean is NaN.
    const float mean_lo = is_infinite ? 0.0f : moments.mean_lo;
    running.mean[channel] = fmaf(momentum, moments.mean, fmaf(keep, old_mean, momentum * mean_lo));
    running.var[channel] = fmaf(momentum, var * running.correction, keep * old_var);
}

// Writes the statistics of a tile's channels, and their affines to shared memory. The first thread of each channel
// brings its moments.
__device__ __forceinline__ void write_tile_stats(const BnTrain& args, TileCoord coord, const ChannelThreads& threads,
                                                 const Moments& moments, const SharedStorage& smem) {
    const BnTiling& t = args.tiling;
    const uint32_t channel = coord.tile * t.tile_channels + threads.tile_channel;
    write_coeffs<Affine>(t, smem, threads.rank == 0, threads.tile_channel, channel, [&] {
        const float var = moments.m2 / moments.n, inv_std = inv_std_of(var, args.eps);
        const TrainInputs inputs = TrainInputs::wait(threads, smem);
        if (coord.split == 0) write_saved_and_running_stats(args, channel, moments, var, inv_std, inputs);
        return affine_of(inputs.parameters, moments.mean, moments.mean_lo, inv_std);
    });
}

// Counts the batch. Where momentum is cumulative, the first split of every tile has read the counter before: the last of
// them writes it. Else nobody reads it, and one CTA writes it. Called behind the stores, which wait for nothing then.
__device__ __forceinline__ void count_batch(const BnTrain& args, TileCoord coord) {
    int64_t* const batches = args.running.num_batches_tracked;
    if (batches == nullptr || coord.split != 0 || threadIdx.x != 0) return;
    const bool writes =
        args.running.cumulative != 0 ? last_ticket(args.workspace.ticket, args.tiling.tiles) : coord.tile == 0;
    if (writes) *batches = counted(*batches);
}

template <class Iter, int kStrategy>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    train_fused_kernel(const __grid_constant__ BnTrain args) {
    if (!has_strategy(kStrategy)) return;
    const BnTiling& t = args.tiling;
    const auto* const x = static_cast<const typename Iter::Data*>(args.x); // (n, c, s)
    const ChannelThreads threads(t.tile_channels);
    const SharedStorage smem = SharedStorage::layout<Iter>(t);
    const SmemTile<Iter> smem_x = SmemTile<Iter>::in(smem, t.smem_iters);
    const Output<Iter> output(args);
    Team<kStrategy> team(t, args.workspace, smem);
    begin_dependent_launch();
    team.begin();
    for (uint32_t tile = team.first_tile(); tile < t.tiles; tile += t.teams) {
        const TileCoord coord = team.coord(tile);
        TrainInputs::start(args, coord, threads, smem);
        const Iter iter(t, coord);
        const Moments moments = team.reduce(threads, reduce_moments(iter, t, threads, smem, x, smem_x));
        team.arrive_exit();
        // The iterator is made again: kept through the walk, it would take registers that the walk needs.
        normalize_reverse(Iter(t, coord), x, smem_x, output, [&] {
            write_tile_stats(args, coord, threads, moments, smem);
            return Affines<Iter>(iter, t, smem);
        });
        count_batch(args, coord);
        if (tile + t.teams < t.tiles) __syncthreads(); // the next tile's inputs take the place of the affines
    }
    team.wait_exit();
}

template <class Iter>
__global__ void __launch_bounds__(BN_MAX_THREADS, BN_MIN_CTAS)
    normalize_kernel(const __grid_constant__ BnTrain args) {
    const BnTiling& t = args.tiling;
    const TileCoord coord = tile_coord(t, gridDim.x - 1 - blockIdx.x); // the last chunks were read last: they go first
    const Iter iter(t, coord);
    const ChannelThreads threads(t.tile_channels);
    const SharedStorage smem = SharedStorage::layout<Iter>(t);
    begin_dependent_launch();
    TrainInputs::start(args, coord, threads, smem);
    normalize_reverse(iter, static_cast<const typename Iter::Data*>(args.x), SmemTile<Iter>::empty(),
                      Output<Iter>(args), [&] {
                          const uint32_t channel = threads.channel(t, coord.tile);
                          const Moments moments =
                              block_reduce_splits<Moments>(args.workspace, t, threads, channel, smem);
                          write_tile_stats(args, coord, threads, moments, smem);
                          return Affines<Iter>(iter, t, smem);
                      });
    count_batch(args, coord);
}

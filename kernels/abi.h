// The C ABI between the crate and its kernels: bindgen's input, and the whole interface.
//
// One struct per operation. Pointers are device addresses; an optional tensor is null where it is absent. Shapes stand
// behind the fields: (n, c, s) is a data tensor in either layout, (c) one value per channel. Problem has checked every
// pointer and length, and Plan has made every choice: nothing behind this file checks again.
#pragma once
#include <stdint.h>

/// A CUDA runtime status (`cudaError_t`), 0 for success.
typedef enum BnStatus { BN_SUCCESS = 0 } BnStatus;

/// The type of data tensors. Per-channel tensors are f32.
typedef enum BnDtype { BN_F32 = 0, BN_F16 = 1, BN_BF16 = 2 } BnDtype;
/// The number of these types.
#define BN_DTYPES 3

/// The access pattern: which thread owns which element of a tile.
typedef enum BnAccess {
    /// A 16-byte vector lies inside one channel; neighbouring threads own neighbouring vectors.
    BN_CONTIGUOUS = 0,
    /// A thread owns one column of 16-byte vectors.
    BN_STRIDED = 1,
    /// BN_CONTIGUOUS with vectors of one element.
    BN_SCALAR_CONTIGUOUS = 2,
    /// BN_STRIDED with vectors of one element.
    BN_SCALAR_STRIDED = 3
} BnAccess;

/// Where a channel's values stay from their first use, in the statistics, to their second.
typedef enum BnStrategy {
    /// In one CTA's shared memory: x is read once.
    BN_BLOCK = 0,
    /// In the shared memory of a thread-block cluster: x is read once.
    BN_CLUSTER = 1,
    /// In the shared memory of a team of CTAs of a cooperative grid, as far as it fits: that much of x is read once.
    BN_GRID = 2,
    /// Nowhere: x is read in two passes.
    BN_TWO_PASS = 3
} BnStrategy;

/// The function that is applied last: to v, or to v + z.
typedef enum BnActivation {
    BN_IDENTITY = 0,
    BN_RELU = 1,
    BN_RELU6 = 2,
    BN_SILU = 3,
    BN_HARDSWISH = 4
} BnActivation;

/// The operations fused behind the normalization: activation(v), or with a residual z, before the identity and relu
/// alone, activation(v + z).
typedef struct BnEpilogue {
    BnActivation activation;
    /// 1 where there is a residual.
    uint32_t has_residual;
} BnEpilogue;

/// The statistics that normalize.
typedef enum BnStatisticsKind {
    /// The batch's: dx depends on x through them.
    BN_BATCH = 0,
    /// Running statistics, which are constants.
    BN_RUNNING = 1
} BnStatisticsKind;

/// Statistics that an operation reads.
typedef struct BnStatistics {
    BnStatisticsKind kind;
    /// The summand of var under the root; not used with the batch's statistics.
    float eps;
    /// (c)
    const float* mean;
    /// (c) The batch's 1 / sqrt(var + eps); null with running statistics.
    const float* inv_std;
    /// (c) The running variance; null with the batch's statistics.
    const float* var;
} BnStatistics;

/// A divisor in the form by which kernels divide, a multiplication: n / d = (reciprocal * 2n >> 64) >> shift for
/// 0 <= n < 2^63. src/cuda/launch/divisor.rs makes it.
typedef struct BnDivisor {
    uint64_t reciprocal;
    uint32_t shift;
} BnDivisor;

/// The cut of the data tensors: `Tiling` of src/plan/tile.rs, field by field under its name, where each is described;
/// and what else a launch needs of its plan.
typedef struct BnTiling {
    BnDtype dtype;
    BnAccess access;
    BnStrategy strategy;
    int64_t rows;
    int64_t row_vectors;
    int64_t width;
    int64_t chunk;
    /// Values per channel, n * s.
    int64_t m;
    /// Channels of the tensor, c.
    uint32_t channels;
    uint32_t tile_channels;
    uint32_t inner;
    uint32_t tiles;
    uint32_t splits;
    uint32_t teams;
    uint32_t smem_iters;
    uint32_t threads;
    uint32_t shared_bytes;
    uint32_t slot_rows;
    uint32_t mask_in_place;
    /// Exchanges of a team at most, with a grid.
    uint32_t exchanges;
    /// Values of a channel in a chunk, and in the last chunk of a tile.
    float chunk_values;
    float last_chunk_values;
    /// The units of a chunk that a CTA takes in one iteration: vectors, or rows with strided access.
    BnDivisor by_iteration;
    BnDivisor by_width;
    BnDivisor by_inner;
    BnDivisor by_slot_rows;
    BnDivisor by_splits;
    BnDivisor by_tiles;
} BnTiling;

/// The running statistics and how they follow the batch; all pointers null where they do not.
typedef struct BnRunning {
    /// (c)
    float* mean;
    /// (c)
    float* var;
    /// (1)
    int64_t* num_batches_tracked;
    /// The weight of the old value and of the new one, unless `cumulative`.
    float keep;
    float momentum;
    /// The factor of var in the running variance: m/(m-1), or 1.
    float correction;
    /// 1 where the weight is 1 / num_batches_tracked.
    uint32_t cumulative;
    /// 1 where a non-finite channel leaves its statistics as they are.
    uint32_t skip_non_finite;
} BnRunning;

/// Scratch memory.
typedef struct BnWorkspace {
    /// (len) Partials of 16 bytes. Two-pass and backward with running statistics: (splits, channels), and (2, splits,
    /// channels) where a backward pass needs the mean's residual. Grid: for each team and each of two stages
    /// (tile_channels, splits), and (tile_channels). Between launches nothing else writes here: a grid relies on what earlier
    /// launches left.
    void* partials;
    /// The number of partials that the whole memory has room for.
    uint64_t len;
    /// (1) Atomic tickets that are 0 between launches: of the tiles whose batch is counted, and of CTAs that leave a grid
    /// which resets the exchanges.
    uint32_t* ticket;
    uint32_t* reset_ticket;
    /// (1) The exchanges that grids have made here, in its upper half; 0 in its lower half between launches.
    unsigned long long* exchanges;
} BnWorkspace;

/// mean and var of the batch.
typedef struct BnMoments {
    BnTiling tiling;
    const void* x; // (n, c, s)
    float* mean; // (c)
    float* var; // (c)
    BnWorkspace workspace;
} BnMoments;

/// The forward pass with the batch's statistics.
typedef struct BnTrain {
    BnTiling tiling;
    BnEpilogue epilogue;
    float eps;
    const void* x; // (n, c, s)
    const void* z; // (n, c, s)
    const float* gamma; // (c)
    const float* beta; // (c)
    void* y; // (n, c, s)
    float* saved_mean; // (c)
    float* saved_inv_std; // (c)
    uint32_t* relu_mask; // ceil(n * c * s / 32)
    BnRunning running;
    BnWorkspace workspace;
} BnTrain;

/// The forward pass with running statistics.
typedef struct BnInfer {
    BnTiling tiling;
    BnEpilogue epilogue;
    BnStatistics statistics;
    const void* x; // (n, c, s)
    const void* z; // (n, c, s)
    const float* gamma; // (c)
    const float* beta; // (c)
    void* y; // (n, c, s)
    uint32_t* relu_mask; // ceil(n * c * s / 32)
} BnInfer;

/// The backward pass through either kind of statistics.
typedef struct BnBackward {
    BnTiling tiling;
    BnEpilogue epilogue;
    BnStatistics statistics;
    const void* x; // (n, c, s)
    const void* dy; // (n, c, s)
    const float* gamma; // (c)
    const float* beta; // (c)
    const uint32_t* relu_mask; // ceil(n * c * s / 32)
    void* dx; // (n, c, s); null where nobody needs it, as are the others
    void* dz; // (n, c, s)
    float* dgamma; // (c)
    float* dbeta; // (c)
    BnWorkspace workspace;
} BnBackward;

/// The stream that a launch goes to.
typedef struct BnStream {
    /// A CUstream of the current context.
    void* handle;
    /// 1 where the launch may begin while the one before it in the stream ends: programmatic dependent launch, from
    /// compute capability 9.0 on.
    uint32_t is_programmatic;
} BnStream;

/// The work of a probe.
typedef enum BnProbeKind {
    /// A plain launch of nothing.
    BN_PROBE_EMPTY = 0,
    /// out = a.
    BN_PROBE_COPY = 1,
    /// out = a ^ b; more = a where it is not null.
    BN_PROBE_TWO_INPUTS = 2,
    /// out = a, by tiles of `width` vectors.
    BN_PROBE_STRIDED = 3,
    /// Exchanges of the teams of a cooperative grid, during stores where there are any.
    BN_PROBE_GRID_EXCHANGE = 4,
    /// Exchanges between the CTAs of clusters.
    BN_PROBE_CLUSTER_EXCHANGE = 5
} BnProbeKind;

/// A launch that takes the time of one part of an operation; with the feature `bench` alone.
typedef struct BnProbe {
    BnProbeKind kind;
    uint32_t ctas;
    uint32_t threads;
    /// Vectors that a thread of a copy loads before it stores them: 4, 8 or 16.
    uint32_t in_flight;
    const void* a;
    const void* b;
    void* out;
    void* more;
    /// 16-byte vectors of each buffer, of a row, and of a tile in one row.
    int64_t vectors;
    int64_t row_vectors;
    int64_t width;
    /// CTAs of a team, and its exchanges.
    uint32_t team;
    uint32_t rounds;
    /// CTAs that take part in exchanges of a grid: the first ones, a multiple of `team`.
    uint32_t exchange_ctas;
    /// The first CTA that stores, and the vectors that each of its threads stores in a round.
    uint32_t storing_from;
    uint32_t stores;
    /// (2, exchange_ctas) The partials that a grid exchanges, of 16 bytes, and the counter as in BnWorkspace.
    void* partials;
    unsigned long long* exchanges;
} BnProbe;

/// The number of cluster sizes: 2, 4, 8 and 16 CTAs.
#define BN_CLUSTER_SIZES 4

/// The facts of a device that `bn_*_prepare` needs.
typedef struct BnDevice {
    /// The most shared memory that a CTA may use, and the most where two share an SM.
    uint32_t shared_bytes;
    uint32_t half_shared_bytes;
    /// 1 where thread-block clusters can be launched.
    uint32_t has_clusters;
} BnDevice;

/// The residency of one operation's kernels, found by `bn_*_prepare`. All 0 at first.
typedef struct BnResident {
    /// The kernel that was prepared last, its dtype and access pattern where it has one instance for each, and the last
    /// CUDA call: after a failure, those that failed. Static text; null before the first.
    const char* kernel;
    const char* dtype;
    const char* access;
    const char* call;
    /// CTAs of `BN_MAX_THREADS` threads that an SM holds, the minimum over the kernels.
    uint32_t ctas;
    /// Kernels that were prepared.
    uint32_t kernels;
    /// Clusters of each size that the device holds, the minimum over the kernels that are launched in clusters: with
    /// one CTA per SM, and with two.
    uint32_t clusters[2][BN_CLUSTER_SIZES];
    /// Kernels that are launched in clusters.
    uint32_t clustered_kernels;
    /// Static shared memory, in bytes, of a kernel that it leaves too little dynamic shared memory for; else 0.
    uint32_t static_bytes;
} BnResident;

/// Threads per CTA at most, and CTAs of that size that the registers of every kernel leave room for on an SM.
#define BN_MAX_THREADS 256
#define BN_MIN_CTAS 2
/// Bytes of a vector, the unit of every load and store but those of single elements.
#define BN_VECTOR_BYTES 16
/// Bytes of a partial, which CTAs and launches hand to each other, and of a channel's coefficients in shared memory.
#define BN_PARTIAL_BYTES 16
/// Exchanges of a team in one launch at most.
#define BN_MAX_EXCHANGES 0x20000000
/// Partials of threads that lie in shared memory at once, at most, while a CTA reduces them with strided access.
#define BN_MAX_SLOTS 512

#ifdef __cplusplus
extern "C" {
#endif

// Launches are asynchronous on `stream`, allocate nothing and can be captured.

/// Writes mean and var of every channel.
BnStatus bn_moments(const BnMoments* args, BnStream stream);
/// The forward pass with the batch's statistics.
BnStatus bn_train(const BnTrain* args, BnStream stream);
/// The forward pass with running statistics.
BnStatus bn_infer(const BnInfer* args, BnStream stream);
/// The backward pass of `bn_train`, or, with running statistics, of `bn_infer`.
BnStatus bn_backward(const BnBackward* args, BnStream stream);
/// One probe.
BnStatus bn_probe(const BnProbe* args, BnStream stream);
/// Writes `value` to `len` floats: the per-channel outputs of an empty batch.
BnStatus bn_fill(float* out, uint64_t len, float value, BnStream stream);
/// Adds `alpha * x` to y, `len` floats each, rounded once.
BnStatus bn_axpy(float* y, const float* x, uint64_t len, float alpha, BnStream stream);

// Each loads its operation's kernels on the current device, lets them use its shared memory, and counts how many fit.
// Called once per device, before any launch or capture.

BnStatus bn_moments_prepare(const BnDevice* device, BnResident* resident);
BnStatus bn_train_prepare(const BnDevice* device, BnResident* resident);
BnStatus bn_infer_prepare(const BnDevice* device, BnResident* resident);
BnStatus bn_backward_prepare(const BnDevice* device, BnResident* resident);
BnStatus bn_probe_prepare(const BnDevice* device, BnResident* resident);
BnStatus bn_fill_prepare(const BnDevice* device, BnResident* resident);
BnStatus bn_axpy_prepare(const BnDevice* device, BnResident* resident);

#ifdef __cplusplus
}
#endif

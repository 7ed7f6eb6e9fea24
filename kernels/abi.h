// The C ABI between the crate and its kernels: what bindgen reads, and nothing else crosses.
//
// One struct an operation. Pointers are device addresses; an optional tensor is null where it is absent. Every pointer,
// length and choice has been checked by Problem and Plan: nothing behind this file checks again.
#pragma once
#include <stdint.h>

/// A CUDA runtime status (`cudaError_t`), 0 for success.
typedef enum BnStatus { BN_SUCCESS = 0 } BnStatus;

/// The type of data tensors. Per-channel tensors are f32.
typedef enum BnDtype { BN_F32 = 0, BN_F16 = 1, BN_BF16 = 2 } BnDtype;

/// Who owns which element of a strip.
typedef enum BnForm {
    /// A 16-byte vector lies inside one channel.
    BN_ROWS = 0,
    /// A thread owns one column of 16-byte vectors.
    BN_COLUMNS = 1,
    /// As rows, with vectors of one element.
    BN_SCALAR_ROWS = 2,
    /// As columns, with vectors of one element.
    BN_SCALAR_COLUMNS = 3
} BnForm;

/// Where a channel's values are between the two times that they are needed.
typedef enum BnStrategy {
    /// In one CTA's shared memory: x is read once.
    BN_BLOCK = 0,
    /// In the shared memory of a thread-block cluster: x is read once.
    BN_CLUSTER = 1,
    /// In the shared memory of a team of CTAs of a cooperative grid, as far as it fits: that much of x is read once.
    BN_GRID = 2,
    /// Nowhere: x is read twice.
    BN_TWO_READ = 3
} BnStrategy;

/// What is applied last: to v, or to v + z.
typedef enum BnActivation { BN_IDENTITY = 0, BN_RELU = 1 } BnActivation;

/// What is fused behind the normalization: activation(v), or activation(v + z) with a residual z.
typedef struct BnEpilogue {
    BnActivation activation;
    /// 1 where there is a residual.
    uint32_t has_residual;
} BnEpilogue;

/// Which statistics normalize.
typedef enum BnStatisticsKind {
    /// The batch's: dx depends on x through them.
    BN_BATCH = 0,
    /// Running ones, which are constants.
    BN_RUNNING = 1
} BnStatisticsKind;

/// Statistics that an operation reads.
typedef struct BnStatistics {
    BnStatisticsKind kind;
    /// What is added to var; not used by the batch's.
    float eps;
    const float* mean;
    /// The batch's 1 / sqrt(var + eps); null of running ones.
    const float* inv_std;
    /// The running variance; null of the batch's.
    const float* var;
} BnStatistics;

/// How the tensors are cut. A strip is a group of neighbouring channels: `rows` rows of `width` vectors each, from one
/// row to the next `row_vectors`. Vectors have 16 bytes, or one element in the scalar forms.
///
/// The CTAs that share a strip are its team. Cluster and grid launch whole teams, of neighbouring CTAs each; the teams
/// take the strips in turn.
typedef struct BnTiling {
    BnDtype dtype;
    BnForm form;
    BnStrategy strategy;
    /// Rows of a strip.
    int64_t rows;
    /// Vectors from one row to the next. A strip's last columns may lie beyond: they belong to nobody.
    int64_t row_vectors;
    /// Vectors of a strip in a row.
    int64_t width;
    /// What one CTA takes of its strip: vectors, counted row by row (rows form), or rows (columns form).
    int64_t chunk;
    /// Values per channel.
    int64_t m;
    /// All channels.
    uint32_t channels;
    /// Channels of a strip.
    uint32_t strip_channels;
    /// Elements of one channel side by side in a row. Not used by the rows form, whose strip is one channel.
    uint32_t span;
    /// Strips of the tensor, and CTAs that share each of them.
    uint32_t strips;
    uint32_t splits;
    /// Teams that are launched: as many as strips but in a grid, whose teams must all be resident.
    uint32_t teams;
    /// Steps of each CTA's walk that it keeps in shared memory.
    uint32_t held_steps;
    /// Threads of a CTA, a power of two.
    uint32_t threads;
    /// Dynamic shared memory of a CTA.
    uint32_t shared_bytes;
    /// Whether vectors pair up to whole bytes of the relu mask; else the mask is packed from y afterwards.
    uint32_t mask_in_place;
} BnTiling;

/// How running statistics follow the batch; all null where they do not.
typedef struct BnRunning {
    float* mean;
    float* var;
    int64_t* num_batches_tracked;
    /// The weight of the old value and of the new one, unless `cumulative`.
    float keep;
    float momentum;
    /// var * this is tracked: m/(m-1), or 1.
    float correction;
    /// 1 where the weight is 1 / num_batches_tracked.
    uint32_t cumulative;
    /// 1 where a non-finite channel leaves its statistics as they are.
    uint32_t skip_non_finite;
} BnRunning;

/// Scratch memory.
typedef struct BnWorkspace {
    /// 16 bytes each: one for each split and channel of a two_read; in a grid two for each split and strip channel of
    /// each team, and two more for each strip channel of each team.
    void* partials;
    /// A counter that is 0 between launches.
    uint32_t* ticket;
    /// The counters by which the teams of a grid meet, `BN_COUNTER_BYTES` apart. They go on from launch to launch.
    uint32_t* counters;
} BnWorkspace;

typedef struct BnMoments {
    BnTiling tiling;
    const void* x;
    float* mean;
    float* var;
    BnWorkspace workspace;
} BnMoments;

typedef struct BnTrain {
    BnTiling tiling;
    BnEpilogue epilogue;
    float eps;
    const void* x;
    const void* z;
    const float* gamma;
    const float* beta;
    void* y;
    float* saved_mean;
    float* saved_inv_std;
    uint32_t* relu_mask;
    BnRunning running;
    BnWorkspace workspace;
} BnTrain;

typedef struct BnInfer {
    BnTiling tiling;
    BnEpilogue epilogue;
    BnStatistics statistics;
    const void* x;
    const void* z;
    const float* gamma;
    const float* beta;
    void* y;
    uint32_t* relu_mask;
} BnInfer;

typedef struct BnBackward {
    BnTiling tiling;
    BnEpilogue epilogue;
    BnStatistics statistics;
    const void* x;
    const void* dy;
    const float* gamma;
    const float* beta;
    const uint32_t* relu_mask;
    void* dx;
    void* dz;
    float* dgamma;
    float* dbeta;
    BnWorkspace workspace;
} BnBackward;

/// What a probe measures.
typedef enum BnProbeKind {
    /// A plain launch of nothing.
    BN_PROBE_EMPTY = 0,
    /// out = a.
    BN_PROBE_COPY = 1,
    /// out = a ^ b; more = a where it is not null.
    BN_PROBE_TWO_READ = 2,
    /// out = a, by strips of `width` vectors.
    BN_PROBE_STRIDED = 3,
    /// Meetings of the teams of a cooperative grid, beside stores where there are any.
    BN_PROBE_MEETING = 4,
    /// Exchanges between the CTAs of clusters.
    BN_PROBE_EXCHANGE = 5
} BnProbeKind;

/// A launch that computes nothing of use and takes the time of something; with the feature `bench` alone.
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
    /// 16-byte vectors of each of these; of a row, and of a strip of it.
    int64_t vectors;
    int64_t row_vectors;
    int64_t width;
    /// CTAs of a team, and how often they meet or exchange.
    uint32_t team;
    uint32_t rounds;
    /// CTAs that meet: the first ones, a multiple of `team`.
    uint32_t meeting;
    /// The first CTA that stores, and the vectors that each of its threads stores in a round.
    uint32_t storing_from;
    uint32_t stores;
    /// A counter for each team, `BN_COUNTER_BYTES` apart, 0 at first.
    uint32_t* counters;
} BnProbe;

/// The cluster sizes that are asked for: 2, 4, 8 and 16 CTAs.
#define BN_CLUSTER_SIZES 4

/// What `bn_*_prepare` has to know of the device.
typedef struct BnDevice {
    /// The most shared memory that a CTA may use, and the most where two share an SM.
    uint32_t shared_bytes;
    uint32_t half_shared_bytes;
    /// 1 where thread-block clusters can be launched.
    uint32_t has_clusters;
} BnDevice;

/// What `bn_*_prepare` found of the kernels of one operation. All 0 at first.
typedef struct BnResident {
    /// The kernel that was made ready last, its dtype and form, and the CUDA call that was made last: after a failure, those
    /// that failed. Text that is never freed; null before the first.
    const char* kernel;
    const char* instance;
    const char* call;
    /// The fewest CTAs of `BN_MAX_THREADS` threads that an SM holds of any of them.
    uint32_t ctas;
    /// How many kernels there are.
    uint32_t kernels;
    /// The fewest clusters of each size that the device holds of any of them that are launched so: with an SM for each
    /// CTA, and with one for two.
    uint32_t clusters[2][BN_CLUSTER_SIZES];
    /// How many kernels these are.
    uint32_t clustered_kernels;
    /// Static shared memory of a kernel that cannot have what plans take beside it, in bytes; else 0.
    uint32_t static_bytes;
} BnResident;

/// The most threads of a CTA, and the CTAs of that size that every kernel leaves room for on an SM.
#define BN_MAX_THREADS 256
#define BN_MIN_CTAS 2
/// What lies between the counters of two teams: lines of their own.
#define BN_COUNTER_BYTES 64

#ifdef __cplusplus
extern "C" {
#endif

// Launches are asynchronous on `stream` (a CUstream of the current context), allocate nothing and can be captured.

/// Writes mean and var of every channel.
BnStatus bn_moments(const BnMoments* args, void* stream);
/// The forward pass with the batch's statistics.
BnStatus bn_train(const BnTrain* args, void* stream);
/// The forward pass with the running statistics.
BnStatus bn_infer(const BnInfer* args, void* stream);
/// The backward pass of `bn_train`, or with running statistics of `bn_infer`.
BnStatus bn_backward(const BnBackward* args, void* stream);
/// One probe.
BnStatus bn_probe(const BnProbe* args, void* stream);
/// Writes `value` to `len` floats: what an empty batch leaves.
BnStatus bn_fill(float* out, uint64_t len, float value, void* stream);

// Each loads its operation's kernels on the current device, lets them use its shared memory, and says how many fit. To be
// called once a device, before any launch or capture.

BnStatus bn_moments_prepare(const BnDevice* device, BnResident* resident);
BnStatus bn_train_prepare(const BnDevice* device, BnResident* resident);
BnStatus bn_infer_prepare(const BnDevice* device, BnResident* resident);
BnStatus bn_backward_prepare(const BnDevice* device, BnResident* resident);
BnStatus bn_probe_prepare(const BnDevice* device, BnResident* resident);
BnStatus bn_fill_prepare(const BnDevice* device, BnResident* resident);

#ifdef __cplusplus
}
#endif

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
    /// Nowhere: x is read twice.
    BN_TWO_READ = 1
} BnStrategy;

/// What is fused behind the normalization: bit 0 is relu, bit 1 is the residual.
typedef enum BnEpilogue { BN_IDENTITY = 0, BN_RELU = 1, BN_ADD = 2, BN_ADD_RELU = 3 } BnEpilogue;

/// How the tensors are cut. A strip is a group of neighbouring channels: `rows` rows of `width` vectors each, from one
/// row to the next `row_vectors`. Vectors have 16 bytes, or one element in the scalar forms.
typedef struct BnTiling {
    BnDtype dtype;
    BnForm form;
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

/// Scratch memory: one 16-byte partial for each split and channel, and a counter that is 0 between launches.
typedef struct BnWorkspace {
    void* partials;
    uint32_t* ticket;
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
    BnStrategy strategy;
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
    float eps;
    const void* x;
    const void* z;
    const float* gamma;
    const float* beta;
    const float* running_mean;
    const float* running_var;
    void* y;
    uint32_t* relu_mask;
} BnInfer;

typedef struct BnBackward {
    BnTiling tiling;
    BnStrategy strategy;
    BnEpilogue epilogue;
    const void* x;
    const void* dy;
    const float* gamma;
    const float* beta;
    const float* saved_mean;
    const float* saved_inv_std;
    const uint32_t* relu_mask;
    void* dx;
    void* dz;
    float* dgamma;
    float* dbeta;
    BnWorkspace workspace;
} BnBackward;

typedef struct BnBackwardFrozen {
    BnTiling tiling;
    BnEpilogue epilogue;
    float eps;
    const void* x;
    const void* dy;
    const float* gamma;
    const float* beta;
    const float* running_mean;
    const float* running_var;
    const uint32_t* relu_mask;
    void* dx;
    void* dz;
    float* dgamma;
    float* dbeta;
    BnWorkspace workspace;
} BnBackwardFrozen;

/// What `bn_*_prepare` found of the kernels of one operation.
typedef struct BnResident {
    /// The fewest CTAs of `BN_MAX_THREADS` threads that an SM holds of any of them.
    uint32_t ctas;
    /// How many kernels there are.
    uint32_t kernels;
} BnResident;

/// The most threads of a CTA, and the CTAs of that size that every kernel leaves room for on an SM.
#define BN_MAX_THREADS 256
#define BN_MIN_CTAS 2

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
/// The backward pass of `bn_train`.
BnStatus bn_backward(const BnBackward* args, void* stream);
/// The backward pass of `bn_infer`.
BnStatus bn_backward_frozen(const BnBackwardFrozen* args, void* stream);
/// Writes `value` to `len` floats: what an empty batch leaves.
BnStatus bn_fill(float* out, uint64_t len, float value, void* stream);

// Each loads its operation's kernels on the current device, lets them use `shared_bytes` of dynamic shared memory, and
// says how many fit an SM. To be called once a device, before any launch or capture.

BnStatus bn_moments_prepare(uint32_t shared_bytes, BnResident* resident);
BnStatus bn_train_prepare(uint32_t shared_bytes, BnResident* resident);
BnStatus bn_infer_prepare(uint32_t shared_bytes, BnResident* resident);
BnStatus bn_backward_prepare(uint32_t shared_bytes, BnResident* resident);
BnStatus bn_backward_frozen_prepare(uint32_t shared_bytes, BnResident* resident);
BnStatus bn_fill_prepare(uint32_t shared_bytes, BnResident* resident);

#ifdef __cplusplus
}
#endif

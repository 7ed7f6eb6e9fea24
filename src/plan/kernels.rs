//! The constants that the kernels are compiled for, and the layout of a workspace. Those that kernels/abi.h has too are held
//! against it in src/cuda/launch/tiling.rs: plans are made without the feature `cuda` as well.

/// Threads per CTA at most.
pub(super) const MAX_THREADS: u32 = 256;
/// CTAs of [`MAX_THREADS`] threads that every kernel's registers leave room for on an SM.
pub(super) const MIN_CTAS: u32 = 2;
/// Threads of a warp.
pub(super) const WARP: u32 = 32;
/// Bytes of a vector, the unit of every load and store but those of single elements.
pub(super) const VECTOR_BYTES: u32 = 16;
/// The cluster sizes that exist, smallest first.
pub(super) const CLUSTER_SIZES: [u32; 4] = [2, 4, 8, 16];
/// CTAs of a grid at most, in its first dimension.
pub(super) const MAX_CTAS: u64 = (1 << 31) - 1;
/// Exchanges of a team in one launch at most: their numbers have 31 bits (kernels/common/team.cuh).
pub(super) const MAX_EXCHANGES: u32 = 1 << 29;
/// Bytes of the tickets, which come first, and of the counter of exchanges behind them: in cache lines of their own.
pub(super) const COUNTER_BYTES: usize = 256;
/// Bytes before the partials, whatever the plan: plans of all kinds use a workspace one after the other.
pub(super) const HEAD_BYTES: usize = 2 * COUNTER_BYTES;
/// Bytes of one partial: four floats.
pub(super) const PARTIAL_BYTES: usize = 16;
/// Partials of threads that lie in shared memory at once, at most, while a CTA reduces them with strided access: 8 KiB, so that two
/// CTAs with 100 KiB of a tile fit an SM of 227.
pub(super) const MAX_SLOTS: u32 = 512;
/// Partials of one pass or exchange at most, which bounds every workspace, whatever the batch: a mebibyte. Not measured.
pub(super) const MAX_PARTIALS: usize = 1 << 16;
/// Vectors of x that a thread of the kernels that reduce moments has in flight (kernels/forward/reduce_moments.cuh).
pub(super) const MOMENTS_UNROLL: u32 = 8;
/// Vectors of each tensor that a thread of all other kernels has in flight (kernels/forward/normalize.cuh,
/// kernels/backward/gradient.cuh).
pub(super) const UNROLL: u32 = 4;
/// The same in a backward pass whose activation's derivative takes any value (kernels/backward/gradient.cuh).
pub(super) const REAL_UNROLL: u32 = 2;
/// Partials of a channel that a thread of a second pass has in flight (kernels/common/reduce.cuh).
pub(super) const PARTIALS_IN_FLIGHT: u32 = 4;
/// Instructions of a thread for each element of a vector that it loads, and for each that it stores: forward and backward, by
/// `cargo xtask kernels` for contiguous half data on sm_90.
pub(super) const INSTRUCTIONS: [[u32; 2]; 2] = [[12, 9], [7, 14]];
/// The same for elements that are loaded and stored one by one; backward is an estimate.
pub(super) const SCALAR_INSTRUCTIONS: [[u32; 2]; 2] = [[36, 41], [21, 62]];

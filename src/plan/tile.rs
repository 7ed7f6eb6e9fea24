//! Channel tiles: the ways to cut a tensor into them, whatever the device.

use super::access::Access;
use super::kernels::{MAX_SLOTS, MAX_THREADS, PARTIAL_BYTES, WARP};
use super::traffic::smem_tensors;
use crate::element::Dtype;
use crate::op::Problem;
use crate::shape::RowView;

/// The cut of the data tensors. A channel tile, or tile, is a group of neighbouring channels: `rows` rows of `width` vectors
/// each, `row_vectors` from one row to the next. A vector has 16 bytes, or one element in the scalar access patterns.
///
/// The CTAs that share a tile are its team. Cluster and grid launch whole teams of neighbouring CTAs; the teams take the tiles
/// in turn.
// The fields are described here alone: kernels/abi.h has their types, and src/cuda/launch/tiling.rs copies them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Which thread owns which element.
    pub access: Access,
    /// Rows of a tile.
    pub rows: i64,
    /// Vectors from one row to the next. The last columns of the last tile may lie beyond: no thread owns these.
    pub row_vectors: i64,
    /// Vectors of a tile in one row.
    pub width: i64,
    /// One CTA's share of its tile: vectors counted row by row (contiguous), or rows (strided).
    pub chunk: i64,
    /// Channels of a tile.
    pub tile_channels: u32,
    /// Elements of one channel side by side in a row. Not used with contiguous access, whose tile is one channel.
    pub inner: u32,
    /// Tiles of the tensor.
    pub tiles: u32,
    /// CTAs that share a tile: its team.
    pub splits: u32,
    /// Teams of the launch: one per tile, except in a grid, whose teams must all be resident and take the tiles in turn.
    pub teams: u32,
    /// Iterations of each CTA's walk whose vectors it keeps in shared memory.
    pub smem_iters: u32,
    /// Threads per CTA, a power of two.
    pub threads: u32,
    /// Dynamic shared memory per CTA, in bytes.
    pub shared_bytes: u32,
    /// Rows of an iteration, an odd number, whose threads' partials lie in shared memory at once with strided access, while the CTA
    /// reduces them.
    pub slot_rows: u32,
    /// Whether vectors pair up to whole bytes of the relu mask; else the mask is packed from y afterwards.
    pub mask_in_place: bool,
}

/// Threads per CTA that are tried.
const THREADS: [u32; 3] = [MAX_THREADS / 4, MAX_THREADS / 2, MAX_THREADS];
/// Partials for the warps of the largest CTA.
const WARP_PARTIALS: u32 = MAX_THREADS / WARP;

impl Tiling {
    /// The tiling of an empty tensor.
    pub(super) const EMPTY: Self = Self {
        access: Access::ScalarContiguous,
        rows: 0,
        row_vectors: 0,
        width: 0,
        chunk: 0,
        tile_channels: 1,
        inner: 1,
        tiles: 0,
        splits: 0,
        teams: 0,
        smem_iters: 0,
        threads: WARP,
        shared_bytes: 0,
        slot_rows: 0,
        mask_in_place: false,
    };

    /// A tiling with each tile in one CTA that keeps nothing, unless it exceeds a limit of the kernels.
    fn whole(problem: &Problem, view: RowView, access: Access, width: usize, threads: u32) -> Option<Self> {
        let vector = access.vector_len(problem.dtype()) as usize;
        let is_strided = access.is_strided();
        let tile_channels = if is_strided { width * vector / view.s } else { 1 };
        let row_vectors = view.row_len() / vector;
        let too_narrow =
            is_strided && (width > threads as usize || tile_channels.next_power_of_two() > threads as usize);
        if too_narrow || tile_channels == 0 {
            return None;
        }
        let chunk = if is_strided { view.rows } else { view.rows.checked_mul(width)? };
        let tiles = u32::try_from(row_vectors.div_ceil(width)).ok()?;
        let tile_channels = u32::try_from(tile_channels).ok()?;
        let slots = if is_strided { Slots::new(vector, width, view.s, threads)? } else { Slots::NONE };
        Some(Self {
            access,
            rows: i64::try_from(view.rows).ok()?,
            row_vectors: i64::try_from(row_vectors).ok()?,
            width: i64::try_from(width).ok()?,
            chunk: i64::try_from(chunk).ok()?,
            tile_channels,
            inner: u32::try_from(view.s).unwrap_or(u32::MAX), // beyond 32 bits only where access is contiguous, which ignores it
            tiles,
            splits: 1,
            teams: tiles,
            smem_iters: 0,
            threads,
            shared_bytes: (WARP_PARTIALS + tile_channels + tile_channels / 8 + slots.count) * PARTIAL_BYTES as u32,
            slot_rows: slots.rows,
            mask_in_place: mask_in_place(vector, width, row_vectors),
        })
    }

    /// Elements of a vector.
    pub fn vector_len(&self, dtype: Dtype) -> u32 {
        self.access.vector_len(dtype)
    }

    /// The part of a chunk that a CTA takes in one iteration, in the chunk's units.
    pub(crate) fn iteration_len(&self) -> i64 {
        let threads = i64::from(self.threads);
        if self.access.is_strided() { threads / self.width.max(1) } else { threads }
    }

    /// The tiling with chunks of this length, rounded up to whole iterations: so only a tile's last iteration has idle threads,
    /// and vectors stay in pairs.
    pub(super) fn in_chunks(self, chunk: i64) -> Self {
        let chunk = div_ceil(chunk, self.iteration_len()) * self.iteration_len();
        let splits = u32::try_from(div_ceil(self.chunk, chunk).max(1)).unwrap_or(u32::MAX);
        Self { chunk: chunk.min(self.chunk), splits, ..self }
    }

    /// CTAs of a team that have something to do.
    pub(super) fn busy_splits(&self) -> i64 {
        let whole = if self.access.is_strided() { self.rows } else { self.rows * self.width };
        div_ceil(whole, self.chunk)
    }

    /// Exchanges of a team in one launch at most, with a grid: two for each of its tiles, which it takes in turn.
    pub fn exchanges(&self) -> u32 {
        self.tiles.div_ceil(self.teams.max(1)).saturating_mul(2)
    }

    /// Values of a channel in a chunk, and in a tile's last chunk.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub(crate) fn chunk_values(&self, dtype: Dtype) -> [i64; 2] {
        let (whole, each) = if self.access.is_strided() {
            (self.rows, self.inner)
        } else {
            (self.rows * self.width, self.vector_len(dtype))
        };
        let last = whole - i64::from(self.splits.saturating_sub(1)) * self.chunk;
        [self.chunk, last.max(0)].map(|len| len * i64::from(each))
    }

    /// Iterations of a CTA's walk through its chunk.
    pub fn iterations(&self) -> i64 {
        div_ceil(self.chunk, self.iteration_len().max(1))
    }
}

/// The shared memory through which threads' partials go with strided access.
#[derive(Clone, Copy)]
struct Slots {
    rows: u32,
    count: u32,
}

impl Slots {
    const NONE: Self = Self { rows: 0, count: 0 };

    /// The slots of as many rows of a CTA's threads as fit [`MAX_SLOTS`], an odd number; none where not even one does.
    // kernels/common/smem.cuh has the same sizes.
    fn new(vector: usize, width: usize, inner: usize, threads: u32) -> Option<Self> {
        let of_thread = if inner >= vector { vector.min(2) } else { vector };
        let (of_thread, width) = (u32::try_from(of_thread).ok()?, u32::try_from(width).ok()?);
        let count = |rows: u32| of_thread * ((width * rows) | 4);
        let all = (threads / width) | 1;
        let rows = (1..=all).rev().step_by(2).find(|&rows| count(rows) <= MAX_SLOTS)?;
        Some(Self { rows, count: count(rows) })
    }
}

/// Every tiling with whole tiles that the kernels can run: of each width and number of threads.
pub(super) fn whole_tilings(problem: &Problem) -> Vec<Tiling> {
    let view = RowView::new(problem.shape());
    let access = Access::of(problem, view);
    let widths = access.widths(problem.dtype(), view).into_iter();
    let sizes = widths.flat_map(|width| THREADS.map(|threads| (width, threads)));
    sizes.filter_map(|(width, threads)| Tiling::whole(problem, view, access, width, threads)).collect()
}

/// The bytes of the smallest tile that a CTA would have to keep.
pub(super) fn least_tile_bytes(problem: &Problem) -> usize {
    let (view, bytes) = (RowView::new(problem.shape()), problem.dtype().bytes() as usize);
    let access = Access::of(problem, view);
    let narrowest = access.widths(problem.dtype(), view).first().copied();
    let row = narrowest.map_or(view.s, |width| width * access.vector_len(problem.dtype()) as usize);
    row.saturating_mul(view.rows).saturating_mul(bytes * smem_tensors(problem.op()) as usize)
}

/// Whether each byte of the relu mask is written by one thread, or by two neighbours of a warp.
fn mask_in_place(vector: usize, width: usize, row_vectors: usize) -> bool {
    let is_whole_bytes = vector.is_multiple_of(8);
    let is_half_a_byte = vector == 4;
    is_whole_bytes || is_half_a_byte && width.is_multiple_of(2) && row_vectors.is_multiple_of(2)
}

/// The quotient of counts, rounded up: `i64::div_ceil` is not stable.
pub(super) fn div_ceil(a: i64, b: i64) -> i64 {
    a / b + i64::from(a % b != 0)
}

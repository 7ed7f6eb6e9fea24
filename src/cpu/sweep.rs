//! The walk of the reference over a tensor, on all threads: sums over each channel, and a function of each element.
//!
//! ```text
//! for block in blocks of channels        // each computed to the end while it is in cache
//!     for chunk in chunks of the block   // of rows and values: sums += chunk.sums()
//!     for chunk in chunks of the block   // output = f(…)
//! ```
//!
//! The shape alone decides the cuts and the order in which partial sums are added, so that the bits are the same for any number of
//! threads.

use core::ops::{Deref, Range, RangeInclusive};

use super::output::Output;
use super::piece::Piece;
use super::stream;
use super::tile::{TILE, Tiles};
use super::vector::{LANES, PerLane, Real};
use super::walk::Walk;
use super::{Cpu, threads};
use crate::shape::{RowView, Shape};

/// Elements of a chunk.
const CHUNK_ELEMS: usize = 64 * 1024;
/// Values of a channel from which on its coefficients take no time in comparison, even by one thread.
const MANY_VALUES: usize = 256;
/// Elements of what a thread takes at a time of a map, where neighbours are of one channel.
const MAP_ELEMS: usize = 16 * 1024;
/// Rows of a chunk where neighbours are of different channels and rows are wide. Each chunk leaves a result for all channels,
/// so the more rows, the less that costs; but a tensor of fewer rows is to have [`CHUNKS_FOR_ALL_THREADS`] too, down to the
/// least of these.
const CHUNK_ROWS: RangeInclusive<usize> = 64..=256;
/// Elements of a block, where a channel does not hold more: as many of x and y fit a second-level cache.
const BLOCK_ELEMS: usize = 32 * 1024;
/// Elements of a task at least.
const MIN_TASK_ELEMS: usize = 16 * 1024;
/// Elements that take as long as what is computed once a channel.
const CHANNEL_ELEMS: usize = 16;
/// Neighbouring elements of a block in a row at least, even where it then holds more, so that memory is read in more than
/// snippets.
const MIN_RUN_ELEMS: usize = 4096;
/// Elements of a row of a block where neighbours are of different channels and rows are few: so the block stays in cache.
const FEW_ROWS_BLOCK: usize = 1024;
/// Elements of such a row of a block with more rows: so what is kept for a channel stays in cache. Narrower blocks of many rows get in
/// each other's way where the distance of rows is a power of two.
const MANY_ROWS_BLOCK: usize = 16 * 1024;
/// Chunks of a block that is computed by all threads, one block after the other, so that one at a time is in cache.
const CHUNKS_FOR_ALL_THREADS: usize = 16;

/// The part of this index of a range of some length, in steps.
fn part(i: usize, step: usize, of: usize) -> Range<usize> {
    i * step..((i + 1) * step).min(of)
}

/// Channels of a block.
fn channels_per_block(view: RowView) -> usize {
    let RowView { rows, c, s } = view;
    let channels = if s >= LANES {
        // Runs are not worth leaving threads without a block.
        (BLOCK_ELEMS / (rows * s)).max((MIN_RUN_ELEMS / s).min(c / 16))
    } else if rows <= BLOCK_ELEMS / FEW_ROWS_BLOCK {
        FEW_ROWS_BLOCK / s
    } else {
        MANY_ROWS_BLOCK / s
    };
    channels.clamp(1, c)
}

/// Blocks of a task at least: all of them where each is large enough for all threads.
fn blocks_per_task(view: RowView) -> usize {
    let m = view.rows * view.s;
    let channels = channels_per_block(view);
    if m * if view.s >= LANES { 1 } else { channels } > CHUNKS_FOR_ALL_THREADS * CHUNK_ELEMS {
        return view.c;
    }
    MIN_TASK_ELEMS.div_ceil((m + CHANNEL_ELEMS) * channels)
}

/// Rows of a chunk of this many channels.
fn rows_per_chunk(view: RowView, channels: usize) -> usize {
    let width = channels * view.s;
    let at_least = if view.s < LANES {
        (view.rows / CHUNKS_FOR_ALL_THREADS).clamp(*CHUNK_ROWS.start(), *CHUNK_ROWS.end())
    } else {
        1
    };
    // A multiple of every pattern's rows.
    (CHUNK_ELEMS / width).max(at_least).next_multiple_of(LANES)
}

/// The bytes that an operation needs in addition to its buffers, at most: results of channels, and the memory of the blocks that
/// are computed at one time.
pub(super) fn bookkeeping_bytes(shape: Shape) -> usize {
    /// The results of a channel, twice where they are put together.
    const RESULTS: usize = 96;
    /// A channel of a block: its coefficients, and their table.
    const OF_CHANNEL: usize = 200;
    /// A column of sums, lane by lane, and of parameters.
    const OF_COLUMN: usize = 8 * size_of::<PerLane<f64>>();
    /// A chunk's part of a channel, and itself.
    const OF_CHUNK: [usize; 2] = [32, 128];
    let view = RowView::new(shape);
    let channels = channels_per_block(view);
    let blocks = view.c.div_ceil(channels);
    let chunks = view.rows.div_ceil(rows_per_chunk(view, channels)) * view.s.div_ceil(CHUNK_ELEMS);
    let columns = if view.s >= LANES { channels } else { (channels * view.s).div_ceil(LANES) + 2 * LANES };
    let threads = Cpu::threads();
    let at_once = blocks.min(threads);
    let of_chunks = chunks.saturating_mul(channels * OF_CHUNK[0] + OF_CHUNK[1]);
    let of_columns = columns * OF_COLUMN * (1 + chunks.min(threads));
    let of_blocks = at_once.saturating_mul((channels * OF_CHANNEL + of_columns).saturating_add(of_chunks));
    view.c.saturating_mul(RESULTS).saturating_add(of_blocks).saturating_add(CHUNK_ELEMS)
}

/// A block of neighbouring channels, whose values nothing else depends on.
#[derive(Clone, Debug)]
pub(super) struct Block(Walk);

impl Deref for Block {
    type Target = Walk;
    fn deref(&self) -> &Walk {
        &self.0
    }
}

/// A block of all channels, for a function of each element alone: where neighbours are of one channel memory is then read and written as
/// it lies. `None` where that is no gain, or what is kept for a channel counts.
pub(super) fn whole(shape: Shape) -> Option<Block> {
    let view = RowView::new(shape);
    let is_of_use = view.s >= LANES && view.rows * view.s >= MANY_VALUES;
    is_of_use.then(|| Block(Walk::new(view, 0..view.c)))
}

/// The results of `of_block` for the channels of each block, all in order.
pub(super) fn by_block<R: Send>(shape: Shape, of_block: impl Fn(&Block) -> R + Sync + Send) -> Vec<R> {
    let view = RowView::new(shape);
    let channels = channels_per_block(view);
    let block = |i: usize| Block(Walk::new(view, i * channels..((i + 1) * channels).min(view.c)));
    let blocks = view.c.div_ceil(channels);
    if blocks == 1 {
        return vec![of_block(&block(0))];
    }
    threads::map(blocks, blocks_per_task(view), |i| of_block(&block(i)))
}

/// A chunk: some values of each channel of a block.
pub(super) struct Chunk<'a> {
    block: &'a Block,
    rows: Range<usize>,
    /// The values that it has of each plane.
    values: Range<usize>,
}

impl Block {
    /// Values of each channel.
    pub(super) fn m(&self) -> usize {
        self.view().rows * self.view().s
    }

    /// The numbers of its chunks: of parts of the rows, and of a plane.
    fn counts(&self) -> [usize; 2] {
        let RowView { rows, s, .. } = self.view();
        [rows.div_ceil(rows_per_chunk(self.view(), self.channels().len())), s.div_ceil(CHUNK_ELEMS)]
    }

    fn chunk(&self, index: usize) -> Chunk<'_> {
        let RowView { rows, s, .. } = self.view();
        let [_, of_plane] = self.counts();
        let rows = part(index / of_plane, rows_per_chunk(self.view(), self.channels().len()), rows);
        Chunk { block: self, rows, values: part(index % of_plane, CHUNK_ELEMS, s) }
    }

    /// A chunk of about this count of values of each channel, from as many rows as have a vector of them.
    pub(super) fn sample(&self, count: usize) -> Chunk<'_> {
        let RowView { rows, s, .. } = self.view();
        let values = if s >= LANES { count.div_ceil(rows).next_multiple_of(LANES).min(s) } else { s };
        Chunk { block: self, rows: 0..count.div_ceil(values).min(rows), values: 0..values }
    }

    /// The results of `of_chunk`, chunk by chunk.
    pub(super) fn by_chunk<R: Send>(&self, of_chunk: impl Fn(&Chunk<'_>) -> R + Sync + Send) -> Vec<R> {
        threads::map(self.counts().into_iter().product(), 1, |i| of_chunk(&self.chunk(i)))
    }

    /// The sums of each channel, by a function that adds those of a piece.
    pub(super) fn sums<R: Real, const K: usize>(
        &self,
        of_piece: impl Fn(&Piece, &mut Tiles<R>, &mut [[PerLane<f64>; K]]) + Sync + Send,
    ) -> [Vec<f64>; K] {
        let of_chunk = |chunk: &Chunk<'_>| {
            let mut tiles = Tiles::default();
            chunk.sums(|piece, sums| of_piece(piece, &mut tiles, sums))
        };
        let mut chunks = self.by_chunk(of_chunk).into_iter();
        let mut sums = chunks.next().unwrap_or_else(|| core::array::from_fn(|_| vec![0.0; self.channels().len()]));
        for chunk in chunks {
            for (sums, chunk) in sums.iter_mut().zip(chunk) {
                sums.iter_mut().zip(chunk).for_each(|(sum, of_chunk)| *sum += of_chunk);
            }
        }
        sums
    }

    /// Writes what `of_piece` leaves in its values of the output. Begins at the end, which a walk before it has left in cache.
    pub(super) fn map<T: Copy + Default + Send, R: Real>(
        &self,
        output: &Output<'_, T>,
        of_piece: impl Fn(&Piece, &mut Tiles<R>, &mut [T]) + Sync + Send,
    ) {
        let is_streamed = stream::passes_caches(output.bytes());
        let RowView { rows, s, .. } = self.view();
        let all = self.channels().len();
        // Planes side by side, or rows of all of them.
        let channels = if s >= LANES { (MAP_ELEMS / s).clamp(1, all) } else { all };
        let rows_at_once = match s {
            ..LANES => rows_per_chunk(self.view(), all),
            _ if channels < all => 1,
            _ => (MAP_ELEMS / (all * s)).max(1),
        };
        let steps = [rows_at_once, channels, MAP_ELEMS];
        let counts = [rows.div_ceil(steps[0]), all.div_ceil(steps[1]), s.div_ceil(steps[2])];
        let of_chunk = |i: usize| {
            let rows = part(i / counts[2] / counts[1], steps[0], rows);
            let channels = part(i / counts[2] % counts[1], steps[1], all);
            let values = part(i % counts[2], steps[2], s);
            let mut tiles = Tiles::default();
            let mut staging = [T::default(); TILE];
            self.map_pieces(rows, channels, values, &mut |piece| {
                // SAFETY: the pieces of a walk are parts of a tensor that do not overlap, and so are the chunks of a block, and
                // the blocks of a tensor.
                #[allow(unsafe_code)]
                let output = unsafe { output.piece(piece.range()) };
                if is_streamed {
                    let staging = &mut staging[..output.len()];
                    of_piece(piece, &mut tiles, staging);
                    stream::copy(staging, output);
                } else {
                    of_piece(piece, &mut tiles, output);
                }
            });
            if is_streamed {
                stream::fence();
            }
        };
        let chunks = counts.into_iter().product::<usize>();
        threads::for_each(chunks, 1, &|i| of_chunk(chunks - 1 - i));
    }
}

impl Chunk<'_> {
    /// Values of each channel.
    pub(super) fn m(&self) -> usize {
        self.rows.len() * self.values.len()
    }

    /// The sums of each channel, by a function that adds those of a piece.
    pub(super) fn sums<const K: usize>(&self, of_piece: impl FnMut(&Piece, &mut [[PerLane<f64>; K]])) -> [Vec<f64>; K] {
        self.block.0.sums(self.rows.clone(), self.values.clone(), of_piece)
    }
}

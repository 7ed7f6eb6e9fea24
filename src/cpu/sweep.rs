//! The walk of the reference over a tensor: sums over each channel, and a function of each element.
//!
//! ```text
//! for block in blocks of channels        // each computed to the end while it is in cache
//!     for chunk in chunks of the block   // of rows and values: sums += chunk.sums(term)
//!     for row in rows of the block       // output = f(parameters of the channel, values)
//! ```
//!
//! An operation is a formula for one element with the parameters of its channel; the walk knows the layouts. The shape alone
//! decides the cuts and the order in which partial sums are added, so that the bits are the same for any number of threads.

use core::ops::{Range, RangeInclusive};

use rayon::prelude::*;

use super::convert::SimdElement;
use super::lanes::{Prepare, Unprepared};
use super::rows::{Rows, ranges};
use super::{Cpu, threads};
use crate::shape::{RowView, Shape};

/// Elements of a chunk.
const CHUNK_ELEMS: usize = 64 * 1024;
/// Rows of a chunk where neighbours are of different channels and rows are wide. Each chunk leaves a result for all channels,
/// so the more rows, the less that costs; but a tensor of fewer rows is to have [`CHUNKS_FOR_ALL_THREADS`] too, down to the
/// least of these.
const CHUNK_ROWS: RangeInclusive<usize> = 64..=256;
/// Elements of a block, where a channel does not hold more: as many of x and y fit a second-level cache.
const BLOCK_ELEMS: usize = 32 * 1024;
/// Elements of a task at least.
const MIN_TASK_ELEMS: usize = 16 * 1024;
/// Neighbouring elements of a block in a row at least, even where it then holds more, so that memory is read in more than
/// snippets.
const MIN_RUN_ELEMS: usize = 4096;
/// Channels of a block where neighbours are of different channels, if that few hold no more than a block.
/// Narrower ones of many rows get in each other's way in a cache where the distance of rows is a power of two.
const CHANNELS_LAST_BLOCK: usize = 1024;
/// Chunks of a block that is computed by all threads, one block after the other, so that one at a time is in cache.
const CHUNKS_FOR_ALL_THREADS: usize = 16;

/// Channels of a block.
fn channels_per_block(view: RowView) -> usize {
    let RowView { rows, c, s } = view;
    if s > 1 {
        // Runs are not worth leaving threads without a block.
        return (BLOCK_ELEMS / (rows * s)).max((MIN_RUN_ELEMS / s).min(c / 16)).max(1);
    }
    if rows <= BLOCK_ELEMS / CHANNELS_LAST_BLOCK { CHANNELS_LAST_BLOCK } else { c }
}

/// Blocks of a task at least: all of them where each is large enough for all threads.
fn blocks_per_task(view: RowView) -> usize {
    let m = view.rows * view.s;
    if m > CHUNKS_FOR_ALL_THREADS * CHUNK_ELEMS {
        return view.c;
    }
    MIN_TASK_ELEMS.div_ceil(m * channels_per_block(view))
}

/// Rows of a chunk of this many channels.
fn rows_per_chunk(view: RowView, channels: usize) -> usize {
    match channels * view.s {
        width if view.s == 1 => {
            let rows = view.rows / CHUNKS_FOR_ALL_THREADS;
            rows.clamp(*CHUNK_ROWS.start(), *CHUNK_ROWS.end()).max(CHUNK_ELEMS / width)
        }
        width => (CHUNK_ELEMS / width).max(1),
    }
}

/// The bytes that an operation needs in addition to its buffers, at most: slices of rows, results of channels, and the memory
/// of the blocks that are computed at one time.
pub(super) fn bookkeeping_bytes(shape: Shape) -> usize {
    /// The results of a channel, twice where they are put together.
    const RESULTS: usize = 96;
    /// The vectors of a block with a value a channel, and its sums lane by lane.
    const OF_CHANNEL: usize = 800;
    /// A chunk, and its part of a channel.
    const CHUNK_BYTES: [usize; 2] = [64, 40];
    let view = RowView::new(shape);
    let channels = channels_per_block(view).min(view.c);
    let blocks = view.c.div_ceil(channels);
    let chunks = view.rows.div_ceil(rows_per_chunk(view, channels)) * view.s.div_ceil(CHUNK_ELEMS);
    let slices = if blocks > 1 { blocks.saturating_mul(view.rows * size_of::<&mut [f64]>()) } else { 0 };
    let of_chunk = CHUNK_BYTES[0] + channels * CHUNK_BYTES[1];
    // A thread that waits for the chunks of one block may begin another.
    let at_once = blocks.min(4 * Cpu::threads());
    let of_blocks = at_once.saturating_mul(channels * OF_CHANNEL + chunks.saturating_mul(of_chunk));
    slices.saturating_add(view.c.saturating_mul(RESULTS)).saturating_add(of_blocks).saturating_add(CHUNK_ELEMS)
}

/// A block of neighbouring channels, whose values nothing else depends on.
#[derive(Clone)]
pub(super) struct ChannelBlock {
    view: RowView,
    channels: Range<usize>,
}

/// The block of all channels, where it is the only one: as of most small tensors, for which lists take longer than sums.
fn single_block(view: RowView) -> Option<ChannelBlock> {
    (channels_per_block(view) >= view.c).then_some(ChannelBlock { view, channels: 0..view.c })
}

/// The blocks of a tensor that is not empty, in the order of their channels.
fn blocks(view: RowView) -> Vec<ChannelBlock> {
    ranges(0..view.c, channels_per_block(view)).map(|channels| ChannelBlock { view, channels }).collect()
}

/// The results of `of_block` for the channels of each block, all in order.
pub(super) fn by_block<R: Send>(shape: Shape, of_block: impl Fn(&ChannelBlock) -> Vec<R> + Sync + Send) -> Vec<R> {
    let view = RowView::new(shape);
    if let Some(block) = single_block(view) {
        return of_block(&block);
    }
    let of_blocks = threads::map(blocks(view).par_iter().with_min_len(blocks_per_task(view)), of_block);
    of_blocks.into_iter().flatten().collect()
}

/// [`by_block`] whose calls also write their rows of the `output`.
pub(super) fn by_block_into<T: SimdElement, R: Send>(
    shape: Shape,
    output: &mut [T],
    of_block: impl Fn(&ChannelBlock, Vec<&mut [T]>) -> Vec<R> + Sync,
) -> Vec<R> {
    let view = RowView::new(shape);
    if let Some(block) = single_block(view) {
        return of_block(&block, vec![output]);
    }
    let blocks = blocks(view);
    let mut outputs: Vec<_> = blocks.iter().map(|_| Vec::with_capacity(view.rows)).collect();
    for row in output.chunks_mut(view.c * view.s) {
        let pieces = row.chunks_mut(channels_per_block(view) * view.s);
        outputs.iter_mut().zip(pieces).for_each(|(output, piece)| output.push(piece));
    }
    let tasks = blocks.par_iter().zip(outputs).with_min_len(blocks_per_task(view));
    let of_blocks = threads::map(tasks, |(block, output)| of_block(block, output));
    of_blocks.into_iter().flatten().collect()
}

/// A chunk: some values of each channel of a block.
#[derive(Clone)]
pub(super) struct Chunk<'a> {
    block: &'a ChannelBlock,
    rows: Range<usize>,
    /// The values that it has of each plane.
    values: Range<usize>,
}

impl ChannelBlock {
    /// Its channels.
    pub(super) fn channels(&self) -> Range<usize> {
        self.channels.clone()
    }

    /// Values of each channel.
    pub(super) fn m(&self) -> usize {
        self.view.rows * self.view.s
    }

    /// The first element of a row.
    fn start(&self, row: usize) -> usize {
        (row * self.view.c + self.channels.start) * self.view.s
    }

    /// The first value of each channel.
    pub(super) fn first<T: SimdElement>(&self, values: &[T]) -> Vec<f64> {
        (0..self.channels.len()).map(|ch| values[self.start(0) + ch * self.view.s].to_f64()).collect()
    }

    /// Its chunks, in order.
    fn chunks(&self) -> Vec<Chunk<'_>> {
        let RowView { rows, s, .. } = self.view;
        let of_rows = rows_per_chunk(self.view, self.channels.len());
        let chunk = |rows: Range<usize>| {
            ranges(0..s, CHUNK_ELEMS).map(move |values| Chunk { block: self, rows: rows.clone(), values })
        };
        ranges(0..rows, of_rows).flat_map(chunk).collect()
    }

    /// The results of `of_chunk` for each channel, chunk by chunk.
    pub(super) fn by_chunk<R: Send>(&self, of_chunk: impl Fn(&Chunk<'_>) -> Vec<R> + Sync + Send) -> Vec<Vec<R>> {
        if rows_per_chunk(self.view, self.channels.len()) >= self.view.rows && self.view.s <= CHUNK_ELEMS {
            return vec![of_chunk(&Chunk { block: self, rows: 0..self.view.rows, values: 0..self.view.s })];
        }
        threads::map(self.chunks().par_iter(), of_chunk)
    }

    /// The sums of `term(parameters of the channel, values of the inputs at one offset)` for each channel.
    pub(super) fn sums<T: SimdElement, const Q: usize, const J: usize, const K: usize>(
        &self,
        parameters: [&[f64]; Q],
        inputs: [&[T]; J],
        term: impl Fn([f64; Q], [f64; J]) -> [f64; K] + Sync,
    ) -> Vec<[f64; K]> {
        self.sums_prepared(parameters, inputs, &Unprepared, term)
    }

    /// [`ChannelBlock::sums`] over prepared values.
    pub(super) fn sums_prepared<T: SimdElement, const Q: usize, const J: usize, const K: usize>(
        &self,
        parameters: [&[f64]; Q],
        inputs: [&[T]; J],
        prepare: &impl Prepare<Q, J>,
        term: impl Fn([f64; Q], [f64; J]) -> [f64; K] + Sync,
    ) -> Vec<[f64; K]> {
        let mut sums = vec![[0.0; K]; self.channels.len()];
        for chunk in self.by_chunk(|chunk| chunk.sums_prepared(parameters, inputs, prepare, &term)) {
            for (sums, chunk) in sums.iter_mut().zip(chunk) {
                sums.iter_mut().zip(chunk).for_each(|(sum, chunk)| *sum += chunk);
            }
        }
        sums
    }

    /// `output = f(parameters of the channel, values of the inputs)` at every offset. Begins at the end, which a walk
    /// before it has left in cache.
    pub(super) fn map<T: SimdElement, const Q: usize, const J: usize>(
        &self,
        parameters: [&[f64]; Q],
        inputs: [&[T]; J],
        output: Vec<&mut [T]>,
        f: impl Fn([f64; Q], [f64; J]) -> f64 + Sync,
    ) {
        self.map_prepared(parameters, inputs, output, &Unprepared, f);
    }

    /// [`ChannelBlock::map`] over prepared values.
    pub(super) fn map_prepared<T: SimdElement, const Q: usize, const J: usize>(
        &self,
        parameters: [&[f64]; Q],
        inputs: [&[T]; J],
        output: Vec<&mut [T]>,
        prepare: &impl Prepare<Q, J>,
        f: impl Fn([f64; Q], [f64; J]) -> f64 + Sync,
    ) {
        let (c, s) = (self.channels.len(), self.view.s);
        let width = c * s;
        let view = Rows::new(c, s, parameters);
        // Rows with nothing between them come as one.
        let piece = if s > CHUNK_ELEMS { CHUNK_ELEMS } else { (CHUNK_ELEMS / width).max(1) * width };
        let of_piece = |row: usize, i: usize, output: &mut [T]| {
            let start = self.start(row) + i * piece;
            let inputs = inputs.map(|input| &input[start..start + output.len()]);
            view.map(inputs, output, prepare, &f);
        };
        if !threads::is_shared() {
            for (row, output) in output.into_iter().enumerate().rev() {
                output.chunks_mut(piece).enumerate().rev().for_each(|(i, output)| of_piece(row, i, output));
            }
            return;
        }
        let rows = output.into_par_iter().enumerate().rev().with_min_len(CHUNK_ELEMS.div_ceil(width));
        threads::for_each(rows, |(row, output)| {
            let pieces = output.par_chunks_mut(piece).enumerate().rev();
            threads::for_each(pieces, |(i, output)| of_piece(row, i, output));
        });
    }
}

impl Chunk<'_> {
    /// Values of each channel.
    pub(super) fn m(&self) -> usize {
        self.rows.len() * self.values.len()
    }

    /// A chunk of about an eighth of it.
    pub(super) fn eighth(&self) -> Self {
        let first = |range: &Range<usize>| range.start..range.start + range.len().div_ceil(8);
        if self.rows.len() > 1 {
            Self { rows: first(&self.rows), ..self.clone() }
        } else {
            Self { values: first(&self.values), ..self.clone() }
        }
    }

    /// The sums of `term(parameters of the channel, values of the inputs at one offset)` for each channel.
    pub(super) fn sums<T: SimdElement, const Q: usize, const J: usize, const K: usize>(
        &self,
        parameters: [&[f64]; Q],
        inputs: [&[T]; J],
        term: &impl Fn([f64; Q], [f64; J]) -> [f64; K],
    ) -> Vec<[f64; K]> {
        self.sums_prepared(parameters, inputs, &Unprepared, term)
    }

    /// [`Chunk::sums`] over prepared values.
    fn sums_prepared<T: SimdElement, const Q: usize, const J: usize, const K: usize>(
        &self,
        parameters: [&[f64]; Q],
        inputs: [&[T]; J],
        prepare: &impl Prepare<Q, J>,
        term: &impl Fn([f64; Q], [f64; J]) -> [f64; K],
    ) -> Vec<[f64; K]> {
        let RowView { c, s, .. } = self.block.view;
        let offsets = (self.block.start(self.rows.start)..self.block.start(self.rows.end)).step_by(c * s);
        Rows::new(self.block.channels.len(), s, parameters).sums(inputs, offsets, self.values.clone(), prepare, term)
    }
}

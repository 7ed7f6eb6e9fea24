//! Mean and variance of each channel, in one pass over each chunk of a block.
//!
//! Sums are about a pivot, the mean of a sample of the channel; the sample is summed about the channel's first value. So a
//! constant channel has exactly its value as mean and exactly 0 as variance, and a first value far from the others costs
//! nothing: the mean of one value in k is at most `sqrt(k)` sigmas away from that of all, whatever the values. By the square of that the
//! variance may lose digits: no more than a sum of m values loses to its roundings, where a sample has `sqrt(m)` of them.
//!
//! In f32, half values less a pivot of few digits are exact, mostly, and eight terms make a sum: a variance has a relative error of
//! 2^-22 at most. Where a sum is not finite, so small that squares may have been lost, or mostly the pivot's distance, the chunk is
//! summed again in f64.

use super::channels::LARGE;
use super::convert::{Convert, SimdElement};
use super::fit::mend;
use super::formulas::sum_squares;
use super::per_channel::{to_f64, update};
use super::piece::Table;
use super::sweep::{Block, Chunk};
use super::vector::{Real, is_f64};

/// The moments of some channels.
pub(super) struct Moments {
    pub(super) mean: Vec<f64>,
    /// Biased.
    pub(super) var: Vec<f64>,
}

/// Values of a sample at least, where there are more.
const SAMPLE: usize = 128;
/// Values of a channel up to which the first is the pivot.
const VERY_FEW: usize = 4;
/// Values of a channel up to which their sum in f32 might be off by more than a rounding of a mean.
pub(super) const FEW: usize = 16;

/// Mean and biased variance of each channel of a block. A variance too small for an f32 may be 0, unless it is used in f64 together with an
/// `eps` that does not hide it.
pub(super) fn of_block<T: SimdElement>(block: &Block, x: &[T], eps: Option<f64>) -> Moments {
    let mut mean = to_f64(&block.first(x));
    update([&mut mean], [], |[first], []| [finite_or_zero(first)]);
    let mut pivot = mean.clone();
    if block.m() > VERY_FEW {
        let sample = block.sample(SAMPLE.max(block.m().isqrt()));
        let (m, [sum, _]) = (sample.m() as f64, sums_about(&sample, &block.table::<1, T::Usual>([&mean]), x));
        update([&mut pivot], [&sum], move |[pivot], [sum]| [T::Usual::pivot(pivot + finite_or_zero(sum / m))]);
    }
    let suffices = is_f64::<T::Usual>() || block.m() > FEW;
    let about = suffices.then(|| block.table::<1, T::Usual>([&pivot]));
    let counts_all = eps.is_some_and(|eps| eps < 1.0 / LARGE);
    let chunks = block.by_chunk(|chunk| {
        let m = chunk.m() as f64;
        let in_f64 = || sums_about(chunk, &block.table::<1, f64>([&pivot]), x);
        let Some(about) = &about else {
            let [sum, squares] = in_f64();
            return ChunkMoments { m, sum, squares };
        };
        let mut sums = sums_about(chunk, about, x);
        if !is_f64::<T::Usual>() {
            mend(&mut sums, move |[sum, squares]| has_lost(m, sum, squares, counts_all), in_f64);
        }
        let [sum, squares] = sums;
        ChunkMoments { m, sum, squares }
    });
    // One division for all channels. What it rounds away of the mean comes back with the correction.
    let share = 1.0 / block.m() as f64;
    // The first sum alone decides whether the mean is finite; the correction makes a finite one exact.
    let residuals = totals(&chunks, &pivot, &mean, sum_about);
    update([&mut mean], [&residuals], move |[mean], [residual]| [mean + residual * share]);
    let corrections = totals(&chunks, &pivot, &mean, sum_about);
    update([&mut mean], [&corrections], move |[mean], [correction]| [mean + finite_or_zero(correction * share)]);
    let mut var = totals(&chunks, &pivot, &mean, squares_about);
    update([&mut var], [], move |[total], []| [total * share]);
    Moments { mean, var }
}

/// The sums over a chunk of the differences from the table's values, and of their squares.
fn sums_about<T: Convert<R>, R: Real>(chunk: &Chunk<'_>, about: &Table<1, R>, x: &[T]) -> [Vec<f64>; 2] {
    chunk.sums(|piece, sums| sum_squares(piece.grid(), about.of(piece), piece.of(x), sums))
}

/// The total `about` a value over all chunks of each channel: chunk by chunk, as they lie in memory.
fn totals(
    chunks: &[ChunkMoments],
    pivot: &[f64],
    about: &[f64],
    of_chunk: impl Fn([f64; 2], [f64; 3], f64) -> f64 + Copy,
) -> Vec<f64> {
    let mut totals = vec![0.0; about.len()];
    for ChunkMoments { m, sum, squares } in chunks {
        let (m, share) = (*m, 1.0 / m);
        update([&mut totals], [pivot, sum, squares, about], move |[total], [pivot, sum, squares, about]| {
            [total + of_chunk([m, share], [pivot, sum, squares], about)]
        });
    }
    totals
}

#[inline(always)]
fn finite_or_zero(v: f64) -> f64 {
    if v.is_finite() { v } else { 0.0 }
}

/// Whether the sums of m values about a pivot have lost in f32 what counts: squares below 2^-149 do, if all do.
fn has_lost(m: f64, sum: f64, squares: f64, counts_all: bool) -> bool {
    let is_constant = (squares == 0.0) & (sum == 0.0) & !counts_all;
    // The comparisons are false for NaN.
    let is_exact = (squares > 1.0 / LARGE) & (squares < f64::INFINITY) & (sum * sum <= 0.5 * m * squares);
    !(is_constant | is_exact)
}

/// The moments of each channel in a chunk.
struct ChunkMoments {
    /// Values of a channel.
    m: f64,
    /// Their sum about the pivot.
    sum: Vec<f64>,
    /// The sum of their squares about the pivot.
    squares: Vec<f64>,
}

/// The sum of a chunk's m values, of which each is this share, about another value than the pivot.
#[inline(always)]
fn sum_about([m, _]: [f64; 2], [pivot, sum, _]: [f64; 3], other: f64) -> f64 {
    m * (pivot - other) + sum
}

/// The sum of their squares about the channel's mean.
#[inline(always)]
fn squares_about([m, share]: [f64; 2], [pivot, sum, squares]: [f64; 3], mean: f64) -> f64 {
    let rest = sum * share;
    let distance = (pivot - mean) + rest;
    squares - sum * rest + m * distance * distance
}

//! Moments and the forward passes.

use core::ops::Range;

use rayon::prelude::*;

use super::activation::{Function, Identity, Kind, Relu, VectorFunction, relu_passes};
use super::convert::{LANES, SimdElement};
use super::lanes::{PerLane, Prepare};
use super::sweep::{ChannelBlock, Chunk, by_block, by_block_into};
use super::threads;
use crate::element::Param;
use crate::op::{Coefficients, Epilogue, Weights};
use crate::shape::Shape;

/// The moments of a channel.
#[derive(Clone, Copy)]
pub(super) struct Moments {
    pub(super) mean: f64,
    /// Biased.
    pub(super) var: f64,
}

/// The coefficients that normalize each channel of a block.
pub(super) struct Channels {
    pub(super) mean: Vec<f64>,
    pub(super) inv_std: Vec<f64>,
    /// `inv_std * gamma`
    pub(super) scale: Vec<f64>,
    pub(super) beta: Vec<f64>,
}

impl Channels {
    /// The coefficients of these channels. `gamma` absent is 1, `beta` absent is 0.
    pub(super) fn new<P: Param>(
        channels: Range<usize>,
        mean: Vec<f64>,
        inv_std: Vec<f64>,
        [gamma, beta]: [Option<&[P]>; 2],
    ) -> Self {
        let gamma = |ch: usize| gamma.map_or(1.0, |gamma| gamma[ch].to_f64());
        let beta = |ch: usize| beta.map_or(0.0, |beta| beta[ch].to_f64());
        let scale = channels.clone().zip(&inv_std).map(|(ch, inv_std)| inv_std * gamma(ch)).collect();
        Self { beta: channels.map(beta).collect(), mean, inv_std, scale }
    }

    /// The coefficients by running mean and variance.
    pub(super) fn running<P: Param>(
        channels: Range<usize>,
        eps: f64,
        affine: [Option<&[P]>; 2],
        [mean, var]: [&[P]; 2],
    ) -> Self {
        let mean = mean[channels.clone()].iter().map(|mean| mean.to_f64()).collect();
        let inv_std = var[channels.clone()].iter().map(|var| inv_std::<P>(var.to_f64(), eps)).collect();
        Self::new(channels, mean, inv_std, affine)
    }

    /// The parameters of [`normalized`].
    pub(super) fn parameters(&self) -> [&[f64]; 3] {
        [&self.mean, &self.scale, &self.beta]
    }
}

/// `v = (x - mean) * inv_std * gamma + beta`
#[inline(always)]
pub(super) fn normalized([mean, scale, beta]: [f64; 3], x: f64) -> f64 {
    (x - mean) * scale + beta
}

/// `1 / sqrt(var + eps)`, 0 where `var + eps = 0`, NaN below.
///
/// `eps` is rounded to the type of per-channel values first: so an f32 variance and `eps` add up to 0 here exactly where
/// they do on a device, which adds them in f32, and to less than 0 likewise.
pub(super) fn inv_std<P: Param>(var: f64, eps: f64) -> f64 {
    let v = var + P::from_f64(eps).to_f64();
    if v == 0.0 { 0.0 } else { 1.0 / v.sqrt() }
}

/// Mean and biased variance of each channel.
pub(super) fn moments<T: SimdElement>(shape: Shape, x: &[T]) -> Vec<Moments> {
    by_block(shape, |block| block_moments(block, x))
}

/// Mean and biased variance of each channel of a block, in one pass over each chunk of it.
///
/// A chunk sums about a pivot, the mean of an eighth of it; that eighth is summed about the channel's first value. So a
/// constant channel has exactly its value as mean and exactly 0 as variance, and a first value far from the others costs
/// nothing: an eighth's mean is at most `sqrt(8)` sigmas of the chunk away from the chunk's, whatever the values.
fn block_moments<T: SimdElement>(block: &ChannelBlock, x: &[T]) -> Vec<Moments> {
    let first: Vec<f64> = block.first(x).into_iter().map(finite_or_zero).collect();
    let of_chunk = |chunk: &Chunk<'_>| {
        let eighth = chunk.eighth();
        let near = eighth.sums([&first], [x], &|[first], [x]| [x - first]);
        let near = first.iter().zip(near).map(|(first, [sum])| first + finite_or_zero(sum / eighth.m() as f64));
        let pivot: Vec<f64> = near.collect();
        let sums = chunk.sums([&pivot], [x], &|[pivot], [x]| [x - pivot, (x - pivot) * (x - pivot)]);
        let m = chunk.m() as f64;
        pivot.into_iter().zip(sums).map(|(pivot, [sum, squares])| ChunkMoments { m, pivot, sum, squares }).collect()
    };
    let chunks: Vec<Vec<ChunkMoments>> = block.by_chunk(of_chunk);
    let m = block.m() as f64;
    // The first sum alone decides whether the mean is finite; the correction makes a finite one exact.
    let mut mean = first;
    let residuals = average(&chunks, m, &mean, ChunkMoments::sum_about);
    mean.iter_mut().zip(residuals).for_each(|(mean, rest)| *mean += rest);
    let corrections = average(&chunks, m, &mean, ChunkMoments::sum_about);
    mean.iter_mut().zip(corrections).for_each(|(mean, correction)| *mean += finite_or_zero(correction));
    let vars = average(&chunks, m, &mean, ChunkMoments::squares_about);
    mean.into_iter().zip(vars).map(|(mean, var)| Moments { mean, var }).collect()
}

/// The average `about` a value over all chunks of each channel, of `m` values: chunk by chunk, as they lie in memory.
fn average(
    chunks: &[Vec<ChunkMoments>],
    m: f64,
    about: &[f64],
    of_chunk: impl Fn(&ChunkMoments, f64) -> f64,
) -> Vec<f64> {
    let mut sums = vec![0.0; about.len()];
    for chunk in chunks {
        for ((sum, chunk), about) in sums.iter_mut().zip(chunk).zip(about) {
            *sum += of_chunk(chunk, *about);
        }
    }
    sums.iter_mut().for_each(|sum| *sum /= m);
    sums
}

fn finite_or_zero(v: f64) -> f64 {
    if v.is_finite() { v } else { 0.0 }
}

/// The moments of one channel in a chunk.
struct ChunkMoments {
    /// Values of the channel.
    m: f64,
    /// A value near their mean.
    pivot: f64,
    /// Their sum about the pivot.
    sum: f64,
    /// The sum of their squares about the pivot.
    squares: f64,
}

impl ChunkMoments {
    /// The sum of the values about another.
    fn sum_about(&self, other: f64) -> f64 {
        self.m * (self.pivot - other) + self.sum
    }

    /// The sum of their squares about the channel's mean.
    fn squares_about(&self, mean: f64) -> f64 {
        let rest = self.sum / self.m;
        let distance = (self.pivot - mean) + rest;
        self.squares - self.sum * rest + self.m * distance * distance
    }
}

/// The training forward but for what it leaves of the statistics: normalizes by the moments of `x`, which it gives, with
/// the `inv_std` of each channel.
pub(super) fn train<T: SimdElement>(
    shape: Shape,
    eps: f64,
    x: &[T],
    affine: [Option<&[T::Param]>; 2],
    epilogue: Epilogue<&[T]>,
    y: &mut [T],
) -> Vec<(Moments, f64)> {
    by_block_into(shape, y, |block, y| {
        let moments = block_moments(block, x);
        let mean = moments.iter().map(|of_channel| of_channel.mean).collect();
        let inv_std = moments.iter().map(|of_channel| inv_std::<T::Param>(of_channel.var, eps)).collect();
        let channels = Channels::new(block.channels(), mean, inv_std, affine);
        normalize(block, x, &channels, epilogue, y);
        moments.into_iter().zip(channels.inv_std).collect()
    })
}

/// Normalizes by these running statistics.
pub(super) fn infer<T: SimdElement>(
    shape: Shape,
    eps: f64,
    x: &[T],
    affine: [Option<&[T::Param]>; 2],
    running: [&[T::Param]; 2],
    epilogue: Epilogue<&[T]>,
    y: &mut [T],
) {
    by_block_into::<T, ()>(shape, y, |block, y| {
        normalize(block, x, &Channels::running(block.channels(), eps, affine, running), epilogue, y);
        Vec::new()
    });
}

/// `y = epilogue((x - mean) * inv_std * gamma + beta)`
fn normalize<T: SimdElement>(
    block: &ChannelBlock,
    x: &[T],
    channels: &Channels,
    epilogue: Epilogue<&[T]>,
    y: Vec<&mut [T]>,
) {
    let parameters = channels.parameters();
    match Kind::of::<T>(epilogue.activation()) {
        Kind::Identity => by_values::<T, Identity>(block, x, parameters, epilogue.into_residual(), y),
        Kind::Relu => by_values::<T, Relu>(block, x, parameters, epilogue.into_residual(), y),
        // Problem lets no residual come before these.
        Kind::Vector(function) => block.map_prepared(parameters, [x], y, &Activated(function), |_, [y]| y),
    }
}

/// [`normalize`] with an activation that is compiled into the loop.
fn by_values<T: SimdElement, A: Function>(
    block: &ChannelBlock,
    x: &[T],
    parameters: [&[f64]; 3],
    z: Option<&[T]>,
    y: Vec<&mut [T]>,
) {
    match z {
        None => block.map(parameters, [x], y, |p, [x]| A::apply(normalized(p, x))),
        Some(z) => block.map(parameters, [x, z], y, |p, [x, z]| A::apply(normalized(p, x) + z)),
    }
}

/// `activation(v)` in place of x.
struct Activated(VectorFunction);

impl Prepare<3, 1> for Activated {
    #[inline(always)]
    fn prepare(&self, [x]: &mut [PerLane; 1], parameters: &[PerLane; 3]) {
        let mut v = vector_of_v(x, parameters);
        (self.0.apply)(&mut v);
        *x = v;
    }
}

/// [`normalized`] of each lane. The parameters are its first.
#[inline(always)]
pub(super) fn vector_of_v<const Q: usize>(x: &PerLane, parameters: &[PerLane; Q]) -> PerLane {
    let mut v = [0.0; LANES];
    for lane in 0..LANES {
        v[lane] = normalized([parameters[0][lane], parameters[1][lane], parameters[2][lane]], x[lane]);
    }
    v
}

/// One bit an element of whether relu let it pass.
pub(super) fn pack_mask<T: SimdElement>(y: &[T], relu_mask: &mut [u32]) {
    threads::for_each(relu_mask.par_iter_mut().zip(y.par_chunks(32)).with_min_len(512), |(word, values)| {
        let bits = values.iter().enumerate().map(|(bit, &y)| u32::from(relu_passes::<T>(y.to_f64())) << bit);
        *word = bits.fold(0, |word, bit| word | bit);
    });
}

/// Moves running statistics by one batch.
pub(super) fn track<P: Param>(
    coefficients: Coefficients,
    batch: &[(Moments, f64)],
    mean: &mut [P],
    var: &mut [P],
    num_batches_tracked: &mut i64,
) {
    *num_batches_tracked = num_batches_tracked.saturating_add(1);
    let Coefficients { weights, correction, skips_non_finite } = coefficients;
    let Weights { keep, momentum } = weights.unwrap_or_else(|| Weights::cumulative(*num_batches_tracked));
    // With a momentum of 0 nothing is read of the batch: 0 * NaN would bring it in.
    if momentum == 0.0 {
        return;
    }
    // With one of 1 the old value is not read: 0 * NaN would keep it.
    let step = |old: P, new: f64| P::from_f64(if momentum == 1.0 { new } else { keep * old.to_f64() + momentum * new });
    // In their own type: a value that overflows there is an infinity in the running statistics.
    let is_finite = |statistic: f64| P::from_f64(statistic).to_f64().is_finite();
    for ((batch, _), (mean, var)) in batch.iter().zip(mean.iter_mut().zip(var)) {
        let finite = is_finite(batch.mean) && is_finite(batch.var);
        if finite || !skips_non_finite {
            *mean = step(*mean, batch.mean);
            *var = step(*var, batch.var * correction);
        }
    }
}

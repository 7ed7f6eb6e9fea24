//! Moments and the forward passes.

use rayon::prelude::*;

use super::sweep::{map, partials};
use crate::{Element, Epilogue, NonFinite, Param, RunningVar, Shape, Tracking};

/// The moments of each channel.
pub(super) struct Moments {
    pub(super) mean: Vec<f64>,
    /// Biased.
    pub(super) var: Vec<f64>,
}

/// What normalizes each channel.
pub(super) struct Channels {
    pub(super) mean: Vec<f64>,
    pub(super) inv_std: Vec<f64>,
    /// `inv_std * gamma`
    pub(super) scale: Vec<f64>,
    pub(super) beta: Vec<f64>,
}

impl Channels {
    /// `gamma` absent is 1, `beta` absent is 0.
    pub(super) fn new<P: Param>(mean: Vec<f64>, inv_std: Vec<f64>, gamma: Option<&[P]>, beta: Option<&[P]>) -> Self {
        let gamma = |ch: usize| gamma.map_or(1.0, |gamma| gamma[ch].to_f64());
        let beta = |ch: usize| beta.map_or(0.0, |beta| beta[ch].to_f64());
        let scale = inv_std.iter().enumerate().map(|(ch, inv_std)| inv_std * gamma(ch)).collect();
        Self { beta: (0..mean.len()).map(beta).collect(), mean, inv_std, scale }
    }

    /// What [`normalized`] takes.
    pub(super) fn parameters(&self) -> [&[f64]; 3] {
        [&self.mean, &self.scale, &self.beta]
    }
}

/// `v = (x - mean) * inv_std * gamma + beta`
#[inline]
pub(super) fn normalized([mean, scale, beta]: [f64; 3], x: f64) -> f64 {
    (x - mean) * scale + beta
}

/// `1 / sqrt(var + eps)`, 0 where `var + eps = 0`.
pub(super) fn inv_std(var: f64, eps: f64) -> f64 {
    let v = var + eps;
    if v == 0.0 { 0.0 } else { 1.0 / v.sqrt() }
}

/// `max(v, 0)` that keeps NaN.
#[inline]
fn relu(v: f64) -> f64 {
    if v <= 0.0 { 0.0 } else { v }
}

/// Whether relu lets a gradient pass: where it gave `y > 0`, or NaN. `y` decides, as it is stored.
#[inline]
pub(super) fn passes<T: Element>(y: T) -> bool {
    !matches!(y.to_f64().partial_cmp(&0.0), Some(core::cmp::Ordering::Less | core::cmp::Ordering::Equal))
}

/// Mean and biased variance of each channel, in two passes over each part of `x` while it is in cache.
///
/// A part sums about its channel's first value, which gives its mean but for a rounding, and then about that mean, which
/// gives its squares and the rest of the mean. So a constant channel has exactly its value as mean and exactly 0 as
/// variance, and a first value far from the others costs nothing.
pub(super) fn moments<T: Element>(shape: Shape, x: &[T]) -> Moments {
    let first: Vec<f64> = (0..shape.c()).map(|ch| finite_or_zero(x[first_index(shape, ch)].to_f64())).collect();
    let parts = partials(shape, [x], |part| {
        let (m, first) = (part.m() as f64, &first[part.channels()]);
        let sums = part.sums([first], &|[first], [x]| [x - first]);
        let mean: Vec<f64> = first.iter().zip(&sums).map(|(first, [sum])| first + sum / m).collect();
        let about_mean = part.sums([&mean], &|[mean], [x]| [x - mean, (x - mean) * (x - mean)]);
        let moments = mean.into_iter().zip(sums).zip(about_mean);
        moments.map(|((mean, [sum]), [rest, squares])| PartMoments { m, sum, mean, rest, squares }).collect()
    });
    let m = shape.m() as f64;
    let of_channel = |(ch, first): (usize, &f64)| {
        let parts = parts.of_channel(ch);
        // The sum alone decides whether the mean is finite; the correction makes a finite one exact.
        let mean = first + parts.clone().map(|part| part.sum).sum::<f64>() / m;
        let correction = parts.clone().map(|part| part.m * (part.mean - mean) + part.rest).sum::<f64>() / m;
        let mean = mean + finite_or_zero(correction);
        let squares = |part: PartMoments| {
            let rest = part.rest / part.m;
            let distance = (part.mean - mean) + rest;
            part.squares - part.rest * rest + part.m * distance * distance
        };
        (mean, parts.map(squares).sum::<f64>() / m)
    };
    let (mean, var) = first.iter().enumerate().map(of_channel).unzip();
    Moments { mean, var }
}

fn finite_or_zero(v: f64) -> f64 {
    if v.is_finite() { v } else { 0.0 }
}

/// The moments of a part of one channel.
#[derive(Clone, Copy)]
struct PartMoments {
    /// How many values.
    m: f64,
    /// Their sum about the channel's first value.
    sum: f64,
    /// Their mean, but for a rounding.
    mean: f64,
    /// Their sum about that mean.
    rest: f64,
    /// The sum of their squares about that mean.
    squares: f64,
}

/// Where the first value of a channel stands.
fn first_index(shape: Shape, channel: usize) -> usize {
    match shape.layout() {
        crate::Layout::ChannelsFirst => channel * shape.s(),
        crate::Layout::ChannelsLast => channel,
    }
}

/// `y = epilogue((x - mean) * inv_std * gamma + beta)`, and one bit an element of whether relu let it pass.
pub(super) fn normalize<T: Element>(
    shape: Shape,
    x: &[T],
    channels: &Channels,
    epilogue: Epilogue<&[T]>,
    y: &mut [T],
    relu_mask: Option<&mut [u32]>,
) {
    let parameters = channels.parameters();
    match epilogue {
        Epilogue::Identity => map(shape, parameters, [x], y, |p, [x]| normalized(p, x)),
        Epilogue::Relu => map(shape, parameters, [x], y, |p, [x]| relu(normalized(p, x))),
        Epilogue::Add(z) => map(shape, parameters, [x, z], y, |p, [x, z]| normalized(p, x) + z),
        Epilogue::AddRelu(z) => map(shape, parameters, [x, z], y, |p, [x, z]| relu(normalized(p, x) + z)),
    }
    if let Some(relu_mask) = relu_mask {
        relu_mask.par_iter_mut().zip(y.par_chunks(32)).with_min_len(512).for_each(|(word, values)| {
            let bits = values.iter().enumerate().map(|(bit, &y)| u32::from(passes(y)) << bit);
            *word = bits.fold(0, |word, bit| word | bit);
        });
    }
}

/// Moves running statistics by one batch of `m` values per channel.
pub(super) fn track<P: Param>(
    tracking: Tracking,
    m: usize,
    moments: &Moments,
    mean: &mut [P],
    var: &mut [P],
    num_batches_tracked: &mut i64,
) {
    *num_batches_tracked = num_batches_tracked.saturating_add(1);
    let a = tracking.momentum.weight(*num_batches_tracked);
    let k = match tracking.variance {
        RunningVar::Unbiased => m as f64 / (m as f64 - 1.0),
        RunningVar::Biased => 1.0,
    };
    // With a = 1 the old value is not read: 0 * NaN would keep it.
    let step = |old: P, new: f64| P::from_f64(if a == 1.0 { new } else { (1.0 - a) * old.to_f64() + a * new });
    let batches = moments.mean.iter().zip(&moments.var);
    for ((&batch_mean, &batch_var), (mean, var)) in batches.zip(mean.iter_mut().zip(var)) {
        let finite = batch_mean.is_finite() && batch_var.is_finite();
        if finite || tracking.non_finite == NonFinite::Propagate {
            *mean = step(*mean, batch_mean);
            *var = step(*var, batch_var * k);
        }
    }
}

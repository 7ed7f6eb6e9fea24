//! The error bar of conformance/README.md: `err / scale <= 4*u(out) + 64*2^-24*(1 + kappa)`.
//!
//! | tensor | scale, per channel |
//! |---|---|
//! | y | `abs(gamma) * max(max(abs(xhat)), 0.1) + abs(beta)` |
//! | dx | `abs(gamma) * inv_std * max(abs(dy))` |
//! | dgamma | `max(sum(abs(dy * xhat)), 0.1 * sum(abs(dy)))` |
//! | dbeta | `sum(abs(dy))` |
//! | running mean | `max(abs(old), abs(batch mean), sqrt(batch var))` |
//! | running variance | `max(old, batch var, eps)`, the batch's as it is tracked: unbiased where that is |
//! | batch mean, which the README leaves open | `max(abs(batch mean), sqrt(batch var))`: a running mean without an old one |
//! | batch variance | `max(batch var, eps)` |
//! | saved inv_std, which the README leaves open | the value |
//! | sum of a whole tensor, likewise | `sqrt(len * sum of squares)`, which no sum of absolute values exceeds |
//! | sum of squares, likewise | the value |
//!
//! The framework's own error is computed again with these scales, and must be the manifest's `err_native` (`check.rs`).
//! So these are known to be the README's scales.

use batchnorm::{Dtype, Element, Layout, Shape};

/// The largest `err / scale` that passes.
pub(crate) fn bar(out: Dtype, kappa: f64) -> f64 {
    match out {
        Dtype::F64 => 1e-11 + 1e-14 * (1.0 + kappa),
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 => {
            4.0 * out.unit_roundoff() + 64.0 * Dtype::F32.unit_roundoff() * (1.0 + kappa)
        }
    }
}

/// The channel of an element.
pub(crate) fn channel(shape: Shape, index: usize) -> usize {
    match shape.layout() {
        Layout::ChannelsFirst => index / shape.s() % shape.c(),
        Layout::ChannelsLast => index % shape.c(),
    }
}

/// Mean and variance of every channel.
pub(crate) struct Statistics {
    pub(crate) mean: Vec<f64>,
    pub(crate) var: Vec<f64>,
}

/// The scales of one step's outputs.
pub(crate) struct Scales {
    pub(crate) y: Vec<f64>,
    pub(crate) dx: Vec<f64>,
    pub(crate) dgamma: Vec<f64>,
    pub(crate) dbeta: Vec<f64>,
    pub(crate) running_mean: Vec<f64>,
    pub(crate) running_var: Vec<f64>,
    pub(crate) batch_mean: Vec<f64>,
    pub(crate) batch_var: Vec<f64>,
    pub(crate) inv_std: Vec<f64>,
}

/// The values that the scales are computed from.
pub(crate) struct Ingredients<'a, T> {
    pub(crate) shape: Shape,
    pub(crate) eps: f64,
    pub(crate) x: &'a [T],
    pub(crate) dy: Option<&'a [T]>,
    pub(crate) gamma: Option<&'a [f64]>,
    pub(crate) beta: Option<&'a [f64]>,
    /// The statistics that normalize; `None` for the batch's own.
    pub(crate) normalizing: Option<Statistics>,
    /// The factor from a batch's variance to the tracked one: `m / (m - 1)`, or 1.
    pub(crate) correction: f64,
    /// The running statistics before the step.
    pub(crate) old: Option<Statistics>,
}

impl Scales {
    pub(crate) fn new<T: Element>(from: Ingredients<'_, T>) -> Self {
        let Ingredients { shape, eps, x, dy, gamma, beta, normalizing, correction, old } = from;
        let channels = |value: &dyn Fn(usize) -> f64| (0..shape.c()).map(value).collect::<Vec<f64>>();
        let batch = moments(shape, x);
        let normalizing = normalizing.as_ref().unwrap_or(&batch);
        let inv_std = channels(&|c| inv_std(normalizing.var[c], eps));

        let (mut max_x_hat, mut max_dy) = (vec![0.0f64; shape.c()], vec![0.0f64; shape.c()]);
        let (mut sum_dy_x_hat, mut sum_dy) = (vec![0.0; shape.c()], vec![0.0; shape.c()]);
        for (i, x) in x.iter().enumerate() {
            let c = channel(shape, i);
            let x_hat = ((x.to_f64() - normalizing.mean[c]) * inv_std[c]).abs();
            let dy = dy.map_or(0.0, |dy| dy[i].to_f64().abs());
            max_x_hat[c] = max_x_hat[c].max(x_hat);
            max_dy[c] = max_dy[c].max(dy);
            sum_dy_x_hat[c] += dy * x_hat;
            sum_dy[c] += dy;
        }
        let gamma = |c: usize| gamma.map_or(1.0, |gamma| gamma[c].abs());
        let beta = |c: usize| beta.map_or(0.0, |beta| beta[c].abs());
        let old = |c: usize| old.as_ref().map_or((0.0, 0.0), |old| (old.mean[c].abs(), old.var[c]));
        let mean_of_batch = |c: usize| batch.mean[c].abs().max(batch.var[c].sqrt());
        Self {
            y: channels(&|c| gamma(c) * max_x_hat[c].max(0.1) + beta(c)),
            dx: channels(&|c| gamma(c) * inv_std[c] * max_dy[c]),
            dgamma: channels(&|c| sum_dy_x_hat[c].max(0.1 * sum_dy[c])),
            running_mean: channels(&|c| old(c).0.max(mean_of_batch(c))),
            running_var: channels(&|c| old(c).1.max(correction * batch.var[c]).max(eps)),
            batch_mean: channels(&mean_of_batch),
            batch_var: channels(&|c| batch.var[c].max(eps)),
            dbeta: sum_dy,
            inv_std,
        }
    }
}

/// `1 / sqrt(var + eps)`, 0 where `var + eps = 0`.
pub(crate) fn inv_std(var: f64, eps: f64) -> f64 {
    if var + eps == 0.0 { 0.0 } else { 1.0 / (var + eps).sqrt() }
}

/// Mean and biased variance of each channel in f64, 0 where there is no value.
fn moments<T: Element>(shape: Shape, x: &[T]) -> Statistics {
    let average = |term: &dyn Fn(usize, f64) -> f64| {
        let mut sums = vec![0.0; shape.c()];
        for (i, x) in x.iter().enumerate() {
            let c = channel(shape, i);
            sums[c] += term(c, x.to_f64());
        }
        sums.iter_mut().for_each(|sum| *sum /= shape.m().max(1) as f64);
        sums
    };
    let mean = average(&|_, x| x);
    let var = average(&|c, x| (x - mean[c]).powi(2));
    Statistics { mean, var }
}

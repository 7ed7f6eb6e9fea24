//! The crate's formulas in f64, one channel at a time, as plainly as they can be written.
//!
//! Nothing here is shared with the CPU reference, which is held against it.

use super::Case;
use super::activation;
use super::input::{Inputs, widen};
use super::tolerance::{
    Arithmetic, dgamma_scale, dx_scale, floor, g_error, mean_scale, slack, v_scale, var_scale, y_scale,
};
use crate::element::{Dtype, Element};
use crate::op::{Momentum, NonFinite, Op, RunningVar, Tracking};
use crate::shape::{Layout, Shape};

/// Where the values of a channel stand, sample by sample.
pub fn indices(shape: Shape, channel: usize) -> impl Iterator<Item = usize> {
    let (n, c, s) = (shape.n(), shape.c(), shape.s());
    let (outer, outer_step, inner, inner_step, first) = match shape.layout() {
        Layout::ChannelsFirst => (n, c * s, s, 1, channel * s),
        Layout::ChannelsLast => (1, 0, n * s, c, channel),
    };
    (0..outer).flat_map(move |o| (0..inner).map(move |i| first + o * outer_step + i * inner_step))
}

/// The values that an operation should give for one tensor.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The tensor's name.
    pub name: &'static str,
    /// The dtype that it is rounded to.
    pub dtype: Dtype,
    /// Whether it is shaped like `x`, rather than one value a channel.
    pub is_data: bool,
    /// The values, before rounding.
    pub want: Vec<f64>,
    /// For each channel what the arithmetic may add: `slack * scale`.
    pub slack: Vec<f64>,
}

/// One channel of a case, normalized.
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    /// The batch's mean.
    pub mean: f64,
    /// The batch's variance, biased.
    pub var: f64,
    /// The mean that normalizes: the batch's, or the running one.
    pub center: f64,
    /// `1 / sqrt(var + eps)` of the variance that normalizes.
    pub inv_std: f64,
    gamma: f64,
    beta: f64,
    max_x_hat: f64,
    max_z: f64,
}

/// The sum of `f` by halves, so that the error grows with the logarithm of the length.
fn sum(values: &[f64], f: &impl Fn(f64) -> f64) -> f64 {
    match values.len() {
        ..=8 => values.iter().map(|&v| f(v)).sum(),
        len => sum(&values[..len / 2], f) + sum(&values[len / 2..], f),
    }
}

/// The largest finite magnitude.
fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.map(f64::abs).filter(|v| v.is_finite()).fold(0.0, f64::max)
}

impl Channel {
    /// The statistics and parameters of a channel of this case.
    pub fn new<T: Element>(case: &Case, inputs: &Inputs<T>, channel: usize) -> Self {
        let shape = case.group.shape;
        let x: Vec<f64> = indices(shape, channel).map(|i| inputs.x[i].to_f64()).collect();
        let m = shape.m() as f64;
        let near = sum(&x, &|x| x) / m;
        // A second sum, so that rounding the first costs no digit; an infinity or NaN stays as it is.
        let mean = if near.is_finite() { near + sum(&x, &|x| x - near) / m } else { near };
        let var = sum(&x, &|x| (x - mean) * (x - mean)) / m;
        let (center, normalizing) = match case.op.needs_batch_statistics() {
            true => (mean, var),
            false => (inputs.running_mean[channel].to_f64(), inputs.running_var[channel].to_f64()),
        };
        let padded = normalizing + <T::Param as Element>::from_f64(case.group.input.eps()).to_f64();
        let inv_std = if padded == 0.0 { 0.0 } else { 1.0 / padded.sqrt() };
        let of = |values: &[T::Param], absent: f64| if case.affine { values[channel].to_f64() } else { absent };
        let (gamma, beta) = (of(&inputs.gamma, 1.0), of(&inputs.beta, 0.0));
        let max_x_hat = largest(x.iter().map(|x| (x - center) * inv_std));
        let max_z = match case.epilogue.residual() {
            None => 0.0,
            Some(()) => largest(indices(shape, channel).map(|i| inputs.z[i].to_f64())),
        };
        Self { mean, var, center, inv_std, gamma, beta, max_x_hat, max_z }
    }

    /// The activation's argument at one place.
    pub fn before_activation<T: Element>(&self, case: &Case, inputs: &Inputs<T>, index: usize) -> f64 {
        let v = (inputs.x[index].to_f64() - self.center) * self.inv_std * self.gamma + self.beta;
        match case.epilogue.residual() {
            None => v,
            Some(()) => v + inputs.z[index].to_f64(),
        }
    }

    /// `|mean| / sqrt(var + eps)`, where that is finite.
    fn kappa(&self) -> f64 {
        let kappa = (self.center * self.inv_std).abs();
        if kappa.is_finite() { kappa } else { 0.0 }
    }

    /// The largest term that enters `y`.
    pub fn y_scale(&self) -> f64 {
        y_scale(self.gamma, self.beta, self.max_x_hat, self.max_z)
    }
}

/// The results that the operation of this case should give, tensor by tensor.
pub fn expected<T: Element>(case: &Case, inputs: &Inputs<T>, dy: &[T], arithmetic: Arithmetic) -> Vec<Expected> {
    let shape = case.group.shape;
    let param = <T::Param as Element>::DTYPE;
    let channels: Vec<Channel> = (0..shape.c()).map(|channel| Channel::new(case, inputs, channel)).collect();
    let slack_of = |ch: &Channel| slack(arithmetic, case.op, param, shape.m(), ch.kappa());
    let per_channel = |name, value: &dyn Fn(usize, &Channel) -> (f64, f64)| {
        let (want, scale): (Vec<_>, Vec<_>) = channels.iter().enumerate().map(|(i, ch)| value(i, ch)).unzip();
        let slack =
            channels.iter().zip(scale).map(|(ch, scale): (_, f64)| slack_of(ch) * scale + floor(arithmetic)).collect();
        Expected { name, dtype: param, is_data: false, want, slack }
    };
    let mean = |_, ch: &Channel| (ch.mean, mean_scale(arithmetic, ch.mean, ch.var.sqrt()));
    match case.op {
        Op::Moments => {
            vec![per_channel("mean", &mean), per_channel("var", &|_, ch| (ch.var, var_scale(ch.mean, ch.var)))]
        }
        Op::Train | Op::Infer => {
            let mut want = vec![0.0; shape.len()];
            for (channel, ch) in channels.iter().enumerate() {
                for index in indices(shape, channel) {
                    want[index] =
                        activation::apply(case.epilogue.activation(), ch.before_activation(case, inputs, index));
                }
            }
            let slack = channels.iter().map(|ch| slack_of(ch) * ch.y_scale()).collect();
            let mut expected = vec![Expected { name: "y", dtype: T::DTYPE, is_data: true, want, slack }];
            if case.op == Op::Train {
                expected.push(per_channel("saved_mean", &mean));
                expected.push(per_channel("saved_inv_std", &|_, ch| (ch.inv_std, ch.inv_std)));
                if let Some(tracking) = case.tracking {
                    expected.extend(tracked(case, inputs, tracking, arithmetic, &per_channel));
                }
            }
            expected
        }
        Op::Backward(_) => {
            let gradients: Vec<_> =
                (0..shape.c()).map(|i| ChannelGradients::new(case, inputs, dy, i, &channels[i], arithmetic)).collect();
            let data =
                |name, values: &dyn Fn(&ChannelGradients) -> &[f64], scale: &dyn Fn(&ChannelGradients) -> f64| {
                    let mut want = vec![0.0; shape.len()];
                    for (channel, gradients) in gradients.iter().enumerate() {
                        indices(shape, channel).zip(values(gradients)).for_each(|(index, value)| want[index] = *value);
                    }
                    let slack = channels.iter().zip(&gradients).map(|(ch, g)| slack_of(ch) * scale(g)).collect();
                    Expected { name, dtype: T::DTYPE, is_data: true, want, slack }
                };
            let mut expected = vec![
                data("dx", &|g| &g.dx, &|g| g.dx_scale),
                per_channel("dgamma", &|i, _| (gradients[i].dgamma, gradients[i].dgamma_scale)),
                per_channel("dbeta", &|i, _| (gradients[i].dbeta, gradients[i].dbeta_scale)),
            ];
            if case.epilogue.residual().is_some() {
                expected.push(data("dz", &|g| &g.dz, &|_| 0.0));
            }
            expected
        }
    }
}

/// The gradients of one channel, sample by sample, with the largest terms that enter them.
struct ChannelGradients {
    dx: Vec<f64>,
    dx_scale: f64,
    dz: Vec<f64>,
    dgamma: f64,
    dgamma_scale: f64,
    dbeta: f64,
    dbeta_scale: f64,
}

impl ChannelGradients {
    fn new<T: Element>(
        case: &Case,
        inputs: &Inputs<T>,
        dy: &[T],
        channel: usize,
        ch: &Channel,
        arithmetic: Arithmetic,
    ) -> Self {
        let shape = case.group.shape;
        let m = shape.m() as f64;
        let g = |index: usize| {
            let v = ch.before_activation(case, inputs, index);
            activation::gradient(case.epilogue.activation(), v, dy[index].to_f64())
        };
        let g: Vec<f64> = indices(shape, channel).map(g).collect();
        let x_hat: Vec<f64> =
            indices(shape, channel).map(|index| (inputs.x[index].to_f64() - ch.center) * ch.inv_std).collect();
        let g_x_hat: Vec<f64> = g.iter().zip(&x_hat).map(|(g, x_hat)| g * x_hat).collect();

        let dbeta = sum(&g, &|g| g);
        let dgamma = sum(&g_x_hat, &|g| g);
        let through_statistics = |x_hat: f64| {
            if case.op.needs_batch_statistics() { dbeta / m + x_hat * dgamma / m } else { 0.0 }
        };
        let dx = |(g, x_hat): (&f64, &f64)| ch.gamma * ch.inv_std * (g - through_statistics(*x_hat));
        let dy: Vec<f64> = indices(shape, channel).map(|index| dy[index].to_f64()).collect();
        let dy_x_hat: Vec<f64> = dy.iter().zip(&x_hat).map(|(dy, x_hat)| dy * x_hat).collect();
        let error_of = |(index, x_hat): (usize, &f64)| {
            let v_scale = v_scale(arithmetic, ch.gamma, ch.beta, *x_hat, ch.kappa());
            g_error(case.epilogue.activation(), ch.before_activation(case, inputs, index), v_scale)
        };
        let g_error = largest(indices(shape, channel).zip(&x_hat).map(error_of));
        let sum_of_magnitudes = |values: &[f64]| sum(values, &|v| if v.is_finite() { v.abs() } else { 0.0 });
        let largest_g = largest(g.iter().copied()) + g_error * largest(dy.iter().copied());
        let dbeta_scale = sum_of_magnitudes(&g) + g_error * sum_of_magnitudes(&dy);
        let g_x_hat_scale = sum_of_magnitudes(&g_x_hat) + g_error * sum_of_magnitudes(&dy_x_hat);
        Self {
            dx: g.iter().zip(&x_hat).map(dx).collect(),
            dx_scale: dx_scale(ch.gamma * ch.inv_std, largest_g, ch.max_x_hat),
            dgamma,
            dgamma_scale: dgamma_scale(g_x_hat_scale, dbeta_scale),
            dbeta,
            dbeta_scale,
            dz: g,
        }
    }
}

/// Makes an [`Expected`] of one value a channel, out of a name and of value and scale for each channel.
type PerChannel<'a> = dyn Fn(&'static str, &dyn Fn(usize, &Channel) -> (f64, f64)) -> Expected + 'a;

/// The running statistics after a step.
fn tracked<T: Element>(
    case: &Case,
    inputs: &Inputs<T>,
    tracking: Tracking,
    arithmetic: Arithmetic,
    per_channel: &PerChannel<'_>,
) -> [Expected; 3] {
    let m = case.group.shape.m() as f64;
    let count = inputs.num_batches_tracked + 1;
    let a = match tracking.momentum {
        Momentum::Ema(a) => a,
        Momentum::Cumulative => 1.0 / count as f64,
    };
    let k = match tracking.variance {
        RunningVar::Unbiased => m / (m - 1.0),
        RunningVar::Biased => 1.0,
    };
    let step = |ch: &Channel, old: f64, new: f64| {
        let skipped = tracking.non_finite == NonFinite::Skip && !(ch.mean.is_finite() && ch.var.is_finite());
        match (skipped, a) {
            (true, _) => old,
            (false, 1.0) => new,
            (false, 0.0) => old,
            (false, _) => (1.0 - a) * old + a * new,
        }
    };
    let finite_or_zero = |v: f64| if v.is_finite() { v } else { 0.0 };
    let (old_mean, old_var) = (widen(&inputs.running_mean), widen(&inputs.running_var));
    let mean = |i: usize, ch: &Channel| {
        let scale = finite_or_zero(mean_scale(arithmetic, ch.mean, ch.var.sqrt()));
        (step(ch, old_mean[i], ch.mean), finite_or_zero(old_mean[i].abs()) + scale)
    };
    let var = |i: usize, ch: &Channel| {
        let scale = finite_or_zero(var_scale(ch.mean, ch.var * k));
        (step(ch, old_var[i], ch.var * k), finite_or_zero(old_var[i].abs()) + scale)
    };
    let num_batches_tracked = Expected {
        name: "num_batches_tracked",
        dtype: Dtype::F64,
        is_data: false,
        want: vec![count as f64],
        slack: vec![0.0],
    };
    [per_channel("running_mean", &mean), per_channel("running_var", &var), num_batches_tracked]
}

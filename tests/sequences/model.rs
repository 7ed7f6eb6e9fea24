//! A layer's formulas in f64, as naive as they can be: each channel by itself, a sum a loop.

use batchnorm::verify::activation;
use batchnorm::verify::tolerance::{
    Arithmetic, dgamma_scale, dx_scale, floor, g_error, mean_scale, rounding, slack, v_scale, var_scale, y_scale,
};
use batchnorm::{Dtype, Epilogue, Layout, Momentum, NonFinite, Op, RunningVar, Shape, StatisticsKind, Tracking};

/// A forward pass: its inputs, and its channels in f64.
#[derive(Clone)]
pub(crate) struct Forward {
    pub(crate) op: Op,
    pub(crate) shape: Shape,
    pub(crate) epilogue: Epilogue<()>,
    pub(crate) x: Vec<f64>,
    pub(crate) z: Vec<f64>,
    pub(crate) channels: Vec<Channel>,
}

/// One channel of it, normalized.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channel {
    pub(crate) mean: f64,
    pub(crate) var: f64,
    /// The mean that normalizes, and `1 / sqrt(var + eps)` of the variance that does.
    center: f64,
    pub(crate) inv_std: f64,
    gamma: f64,
    beta: f64,
    x_hat_scale: f64,
    z_scale: f64,
}

/// A value as it should be, and what rounding within the arithmetic may add.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Near {
    pub(crate) want: f64,
    pub(crate) slack: f64,
}

impl Near {
    pub(crate) const ZERO: Self = Self { want: 0.0, slack: 0.0 };

    /// Holds a value, rounded to `dtype`, against it.
    pub(crate) fn assert(self, name: &str, index: usize, dtype: Dtype, got: f64) {
        let Self { want, slack } = self;
        let allowed = rounding(dtype)(want) + slack;
        let is_right = match want.is_finite() {
            // Beyond what the dtype can hold, rounding gives an infinity.
            true if want.abs() > dtype.max() && got == f64::INFINITY.copysign(want) => true,
            true => (got - want).abs() <= allowed,
            false => got == want || got.is_nan() && want.is_nan(),
        };
        assert!(is_right, "{name}[{index}]: expected {want:e} within {allowed:e}, got {got:e}");
    }
}

/// The channel of an index.
pub(crate) fn channel_of(shape: Shape, index: usize) -> usize {
    match shape.layout() {
        Layout::ChannelsFirst => index / shape.s() % shape.c(),
        Layout::ChannelsLast => index % shape.c(),
    }
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.map(f64::abs).filter(|value| value.is_finite()).fold(0.0, f64::max)
}

impl Channel {
    /// The channel of these values; `frozen` has the mean and variance that normalize instead of theirs.
    pub(crate) fn new(x: &[f64], z: &[f64], frozen: Option<(f64, f64)>, eps: f64, gamma: f64, beta: f64) -> Self {
        let m = x.len() as f64;
        // The mean is taken about the first value, so that equal values are exact, and once more about that mean, so that a far
        // first value does no harm.
        let about = |near: f64| near + x.iter().map(|x| x - near).sum::<f64>() / m;
        let near = about(x.first().copied().filter(|first| first.is_finite()).unwrap_or(0.0));
        let mean = if near.is_finite() { about(near) } else { near };
        let var = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / m;
        let (center, normalizing) = frozen.unwrap_or((mean, var));
        let inv_std = if normalizing + eps == 0.0 { 0.0 } else { 1.0 / (normalizing + eps).sqrt() };
        let x_hat_scale = largest(x.iter().map(|x| (x - center) * inv_std));
        Self { mean, var, center, inv_std, gamma, beta, x_hat_scale, z_scale: largest(z.iter().copied()) }
    }

    /// The size of the mean in sigmas.
    fn kappa(&self) -> f64 {
        finite(self.center * self.inv_std)
    }

    fn slack(&self, arithmetic: Arithmetic, op: Op, param: Dtype, m: usize) -> f64 {
        slack(arithmetic, op, param, m, self.kappa())
    }

    fn y_scale(&self) -> f64 {
        y_scale(self.gamma, self.beta, self.x_hat_scale, self.z_scale)
    }

    /// The statistics that a training forward saves.
    pub(crate) fn saved(&self, arithmetic: Arithmetic, param: Dtype, m: usize) -> [Near; 2] {
        if m == 0 {
            return [Near::ZERO; 2];
        }
        let share = self.slack(arithmetic, Op::Train, param, m);
        let near = |want, scale| Near { want, slack: share * scale + floor(arithmetic) };
        [
            near(self.mean, finite(mean_scale(arithmetic, self.mean, self.var.sqrt()))),
            near(self.inv_std, finite(self.inv_std)),
        ]
    }

    /// The running mean and variance after a step from these; `count` is that after the step.
    pub(crate) fn tracked(
        &self,
        (old_mean, old_var): (f64, f64),
        count: i64,
        tracking: Tracking,
        arithmetic: Arithmetic,
        (param, m): (Dtype, usize),
    ) -> [Near; 2] {
        let a = match tracking.momentum {
            Momentum::Ema(a) => a,
            Momentum::Cumulative => 1.0 / count as f64,
        };
        let k = match tracking.variance {
            RunningVar::Unbiased => m as f64 / (m as f64 - 1.0),
            RunningVar::Biased => 1.0,
        };
        let is_kept =
            a == 0.0 || tracking.non_finite == NonFinite::Skip && !(self.mean.is_finite() && self.var.is_finite());
        let step = |old: f64, new: f64, scale: f64| match (is_kept, a == 1.0) {
            (true, _) => Near { want: old, slack: 0.0 },
            (false, is_new) => {
                let share = self.slack(arithmetic, Op::Train, param, m);
                let want = if is_new { new } else { (1.0 - a) * old + a * new };
                // The momentum, its product and the sum are rounded in f32, also for a mean that is exact.
                let of_step = match arithmetic {
                    Arithmetic::F64 | Arithmetic::Mixed => 0.0,
                    Arithmetic::F32 => 3.0 * Dtype::F32.unit_roundoff() * a * finite(new),
                };
                Near { want, slack: share * (finite(old) + finite(scale)) + of_step + floor(arithmetic) }
            }
        };
        [
            step(old_mean, self.mean, mean_scale(arithmetic, self.mean, self.var.sqrt())),
            step(old_var, self.var * k, var_scale(self.mean, self.var * k)),
        ]
    }
}

/// Its size, where it has one.
fn finite(value: f64) -> f64 {
    if value.is_finite() { value.abs() } else { 0.0 }
}

impl Forward {
    fn before_activation(&self, index: usize) -> f64 {
        let ch = &self.channels[channel_of(self.shape, index)];
        let v = (self.x[index] - ch.center) * ch.inv_std * ch.gamma + ch.beta;
        if self.epilogue.residual().is_some() { v + self.z[index] } else { v }
    }

    /// The result at an index.
    pub(crate) fn y(&self, index: usize, arithmetic: Arithmetic, param: Dtype) -> Near {
        let (ch, v) = (&self.channels[channel_of(self.shape, index)], self.before_activation(index));
        let want = activation::apply(self.epilogue.activation(), v);
        Near { want, slack: ch.slack(arithmetic, self.op, param, self.shape.m()) * ch.y_scale() }
    }

    /// Whether either side of a jump of the activation's derivative would be right.
    pub(crate) fn is_close_to_jump(&self, index: usize, dtype: Dtype) -> bool {
        let (ch, v) = (&self.channels[channel_of(self.shape, index)], self.before_activation(index));
        activation::is_close_to_jump(self.epilogue.activation(), ch.y_scale(), dtype)(v)
    }
}

/// The expected results of a backward pass.
pub(crate) struct Backward {
    pub(crate) dx: Vec<Near>,
    pub(crate) dz: Vec<Near>,
    pub(crate) dgamma: Vec<Near>,
    pub(crate) dbeta: Vec<Near>,
}

impl Backward {
    pub(crate) fn new(forward: &Forward, dy: &[f64], arithmetic: Arithmetic, param: Dtype) -> Self {
        let Forward { shape, op, .. } = *forward;
        let is_frozen = op == Op::Infer;
        let backward_op =
            if is_frozen { Op::Backward(StatisticsKind::Running) } else { Op::Backward(StatisticsKind::Batch) };
        let m = shape.m() as f64;
        let near = |want| Near { want, slack: 0.0 };
        let mut all = Self {
            dx: vec![Near::ZERO; dy.len()],
            dz: dy.iter().copied().map(near).collect(),
            dgamma: vec![],
            dbeta: vec![],
        };
        for (channel, ch) in forward.channels.iter().enumerate() {
            let places: Vec<usize> = (0..dy.len()).filter(|&index| channel_of(shape, index) == channel).collect();
            let share = ch.slack(arithmetic, backward_op, param, shape.m());
            for &index in &places {
                let g =
                    activation::gradient(forward.epilogue.activation(), forward.before_activation(index), dy[index]);
                all.dz[index].want = g;
            }
            let g = |index: usize| all.dz[index].want;
            let x_hat = |index: usize| (forward.x[index] - ch.center) * ch.inv_std;
            let sum = |of: &dyn Fn(usize) -> f64| places.iter().map(|&index| of(index)).sum::<f64>();
            let (dbeta, dgamma) = (sum(&g), sum(&|index| g(index) * x_hat(index)));
            let g_error = largest(places.iter().map(|&index| {
                let v_scale = v_scale(arithmetic, ch.gamma, ch.beta, x_hat(index), ch.kappa());
                g_error(forward.epilogue.activation(), forward.before_activation(index), v_scale)
            }));
            let dbeta_scale = sum(&|index| finite(g(index)) + g_error * finite(dy[index]));
            let dgamma_scale = dgamma_scale(
                sum(&|index| finite(g(index) * x_hat(index)) + g_error * finite(dy[index] * x_hat(index))),
                dbeta_scale,
            );
            let per_channel = |want, scale: f64| Near { want, slack: share * scale + floor(arithmetic) };
            let (dgamma_near, dbeta_near) = (per_channel(dgamma, dgamma_scale), per_channel(dbeta, dbeta_scale));
            let largest_g = largest(places.iter().map(|&index| finite(g(index)) + g_error * finite(dy[index])));
            let scale = dx_scale(finite(ch.gamma * ch.inv_std), largest_g, ch.x_hat_scale);
            for &index in &places {
                let through = if is_frozen { 0.0 } else { dbeta / m + x_hat(index) * dgamma / m };
                let want = ch.gamma * ch.inv_std * (g(index) - through);
                all.dx[index] = Near { want, slack: share * scale };
            }
            all.dgamma.push(dgamma_near);
            all.dbeta.push(dbeta_near);
        }
        all
    }
}

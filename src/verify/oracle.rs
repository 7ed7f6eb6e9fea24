//! The crate's formulas in f64, one channel at a time, as plainly as they can be written.
//!
//! Nothing here is shared with the CPU reference, which is held against it. What the cases of a group have in common is
//! computed once for all of them: values as f64 in the order of channels, and each channel's statistics.

mod channel;
mod gradients;
mod track;

pub use super::order::indices;
pub use channel::Channel;

use core::convert::Infallible;
use std::borrow::Cow;

use super::order::{by_channel, index, try_each_channel};
use super::reduce::largest_magnitude;
use super::tolerance::{Arithmetic, floor, mean_scale, slack, var_scale};
use super::{Case, Group, Inputs, activation};
use crate::element::{Dtype, Element};
use crate::op::Op;
use channel::{Moments, Normalizer};
use gradients::ChannelGradients;

/// The values that an operation should give for one tensor.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The tensor's name.
    pub name: &'static str,
    /// The dtype that it is rounded to.
    pub dtype: Dtype,
    /// Whether it is shaped like `x`, rather than one value a channel.
    pub is_data: bool,
    /// The values, before rounding, channel by channel; those of a channel as [`indices`] has them.
    pub want: Vec<f64>,
    /// For each channel what the arithmetic may add: `slack * scale`.
    pub slack: Vec<f64>,
}

/// The oracle of a group's data: it gives what each operation on them should.
#[derive(Debug)]
pub struct Oracle<'a, T: Element> {
    inputs: &'a Inputs<T>,
    group: Group,
    arithmetic: Arithmetic,
    /// Data and residual, channel by channel.
    x: Vec<f64>,
    z: Vec<f64>,
    /// For each channel: its moments, what normalizes it by the batch and by running statistics, and the largest magnitude of z.
    moments: Vec<Moments>,
    by_batch: Vec<Normalizer>,
    by_running: Vec<Normalizer>,
    max_z: Vec<f64>,
}

impl<'a, T: Element> Oracle<'a, T> {
    /// The oracle of this group's data, for results of this arithmetic.
    pub fn new(group: &Group, inputs: &'a Inputs<T>, arithmetic: Arithmetic) -> Self {
        let (shape, eps) = (group.shape, group.input.eps());
        let (x, z) = (by_channel(shape, &inputs.x), by_channel(shape, &inputs.z));
        // A channel without values has its place too.
        let of = |channel: usize| channel * shape.m()..(channel + 1) * shape.m();
        let moments: Vec<Moments> = (0..shape.c()).map(|channel| Moments::new(&x[of(channel)])).collect();
        let normalizer = |channel: usize, center, var| Normalizer::new::<T::Param>(center, var, eps, &x[of(channel)]);
        let by_batch = moments.iter().enumerate().map(|(channel, of)| normalizer(channel, of.mean, of.var)).collect();
        let running = |channel: usize| [inputs.running_mean[channel], inputs.running_var[channel]].map(Element::to_f64);
        let by_running = (0..shape.c())
            .map(|channel| {
                let [mean, var] = running(channel);
                normalizer(channel, mean, var)
            })
            .collect();
        let max_z = (0..shape.c()).map(|channel| largest_magnitude(&z[of(channel)])).collect();
        Self { inputs, group: *group, arithmetic, x, z, moments, by_batch, by_running, max_z }
    }

    /// A channel of a case, with the values of it.
    pub fn channel(&self, case: &Case, channel: usize) -> (Channel, &[f64], Option<&[f64]>) {
        let m = self.group.shape.m();
        let of = |values: &[T::Param], absent: f64| if case.affine { values[channel].to_f64() } else { absent };
        let normalizers = if case.op.needs_batch_statistics() { &self.by_batch } else { &self.by_running };
        let (gamma, beta) = (of(&self.inputs.gamma, 1.0), of(&self.inputs.beta, 0.0));
        let max_z = case.epilogue.residual().map_or(0.0, |()| self.max_z[channel]);
        let (moments, normalizer) = (self.moments[channel], normalizers[channel]);
        let values = channel * m..(channel + 1) * m;
        let z = case.epilogue.residual().map(|()| &self.z[values.clone()]);
        (Channel { moments, normalizer, gamma, beta, max_z }, &self.x[values], z)
    }

    /// Every channel of a case, with its values.
    fn channels(&self, case: &Case) -> impl Iterator<Item = (Channel, &[f64], Option<&[f64]>)> {
        (0..self.group.shape.c()).map(|channel| self.channel(case, channel))
    }

    /// `dy` for this case: zero wherever the activation's argument is so close to a jump of the derivative that either side of it
    /// is right.
    pub fn dy_of(&self, case: &Case) -> Cow<'a, [T]> {
        let mut dy = Cow::Borrowed(&self.inputs.dy[..]);
        let activation = case.epilogue.activation();
        if activation::jumps(activation).is_empty() || !case.op.is_backward() {
            return dy;
        }
        for (channel, (ch, x, z)) in self.channels(case).enumerate() {
            let is_close = activation::is_close_to_jump(activation, ch.y_scale(), T::DTYPE);
            for (sample, v) in ch.arguments(x, z).into_iter().enumerate() {
                if is_close(v) {
                    dy.to_mut()[index(self.group.shape, channel, sample)] = T::default();
                }
            }
        }
        dy
    }

    /// The results that the operation of this case should give, tensor by tensor.
    pub fn expected(&self, case: &Case, dy: &[T]) -> Vec<Expected> {
        let mut expected = match case.op {
            Op::Moments => vec![
                self.per_channel(case, "mean", |_, ch| self.mean(ch)),
                self.per_channel(case, "var", |_, Channel { moments: Moments { mean, var }, .. }| {
                    (*var, var_scale(*mean, *var))
                }),
            ],
            Op::Train | Op::Infer => vec![self.y(case)],
            Op::Backward(_) => self.gradients(case, dy),
        };
        if case.op == Op::Train {
            expected.push(self.per_channel(case, "saved_mean", |_, ch| self.mean(ch)));
            expected
                .push(self.per_channel(case, "saved_inv_std", |_, ch| (ch.normalizer.inv_std, ch.normalizer.inv_std)));
        }
        self.track(case, &mut expected);
        expected
    }

    fn y(&self, case: &Case) -> Expected {
        let (mut want, mut slack) = (Vec::with_capacity(self.x.len()), Vec::new());
        let activation = case.epilogue.activation();
        for (ch, x, z) in self.channels(case) {
            want.extend(ch.arguments(x, z).into_iter().map(|v| activation::apply(activation, v)));
            slack.push(self.slack(case, &ch) * ch.y_scale());
        }
        Expected { name: "y", dtype: T::DTYPE, is_data: true, want, slack }
    }

    fn gradients(&self, case: &Case, dy: &[T]) -> Vec<Expected> {
        let residual = case.epilogue.residual();
        let data = |name, len| Expected {
            name,
            dtype: T::DTYPE,
            is_data: true,
            want: Vec::with_capacity(len),
            slack: Vec::new(),
        };
        let mut dx = data("dx", self.x.len());
        let mut dz = data("dz", residual.map_or(0, |()| self.x.len()));
        let mut of_channels = Vec::new();
        let of_channel = |channel: usize, dy: &[f64]| {
            let (ch, x, z) = self.channel(case, channel);
            let data = [&mut dx.want, &mut dz.want];
            let gradients = ChannelGradients::new(case, self.arithmetic, &ch, [x, dy], z, data);
            dx.slack.push(self.slack(case, &ch) * gradients.dx_scale);
            dz.slack.push(0.0);
            of_channels.push(gradients);
            Ok::<(), Infallible>(())
        };
        let Ok(()) = try_each_channel(self.group.shape, dy, of_channel);
        let dgamma = self.per_channel(case, "dgamma", |i, _| (of_channels[i].dgamma, of_channels[i].dgamma_scale));
        let dbeta = self.per_channel(case, "dbeta", |i, _| (of_channels[i].dbeta, of_channels[i].dbeta_scale));
        let dz = residual.map(|()| dz);
        [dx, dgamma, dbeta].into_iter().chain(dz).collect()
    }

    /// A tensor of one value a channel: `of` gives it and its scale.
    fn per_channel(&self, case: &Case, name: &'static str, of: impl Fn(usize, &Channel) -> (f64, f64)) -> Expected {
        let (mut want, mut slack) = (Vec::new(), Vec::new());
        for (i, (ch, ..)) in self.channels(case).enumerate() {
            let (value, scale) = of(i, &ch);
            want.push(value);
            slack.push(self.slack(case, &ch) * scale + floor(self.arithmetic));
        }
        Expected { name, dtype: <T::Param as Element>::DTYPE, is_data: false, want, slack }
    }

    /// The share of its scale that the arithmetic may put into a channel's values.
    fn slack(&self, case: &Case, ch: &Channel) -> f64 {
        slack(self.arithmetic, case.op, <T::Param as Element>::DTYPE, self.group.shape.m(), ch.kappa())
    }

    /// The batch's mean, and its scale.
    fn mean(&self, ch: &Channel) -> (f64, f64) {
        let Moments { mean, var } = ch.moments;
        (mean, mean_scale(self.arithmetic, mean, var.sqrt()))
    }
}

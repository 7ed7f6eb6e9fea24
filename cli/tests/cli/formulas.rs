//! The formulas in f64, once more and as plainly as possible, on an example small enough to follow by hand.

use std::collections::BTreeMap;

use batchnorm::{Activation, Epilogue, Op, StatisticsKind};

/// Every value is exact in bf16, so that it is the same example in every dtype.
pub(crate) struct Example {
    pub(crate) dims: Vec<usize>,
    pub(crate) layout: &'static str,
    pub(crate) c: usize,
    pub(crate) count: i64,
    tensors: BTreeMap<&'static str, Vec<f64>>,
}

pub(crate) const EPS: f64 = 0.25;
pub(crate) const MOMENTUM: f64 = 0.375;
pub(crate) const ALL: [&str; 8] =
    ["x", "z", "dy", "weight", "bias", "running_mean", "running_var", "num_batches_tracked"];

/// The tensors without which an operation cannot be run. A backward pass reads z for an activation's derivative alone.
pub(crate) fn needed(op: Op, epilogue: Epilogue<()>) -> Vec<&'static str> {
    let z = if epilogue.residual().is_some() { &["z"][..] } else { &[] };
    let z_of_backward = if epilogue.activation() == Activation::Identity { &[] } else { z };
    let running = ["running_mean", "running_var"];
    match op {
        Op::Moments => vec!["x"],
        Op::Train => [&["x"], z].concat(),
        Op::Infer => [&["x"], z, &running].concat(),
        Op::Backward(StatisticsKind::Batch) => [&["x", "dy"], z_of_backward].concat(),
        Op::Backward(StatisticsKind::Running) => [&["x", "dy"], z_of_backward, &running].concat(),
    }
}

fn apply(activation: Activation, v: f64) -> f64 {
    match activation {
        Activation::Identity => v,
        Activation::Relu => v.max(0.0),
        Activation::Relu6 => v.clamp(0.0, 6.0),
        Activation::Silu => v / (1.0 + (-v).exp()),
        Activation::Hardswish => v * (v + 3.0).clamp(0.0, 6.0) / 6.0,
    }
}

fn derivative(activation: Activation, v: f64) -> f64 {
    match activation {
        Activation::Identity => 1.0,
        Activation::Relu => f64::from(v > 0.0),
        Activation::Relu6 => f64::from(v > 0.0 && v < 6.0),
        Activation::Hardswish if v.abs() >= 3.0 => f64::from(v > 0.0),
        Activation::Hardswish => v / 3.0 + 0.5,
        Activation::Silu => (1.0 + (-v).exp() * (1.0 + v)) / (1.0 + (-v).exp()).powi(2),
    }
}

impl Example {
    /// `[2, 3, 2, 2]` or `[2, 2, 2, 3]`: 3 channels of 8 values.
    pub(crate) fn new(layout: &'static str) -> Self {
        let last = matches!(layout, "channels-last" | "nhwc");
        let dims = if last { vec![2, 2, 2, 3] } else { vec![2, 3, 2, 2] };
        let quarters = |seed: usize| (0..24).map(|i| ((i * i * 7 + i * seed) % 31) as f64 / 4.0 - 3.0).collect();
        let tensors = [
            ("x", quarters(3)),
            ("z", quarters(11)),
            ("dy", quarters(17)),
            ("weight", vec![1.5, -0.75, 6.0]),
            ("bias", vec![0.125, -0.5, 1.0]),
            ("running_mean", vec![0.5, -0.25, 1.25]),
            ("running_var", vec![2.0, 0.5, 1.75]),
        ];
        Self { dims, layout, c: 3, count: 7, tensors: tensors.into() }
    }

    pub(crate) fn tensor(&self, name: &str) -> &[f64] {
        &self.tensors[name]
    }

    fn channel(&self, index: usize) -> usize {
        if matches!(self.layout, "channels-last" | "nhwc") { index % 3 } else { index / 4 % 3 }
    }

    /// Every tensor that the operation writes, by name.
    pub(crate) fn expected(&self, op: Op, epilogue: Epilogue<()>, affine: bool) -> BTreeMap<&'static str, Vec<f64>> {
        let [x, z, dy] = ["x", "z", "dy"].map(|name| self.tensor(name));
        let m = 8.0;
        let sum = |f: &dyn Fn(usize) -> f64| {
            let of = |c| (0..24).filter(|&i| self.channel(i) == c).map(f).sum::<f64>();
            vec![of(0), of(1), of(2)]
        };
        let each = |f: &dyn Fn(usize) -> f64| (0..24).map(f).collect::<Vec<_>>();
        let batch_mean: Vec<_> = sum(&|i| x[i]).iter().map(|sum| sum / m).collect();
        let batch_var: Vec<_> = sum(&|i| (x[i] - batch_mean[self.channel(i)]).powi(2)).iter().map(|v| v / m).collect();
        let frozen = match op {
            Op::Moments | Op::Train | Op::Backward(StatisticsKind::Batch) => false,
            Op::Infer | Op::Backward(StatisticsKind::Running) => true,
        };
        let has_residual = epilogue.residual().is_some();
        let (mean, var) = match frozen {
            true => (self.tensor("running_mean").to_vec(), self.tensor("running_var").to_vec()),
            false => (batch_mean.clone(), batch_var.clone()),
        };
        let inv_std: Vec<_> = var.iter().map(|var| 1.0 / (var + EPS).sqrt()).collect();
        let gamma = |c: usize| if affine { self.tensor("weight")[c] } else { 1.0 };
        let beta = |c: usize| if affine { self.tensor("bias")[c] } else { 0.0 };
        let xhat = |i: usize| (x[i] - mean[self.channel(i)]) * inv_std[self.channel(i)];
        let before_activation = |i: usize| {
            let v = xhat(i) * gamma(self.channel(i)) + beta(self.channel(i));
            if has_residual { v + z[i] } else { v }
        };
        let g = |i: usize| dy[i] * derivative(epilogue.activation(), before_activation(i));
        let (dbias, dweight) = (sum(&g), sum(&|i| g(i) * xhat(i)));
        let y = each(&|i| apply(epilogue.activation(), before_activation(i)));
        let follow = |old: &str, new: &[f64], k: f64| -> Vec<f64> {
            self.tensor(old).iter().zip(new).map(|(old, new)| (1.0 - MOMENTUM) * old + MOMENTUM * new * k).collect()
        };
        let dx = each(&|i| {
            let c = self.channel(i);
            let batch = if frozen { 0.0 } else { dbias[c] / m + xhat(i) * dweight[c] / m };
            gamma(c) * inv_std[c] * (g(i) - batch)
        });
        let mut gradients = vec![("dx", dx), ("dweight", dweight.clone()), ("dbias", dbias.clone())];
        if has_residual {
            gradients.push(("dz", each(&g)));
        }
        match op {
            Op::Moments => [("mean", mean), ("var", var)].into(),
            Op::Infer => [("y", y)].into(),
            Op::Train => [
                ("running_mean", follow("running_mean", &mean, 1.0)),
                ("running_var", follow("running_var", &var, m / (m - 1.0))),
                ("y", y),
                ("mean", mean),
                ("inv_std", inv_std),
            ]
            .into(),
            Op::Backward(_) => gradients.into_iter().collect(),
        }
    }
}

//! The layer compared with candle_nn's, and with candle's autograd of the composite in f64.

mod beside_candle_nn;
mod config;
mod convert;
mod forms;
mod refusals;
mod threads;
mod values;

use batchnorm::{Activation, Epilogue};
use candle_batchnorm::BatchNorm;
use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::Module;

const CPU: Device = Device::Cpu;
const C: usize = 5;
const EPS: f64 = 1e-5;

/// Values that are the same on every run, around `mean`.
fn values(dims: &[usize], mean: f64, seed: u64) -> Tensor {
    let len = dims.iter().product();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 * 4.0 - 2.0 + mean as f32
    };
    let values: Vec<f32> = (0..len).map(|_| next()).collect();
    Tensor::from_vec(values, dims, &CPU).unwrap()
}

fn var(t: &Tensor) -> Var {
    Var::from_tensor(t).unwrap()
}

fn f64s(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[track_caller]
fn close(name: &str, got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!(got.dims(), want.dims(), "{name}");
    let scale = f64s(want).iter().fold(1.0, |scale: f64, v| scale.max(v.abs()));
    for (i, (got, want)) in f64s(got).into_iter().zip(f64s(want)).enumerate() {
        assert!((got - want).abs() <= tolerance * scale, "{name}[{i}]: {got}, expected {want}");
    }
}

/// A layer with parameters that are not 1 and 0.
struct Setting {
    ours: BatchNorm,
    weight: Var,
    bias: Var,
    mean: Tensor,
    running_var: Tensor,
}

fn setting() -> Setting {
    let (weight, bias) = (var(&values(&[C], 0.5, 1)), var(&values(&[C], 0.1, 2)));
    let (mean, running_var) = (values(&[C], 0.0, 3), values(&[C], 3.0, 4));
    let ours = BatchNorm::new_with_momentum(
        C,
        mean.clone(),
        running_var.clone(),
        weight.as_tensor().clone(),
        bias.as_tensor().clone(),
        EPS,
        0.2,
    );
    Setting { ours: ours.unwrap(), weight, bias, mean, running_var }
}

/// The formula in candle's own operations in f64, for its autograd.
struct Composite {
    x: Var,
    z: Var,
    weight: Var,
    bias: Var,
}

impl Composite {
    fn of(setting: &Setting, x: &Tensor, z: &Tensor) -> Self {
        let f64 = |t: &Tensor| var(&t.to_dtype(DType::F64).unwrap());
        Self { x: f64(x), z: f64(z), weight: f64(&setting.weight), bias: f64(&setting.bias) }
    }

    fn forward(&self, setting: &Setting, train: bool) -> Result<Tensor> {
        let x = self.x.as_tensor();
        let channels: Vec<usize> = (0..x.rank()).map(|i| if i == 1 { C } else { 1 }).collect();
        let all_but: Vec<usize> = (0..x.rank()).filter(|i| *i != 1).collect();
        let (mean, variance) = if train {
            let mean = x.mean_keepdim(all_but.as_slice())?;
            let variance = x.broadcast_sub(&mean)?.sqr()?.mean_keepdim(all_but.as_slice())?;
            (mean, variance)
        } else {
            let of = |t: &Tensor| t.to_dtype(DType::F64)?.reshape(channels.as_slice());
            (of(&setting.mean)?, of(&setting.running_var)?)
        };
        let normalized = x.broadcast_sub(&mean)?.broadcast_div(&(variance + EPS)?.sqrt()?)?;
        let weight = self.weight.reshape(channels.as_slice())?;
        normalized.broadcast_mul(&weight)?.broadcast_add(&self.bias.reshape(channels.as_slice())?)
    }
}

/// The layer's method of an epilogue.
fn run(ours: &BatchNorm, epilogue: Epilogue<()>, x: &Tensor, z: &Tensor, train: bool) -> Result<Tensor> {
    match epilogue.residual() {
        None => ours.activate(x, epilogue.activation(), train),
        Some(()) => ours.add_activate(x, z, epilogue.activation(), train),
    }
}

/// An activation in candle's own operations: candle_nn's of this name.
fn activated(activation: Activation, v: &Tensor) -> Result<Tensor> {
    if activation == Activation::Identity {
        return Ok(v.clone());
    }
    let name = activation.name().replace('-', "");
    serde_json::from_value::<candle_nn::Activation>(name.into()).unwrap().forward(v)
}

//! The layer out of candle's own operations and its autograd, for devices that the crate has no kernels for.
//!
//! ```text
//! y = activation((x - mean) * inv_std * weight + bias + z)
//! ```
//!
//! The values, the gradients and the updates are the kernels', to within rounding: computed in the dtype of the statistics, and
//! rounded once to that of `x`.

use batchnorm::op::Problem;
use batchnorm::{Activation, Epilogue, NonFinite, Op, RunningVar, Shape};
use candle_core::{DType, Error, Result, Tensor};

use crate::layer::Inner;
use crate::op::{Normalizer, dtype_of};

/// The forward pass. In training it moves the running statistics.
pub(crate) fn normalize(
    layer: &Inner,
    shape: Shape,
    x: &Tensor,
    epilogue: Epilogue<&Tensor>,
    normalizer: &Normalizer,
) -> Result<Tensor> {
    let (wide, eps) = (layer.running.mean.dtype(), layer.config.eps);
    let [weight, bias] = &layer.weight_and_bias;
    let mut channels = vec![1; x.rank()];
    channels[1] = shape.c();
    let broadcast = |of_channels: &Tensor| of_channels.reshape(channels.as_slice());
    let wide_x = x.to_dtype(wide)?;
    let (op, tracking) = match normalizer {
        Normalizer::Batch => (Op::Train, Some(layer.config.tracking())),
        Normalizer::Running(_) => (Op::Infer, None),
    };
    Problem::new(op, shape, dtype_of(x.dtype())?, epilogue.kind(), eps, tracking).map_err(Error::wrap)?;
    let [mean, var] = match normalizer {
        Normalizer::Running(statistics) => statistics.clone(),
        Normalizer::Batch if shape.is_empty() => return x.contiguous(), // It has no mean, and moves nothing.
        Normalizer::Batch => {
            let rows = wide_x.transpose(0, 1)?.flatten_from(1)?.contiguous()?;
            let mean = rows.mean_keepdim(1)?;
            let var = rows.broadcast_sub(&mean)?.sqr()?.mean_keepdim(1)?;
            [mean, var]
        }
    };
    let normalized = wide_x.broadcast_sub(&broadcast(&mean)?)?.broadcast_mul(&broadcast(&inv_std(&var, eps)?)?)?;
    let mut v = normalized.broadcast_mul(&broadcast(weight)?)?.broadcast_add(&broadcast(bias)?)?;
    if let Some(z) = epilogue.residual() {
        v = (v + z.to_dtype(wide)?)?;
    }
    let y = activate(epilogue.activation(), &v, x.dtype())?;
    if let Normalizer::Batch = normalizer {
        follow(layer, &mean.flatten_all()?.detach(), &var.flatten_all()?.detach(), shape.m())?;
    }
    Ok(y)
}

/// An activation in the dtype of `y`, with the gradient of the kernels: where that of relu or relu6 jumps, by the `y`
/// that is stored.
fn activate(activation: Activation, v: &Tensor, dtype: DType) -> Result<Tensor> {
    match activation {
        Activation::Identity => v.to_dtype(dtype),
        Activation::Relu => at_least_0(&v.to_dtype(dtype)?),
        Activation::Relu6 => from_0_to_6(&v.to_dtype(dtype)?),
        Activation::Silu => v.silu()?.to_dtype(dtype),
        Activation::Hardswish => ((v * from_0_to_6(&(v + 3.0)?)?)? / 6.0)?.to_dtype(dtype),
        // An activation of a newer batchnorm than this was written for. A test asks for all of the one here.
        other => {
            candle_core::bail!("batch-norm: expected an activation that is known on this device, got {}", other.name())
        }
    }
}

/// `max(v, 0)`. Candle's relu makes 0 of NaN, and lets the gradient pass at 0.
fn at_least_0(v: &Tensor) -> Result<Tensor> {
    v.le(0.0)?.where_cond(&v.zeros_like()?, v)
}

/// `min(max(v, 0), 6)`
fn from_0_to_6(v: &Tensor) -> Result<Tensor> {
    v.ge(6.0)?.where_cond(&(v.zeros_like()? + 6.0)?, &at_least_0(v)?)
}

/// `1 / sqrt(var + eps)`, and 0 where that would divide by 0.
fn inv_std(var: &Tensor, eps: f64) -> Result<Tensor> {
    let var = (var + eps)?;
    let is_zero = var.eq(0.0)?;
    // The root of 0 has no gradient, not even one that is multiplied by 0.
    let divisor = is_zero.where_cond(&var.ones_like()?, &var)?.sqrt()?;
    is_zero.where_cond(&var.zeros_like()?, &divisor.recip()?)
}

/// Moves the running statistics by a batch of `m` values a channel, with this mean and biased variance.
fn follow(layer: &Inner, mean: &Tensor, var: &Tensor, m: usize) -> Result<()> {
    let (config, running) = (&layer.config, &layer.running);
    let momentum = config.momentum;
    // With a momentum of 0 nothing is read of the batch, and with one of 1 nothing of the old value: 0 * NaN would bring it in.
    if momentum == 0.0 {
        return Ok(());
    }
    let correction = match config.running_var {
        RunningVar::Unbiased => m as f64 / (m - 1) as f64,
        RunningVar::Biased => 1.0,
    };
    let skips = config.non_finite == NonFinite::Skip;
    let enters = if skips { Some((mean.sub(mean)? + var.sub(var)?)?.eq(0.0)?) } else { None };
    let step = |old: &Tensor, new: &Tensor| {
        let next = if momentum == 1.0 { new.clone() } else { ((old * (1.0 - momentum))? + (new * momentum)?)? };
        match &enters {
            Some(enters) => enters.where_cond(&next, old),
            None => Ok(next),
        }
    };
    let next_mean = step(&running.mean.as_detached_tensor(), mean)?;
    let next_var = step(&running.var.as_detached_tensor(), &(var * correction)?)?;
    running.mean.set(&next_mean)?;
    running.var.set(&next_var)
}

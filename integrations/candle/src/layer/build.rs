//! A layer out of a model's variables or of tensors, which are checked once, here.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, Var};
use candle_nn::{Init, VarBuilder};

use super::{BatchNorm, Inner, same_device, unshared};
use crate::config::Config;
use crate::placement::Placement;
use crate::running::Running;

/// A batch normalization of `num_features` channels, with the names of [`candle_nn::batch_norm()`]: `running_mean`,
/// `running_var`, and `weight` and `bias` if `affine` is set.
///
/// Parameters and statistics are f32 whatever the dtype of `vb`, and f64 for f64. Values of a file in half are converted;
/// variables in half are refused, since the layer could not follow them.
///
/// # Errors
/// An error if `eps` is negative or not finite, `momentum` outside of [0, 1], `max_sms` 0, `remove_mean` false (the kernels
/// always remove it), a tensor missing or of another shape or dtype, or the device a CUDA device without the feature `cuda`.
pub fn batch_norm<C: Into<Config>>(num_features: usize, config: C, vb: VarBuilder<'_>) -> Result<BatchNorm> {
    // The check comes before the builder makes a variable.
    let config = config.into().checked(num_features)?;
    let dtype = if vb.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let placement = Placement::on(vb.device(), dtype, config.max_sms)?;
    let get = |name, init| {
        let tensor = vb.get_with_hints_dtype(num_features, name, Init::Const(init), dtype)?;
        if tensor.track_op() && !tensor.is_variable() {
            let expected = dtype.as_str();
            candle_core::bail!(
                "batch-norm: expected a variable {name} in {expected}, got one that has to be converted"
            );
        }
        Ok(tensor)
    };
    let running = [get("running_mean", 0.0)?, get("running_var", 1.0)?];
    let weight_and_bias = if config.affine { Some([get("weight", 1.0)?, get("bias", 0.0)?]) } else { None };
    BatchNorm::build(num_features, config, placement, running, weight_and_bias)
}

impl BatchNorm {
    /// A layer of these tensors, with a momentum of 0.1. Statistics that are variables are used as they are, and
    /// others copied.
    ///
    /// # Errors
    /// As [`batch_norm()`].
    pub fn new(
        num_features: usize,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: f64,
    ) -> Result<Self> {
        Self::new_with_momentum(num_features, running_mean, running_var, weight, bias, eps, 0.1)
    }

    /// [`BatchNorm::new`] without weight and bias.
    ///
    /// # Errors
    /// As [`batch_norm()`].
    pub fn new_no_bias(num_features: usize, running_mean: Tensor, running_var: Tensor, eps: f64) -> Result<Self> {
        Self::new_no_bias_with_momentum(num_features, running_mean, running_var, eps, 0.1)
    }

    /// [`BatchNorm::new`] with this momentum: the weight of the new batch.
    ///
    /// # Errors
    /// As [`batch_norm()`].
    pub fn new_with_momentum(
        num_features: usize,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: f64,
        momentum: f64,
    ) -> Result<Self> {
        Self::of_tensors(num_features, eps, momentum, [running_mean, running_var], Some([weight, bias]))
    }

    /// [`BatchNorm::new_with_momentum`] without weight and bias.
    ///
    /// # Errors
    /// As [`batch_norm()`].
    pub fn new_no_bias_with_momentum(
        num_features: usize,
        running_mean: Tensor,
        running_var: Tensor,
        eps: f64,
        momentum: f64,
    ) -> Result<Self> {
        Self::of_tensors(num_features, eps, momentum, [running_mean, running_var], None)
    }

    fn of_tensors(
        num_features: usize,
        eps: f64,
        momentum: f64,
        running: [Tensor; 2],
        weight_and_bias: Option<[Tensor; 2]>,
    ) -> Result<Self> {
        let config = Config::from(eps).momentum(momentum).affine(weight_and_bias.is_some()).checked(num_features)?;
        let placement = Placement::on(running[0].device(), running[0].dtype(), config.max_sms)?;
        Self::build(num_features, config, placement, running, weight_and_bias)
    }

    fn build(
        num_features: usize,
        config: Config,
        placement: Placement,
        running: [Tensor; 2],
        weight_and_bias: Option<[Tensor; 2]>,
    ) -> Result<Self> {
        let (dtype, device) = (running[0].dtype(), running[0].device().clone());
        if !matches!(dtype, DType::F32 | DType::F64) {
            candle_core::bail!("batch-norm: expected running_mean in f32 or f64, got {}", dtype.as_str());
        }
        let weight_and_bias = match weight_and_bias {
            Some(given) => given,
            None => [Tensor::ones(num_features, dtype, &device)?, Tensor::zeros(num_features, dtype, &device)?],
        };
        let named =
            ["running_mean", "running_var", "weight", "bias"].into_iter().zip(running.iter().chain(&weight_and_bias));
        for (name, tensor) in named {
            if tensor.dims() != [num_features] {
                candle_core::bail!("batch-norm: expected {name} of shape [{num_features}], got {:?}", tensor.dims());
            }
            if tensor.dtype() != dtype {
                let (expected, got) = (dtype.as_str(), tensor.dtype().as_str());
                candle_core::bail!("batch-norm: expected {name} in {expected}, as running_mean, got {got}");
            }
            same_device(&running[0], tensor)?;
            if !tensor.is_contiguous() {
                candle_core::bail!("batch-norm: expected {name} contiguous, got strides {:?}", tensor.stride());
            }
        }
        let [mean, var] = &running;
        let (mean, var) = (Var::from_tensor(mean)?, Var::from_tensor(var)?);
        let [weight, bias] = &weight_and_bias;
        for (name, tensor) in [("running_var", var.as_tensor()), ("weight", weight), ("bias", bias)] {
            unshared(name, tensor, "running_mean", &mean)?;
        }
        for (name, tensor) in [("weight", weight), ("bias", bias)] {
            unshared(name, tensor, "running_var", &var)?;
        }
        let num_batches_tracked = Tensor::zeros(1, DType::I64, &device)?;
        let running = Running { mean, var, num_batches_tracked };
        Ok(Self { inner: Arc::new(Inner { running, config, weight_and_bias, placement }) })
    }
}

//! The layer.

mod build;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use batchnorm::plan::PlanTable;
use batchnorm::{Activation, Dtype, Epilogue, Layout, Shape};
use candle_core::{DType, Error, Result, Tensor};
use candle_nn::ModuleT;

pub use build::batch_norm;

use crate::composite;
use crate::config::Config;
use crate::op::{Normalize, Normalizer, dtype_of};
use crate::placement::Placement;
use crate::running::Running;

/// Batch normalization with its parameters and running statistics.
///
/// The formulas, `m` values per channel:
///
/// ```text
/// training    mean, var  of the batch, var biased
///             running_mean <- (1 - momentum) * running_mean + momentum * mean
///             running_var  <- (1 - momentum) * running_var  + momentum * var * m/(m-1)
/// inference   mean, var = running_mean, running_var
/// y           = epilogue((x - mean) / sqrt(var + eps) * weight + bias)
/// ```
///
/// [`ModuleT::forward_t`] is the plain layer; [`BatchNorm::relu`], [`BatchNorm::add`] and [`BatchNorm::add_relu`] give the
/// forms with what usually follows, fused, and [`BatchNorm::activate`] and [`BatchNorm::add_activate`] those with any activation.
/// [`BatchNorm::inference`] is a [`Module`](candle_nn::Module). How running statistics follow is [`Config`]'s to change.
///
/// On Metal, which has no kernels of the crate, all of these are composed of candle's operations, with the same formulas.
///
/// # Shapes and dtypes
/// `x` is `[n, c, …]`, in f32, f16 or bf16 with parameters and statistics in f32, or in f64 with these in f64 (on the CPU
/// alone). `y` is contiguous, in the dtype of `x`. An `x` that is not contiguous is copied first.
///
/// # Effects
/// A training forward updates the running statistics in place, on their device; on CUDA all work is put on candle's
/// stream and nothing here waits for it. [`Device::new_cuda`](candle_core::Device::new_cuda) uses one stream a thread:
/// threads that share tensors, or a layer's statistics, have to call `Device::synchronize` between their uses, as for
/// candle's own operations. Clones share parameters and statistics, as clones of candle's tensors do. Gradients
/// flow to `x`, the weight, the bias and the residual, of first order: the backward pass itself is not differentiable, but on Metal. It
/// reads `x`, the weight and the bias as they then are. Where a relu's result is 0, its gradient is 0, as PyTorch's;
/// candle's relu lets it pass there.
///
/// # Errors
/// [`Error::UnexpectedNumberOfDims`], [`Error::UnexpectedShape`], [`Error::UnexpectedDType`],
/// [`Error::DTypeMismatchBinaryOp`], [`Error::DeviceMismatchBinaryOp`], and messages of the crate `batchnorm`, for instance
/// where training has one value per channel. After an error nothing has changed.
#[derive(Clone)]
pub struct BatchNorm {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) running: Running,
    pub(crate) config: Config,
    /// The weight and bias; 1 and 0 for a layer without.
    pub(crate) weight_and_bias: [Tensor; 2],
    placement: Placement,
}

impl BatchNorm {
    /// The running mean, `[c]`.
    pub fn running_mean(&self) -> &Tensor {
        self.inner.running.mean.as_tensor()
    }

    /// The running variance, `[c]`.
    pub fn running_var(&self) -> &Tensor {
        self.inner.running.var.as_tensor()
    }

    /// The constant that is added to the variance.
    pub fn eps(&self) -> f64 {
        self.inner.config.eps
    }

    /// The weight of a new batch in the running statistics.
    pub fn momentum(&self) -> f64 {
        self.inner.config.momentum
    }

    /// The weight and the bias, `[c]` each, where there are any.
    pub fn weight_and_bias(&self) -> Option<(&Tensor, &Tensor)> {
        let [weight, bias] = &self.inner.weight_and_bias;
        self.inner.config.affine.then_some((weight, bias))
    }

    /// The channels.
    pub fn num_features(&self) -> usize {
        self.inner.weight_and_bias[0].elem_count()
    }

    /// The same layer, with its parameters and running statistics, by the plans of this table on a CUDA device: see
    /// [`batchnorm::plan`]. `batchnorm tune` of the package `batchnorm-cli` makes such tables. Elsewhere it has no effect, nor where
    /// [`Config::max_sms`] leaves multiprocessors to others. `BATCHNORM_PLANS=FILE` in the environment does the same for every layer.
    ///
    /// # Errors
    /// An error for a table of another device or another version of the crate `batchnorm`.
    pub fn with_plans(&self, plans: &Arc<PlanTable>) -> Result<Self> {
        let Inner { running, config, weight_and_bias, placement } = &*self.inner;
        let inner = Inner {
            running: running.clone(),
            config: *config,
            weight_and_bias: weight_and_bias.clone(),
            placement: placement.with_plans(plans)?,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A training forward of the plain layer.
    ///
    /// # Errors
    /// As the layer's.
    pub fn forward_train(&self, x: &Tensor) -> Result<Tensor> {
        self.normalize(x, Epilogue::IDENTITY, true)
    }

    /// `relu(batch_norm(x))` in one operation; NaN stays NaN.
    ///
    /// # Errors
    /// As the layer's.
    pub fn relu(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.normalize(x, Epilogue::RELU, train)
    }

    /// `batch_norm(x) + z` in one operation, with a residual `z` as `x`.
    ///
    /// # Errors
    /// As the layer's.
    pub fn add(&self, x: &Tensor, z: &Tensor, train: bool) -> Result<Tensor> {
        self.normalize(x, Epilogue::add(z), train)
    }

    /// `relu(batch_norm(x) + z)` in one operation, with a residual `z` as `x`; NaN stays NaN.
    ///
    /// # Errors
    /// As the layer's.
    pub fn add_relu(&self, x: &Tensor, z: &Tensor, train: bool) -> Result<Tensor> {
        self.normalize(x, Epilogue::add_relu(z), train)
    }

    /// `activation(batch_norm(x))` in one operation.
    ///
    /// # Errors
    /// As the layer's.
    pub fn activate(&self, x: &Tensor, activation: Activation, train: bool) -> Result<Tensor> {
        self.normalize(x, Epilogue::new(activation, None), train)
    }

    /// `activation(batch_norm(x) + z)` in one operation, with a residual `z` as `x`.
    ///
    /// # Errors
    /// As the layer's, and an error for an [`Activation`] that [takes no residual](Activation::takes_residual).
    pub fn add_activate(&self, x: &Tensor, z: &Tensor, activation: Activation, train: bool) -> Result<Tensor> {
        self.normalize(x, Epilogue::new(activation, Some(z)), train)
    }

    fn normalize(&self, x: &Tensor, epilogue: Epilogue<&Tensor>, train: bool) -> Result<Tensor> {
        let z = epilogue.residual().copied();
        let shape = self.checked(x)?;
        let Inner { running, weight_and_bias: [weight, bias], .. } = &*self.inner;
        if let Some(z) = z {
            if z.dims() != x.dims() {
                let (expected, got) = (x.shape().clone(), z.shape().clone());
                return Err(Error::UnexpectedShape { msg: "batch-norm: residual".into(), expected, got }.bt());
            }
            if z.dtype() != x.dtype() {
                let (lhs, rhs) = (x.dtype(), z.dtype());
                return Err(Error::DTypeMismatchBinaryOp { lhs, rhs, op: "batch-norm" }.bt());
            }
            same_device(x, z)?;
        }
        for (name, tensor) in [("x", Some(x)), ("the residual", z)] {
            let Some(tensor) = tensor else { continue };
            unshared(name, tensor, "running_mean", &running.mean)?;
            unshared(name, tensor, "running_var", &running.var)?;
        }
        let needs_backward = [Some(x), z, Some(weight), Some(bias)].into_iter().flatten().any(Tensor::track_op);
        let normalizer = if train {
            Normalizer::Batch
        } else {
            let [mean, var] = [&running.mean, &running.var].map(|of| of.as_detached_tensor());
            // The backward pass is to see what this pass saw, also where a training forward comes between them.
            Normalizer::Running(if needs_backward { [mean.copy()?, var.copy()?] } else { [mean, var] })
        };
        let kernels = match &self.inner.placement {
            Placement::Kernels(kernels) => kernels,
            Placement::Composite => return composite::normalize(&self.inner, shape, x, epilogue, &normalizer),
        };
        let x = x.contiguous()?;
        let op = Normalize::new(&self.inner, kernels, shape, &x, epilogue.kind(), normalizer, needs_backward);
        match z {
            Some(z) => x.apply_op3(&z.contiguous()?, &Tensor::stack(&[weight, bias], 0)?, op),
            None => x.apply_op3(weight, bias, op),
        }
    }

    /// The shape of a tensor that the layer can take.
    fn checked(&self, x: &Tensor) -> Result<Shape> {
        let (dims, c, mean) = (x.dims(), self.num_features(), &self.inner.running.mean);
        match dims {
            [_, channels, ..] if *channels == c => {}
            [n, _, spatial @ ..] => {
                let (msg, got) = ("batch-norm: channels of x".into(), x.shape().clone());
                return Err(Error::UnexpectedShape { msg, expected: [&[*n, c], spatial].concat().into(), got }.bt());
            }
            _ => {
                let (got, shape) = (dims.len(), x.shape().clone());
                return Err(Error::UnexpectedNumberOfDims { expected: 2, got, shape }.bt());
            }
        }
        let param = dtype_of(x.dtype()).map(Dtype::param);
        if !param.is_ok_and(|param| param.name() == mean.dtype().as_str()) {
            let msg = if mean.dtype() == DType::F64 {
                "batch-norm: x in f64, as its statistics are"
            } else {
                "batch-norm: x in f32, f16 or bf16, as its statistics are in f32"
            };
            return Err(Error::UnexpectedDType { msg, expected: mean.dtype(), got: x.dtype() }.bt());
        }
        same_device(mean, x)?;
        let s: usize = dims[2..].iter().product();
        Shape::new(&[dims[0], c, s], Layout::ChannelsFirst).map_err(Error::wrap)
    }
}

impl ModuleT for BatchNorm {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.normalize(x, Epilogue::IDENTITY, train)
    }
}

impl fmt::Debug for BatchNorm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchNorm")
            .field("num_features", &self.num_features())
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

pub(crate) fn same_device(expected: &Tensor, got: &Tensor) -> Result<()> {
    // Two handles of one device are equal, as for candle's own operations.
    let (lhs, rhs) = (expected.device().location(), got.device().location());
    if lhs == rhs {
        return Ok(());
    }
    Err(Error::DeviceMismatchBinaryOp { lhs, rhs, op: "batch-norm" }.bt())
}

/// A training forward writes the running statistics while it reads the other tensors. In one storage they would wait for
/// each other for ever.
fn unshared(name: &str, tensor: &Tensor, other_name: &str, other: &Tensor) -> Result<()> {
    // One lock after the other: two of one storage could wait for a thread that writes between them.
    let address = |tensor: &Tensor| core::ptr::from_ref(&*tensor.storage_and_layout().0).addr();
    if address(tensor) == address(other) {
        candle_core::bail!("batch-norm: expected {name} in memory of its own, got that of {other_name}");
    }
    Ok(())
}

//! The layer.

use std::fmt;
use std::sync::Arc;

use batchnorm::{Epilogue, Layout, Momentum, NonFinite, RunningVar, Shape, Tracking};
use candle_core::{DType, Error, Result, Tensor, Var};
use candle_nn::{BatchNormConfig, Init, Module, ModuleT, VarBuilder};

use crate::op::{Normalize, Statistics};
use crate::runner::Runners;
use crate::running::Running;

/// Batch normalization with its parameters and running statistics.
///
/// With `m` values per channel:
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
/// forms with what usually follows, fused. [`BatchNorm::inference`] is a [`Module`].
///
/// # Shapes and dtypes
/// `x` is `[n, c, …]`, in f32, f16 or bf16 with parameters and statistics in f32, or in f64 with these in f64 (on the CPU
/// alone). `y` is contiguous, in the dtype of `x`. An `x` that is not contiguous is copied first.
///
/// # Effects
/// A training forward updates the running statistics in place, on their device; on CUDA all work is put on candle's
/// stream and nothing waits for it. Clones share parameters and statistics, as clones of candle's tensors do. Gradients
/// flow to `x`, the weight, the bias and the residual, of first order: the backward pass itself is not differentiable.
///
/// # Errors
/// [`Error::UnexpectedShape`], [`Error::UnsupportedDTypeForOp`], [`Error::DeviceMismatchBinaryOp`] and messages of
/// the crate `batchnorm`, for instance where training has one value per channel. After an error nothing has changed.
#[derive(Clone)]
pub struct BatchNorm {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) running: Running,
    pub(crate) eps: f64,
    pub(crate) tracking: Tracking,
    pub(crate) runners: Runners,
    momentum: f64,
    /// Where there are none, 1 and 0.
    weight_and_bias: [Tensor; 2],
    is_affine: bool,
}

/// A batch normalization of `num_features` channels, with the names of [`candle_nn::batch_norm()`]: `running_mean`,
/// `running_var`, and where it is affine `weight` and `bias`.
///
/// Parameters and statistics are f32 whatever the dtype of `vb`, and f64 for f64.
///
/// # Errors
/// Where `eps` is negative or not finite, `momentum` outside of [0, 1], `remove_mean` false (the kernels always remove it),
/// a tensor missing or of another shape or dtype, or the device neither the CPU nor a CUDA device.
pub fn batch_norm<C: Into<BatchNormConfig>>(num_features: usize, config: C, vb: VarBuilder<'_>) -> Result<BatchNorm> {
    let config = config.into();
    if !config.remove_mean {
        candle_core::bail!("batch-norm: expected remove_mean = true, got false: the kernels always remove the mean");
    }
    let dtype = if vb.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let get = |name, init| vb.get_with_hints_dtype(num_features, name, Init::Const(init), dtype);
    let running = [get("running_mean", 0.0)?, get("running_var", 1.0)?];
    let weight_and_bias = if config.affine { Some([get("weight", 1.0)?, get("bias", 0.0)?]) } else { None };
    BatchNorm::build(num_features, running, weight_and_bias, config.eps, config.momentum)
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

    /// As [`BatchNorm::new`], without weight and bias.
    ///
    /// # Errors
    /// As [`batch_norm()`].
    pub fn new_no_bias(num_features: usize, running_mean: Tensor, running_var: Tensor, eps: f64) -> Result<Self> {
        Self::new_no_bias_with_momentum(num_features, running_mean, running_var, eps, 0.1)
    }

    /// As [`BatchNorm::new`], with this momentum: the weight of the new batch.
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
        Self::build(num_features, [running_mean, running_var], Some([weight, bias]), eps, momentum)
    }

    /// As [`BatchNorm::new_with_momentum`], without weight and bias.
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
        Self::build(num_features, [running_mean, running_var], None, eps, momentum)
    }

    fn build(
        num_features: usize,
        running: [Tensor; 2],
        weight_and_bias: Option<[Tensor; 2]>,
        eps: f64,
        momentum: f64,
    ) -> Result<Self> {
        if !eps.is_finite() || eps < 0.0 {
            candle_core::bail!("batch-norm: expected a finite eps of at least 0, got {eps}");
        }
        if !(0.0..=1.0).contains(&momentum) {
            candle_core::bail!("batch-norm: expected a momentum from 0 to 1, got {momentum}");
        }
        if num_features == 0 {
            candle_core::bail!("batch-norm: expected at least 1 feature, got 0");
        }
        let (dtype, device) = (running[0].dtype(), running[0].device().clone());
        if !matches!(dtype, DType::F32 | DType::F64) {
            candle_core::bail!("batch-norm: expected running_mean in f32 or f64, got {}", dtype.as_str());
        }
        let is_affine = weight_and_bias.is_some();
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
        let tracking = Tracking {
            momentum: Momentum::Ema(momentum),
            variance: RunningVar::Unbiased,
            non_finite: NonFinite::Propagate,
        };
        let running = Running { mean, var, num_batches_tracked };
        let runners = Runners::of(&device)?;
        Ok(Self { inner: Arc::new(Inner { running, eps, tracking, runners, momentum, weight_and_bias, is_affine }) })
    }

    /// The running mean, `[c]`.
    pub fn running_mean(&self) -> &Tensor {
        self.inner.running.mean.as_tensor()
    }

    /// The running variance, `[c]`.
    pub fn running_var(&self) -> &Tensor {
        self.inner.running.var.as_tensor()
    }

    /// What is added to the variance.
    pub fn eps(&self) -> f64 {
        self.inner.eps
    }

    /// The weight of a new batch in the running statistics.
    pub fn momentum(&self) -> f64 {
        self.inner.momentum
    }

    /// The weight and the bias, `[c]` each, where there are any.
    pub fn weight_and_bias(&self) -> Option<(&Tensor, &Tensor)> {
        let [weight, bias] = &self.inner.weight_and_bias;
        self.inner.is_affine.then_some((weight, bias))
    }

    /// The channels.
    pub fn num_features(&self) -> usize {
        self.inner.weight_and_bias[0].elem_count()
    }

    /// A training forward of the plain layer.
    ///
    /// # Errors
    /// As the layer's.
    pub fn forward_train(&self, x: &Tensor) -> Result<Tensor> {
        self.normalize(x, Epilogue::Identity, None, true)
    }

    /// `relu(batch_norm(x))` in one operation; NaN stays NaN.
    ///
    /// # Errors
    /// As the layer's.
    pub fn relu(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.normalize(x, Epilogue::Relu, None, train)
    }

    /// `batch_norm(x) + z` in one operation, with a residual `z` as `x`.
    ///
    /// # Errors
    /// As the layer's.
    pub fn add(&self, x: &Tensor, z: &Tensor, train: bool) -> Result<Tensor> {
        self.normalize(x, Epilogue::Add(()), Some(z), train)
    }

    /// `relu(batch_norm(x) + z)` in one operation, with a residual `z` as `x`; NaN stays NaN.
    ///
    /// # Errors
    /// As the layer's.
    pub fn add_relu(&self, x: &Tensor, z: &Tensor, train: bool) -> Result<Tensor> {
        self.normalize(x, Epilogue::AddRelu(()), Some(z), train)
    }

    /// The layer in inference, as a [`Module`]. It shares parameters and statistics.
    ///
    /// The layer itself can be no [`Module`]: every [`Module`] is a [`ModuleT`] that ignores `train`.
    pub fn inference(&self) -> Inference {
        Inference(self.clone())
    }

    /// The layer with a relu behind it, as a [`ModuleT`]. It shares parameters and statistics.
    pub fn with_relu(&self) -> BatchNormRelu {
        BatchNormRelu(self.clone())
    }

    fn normalize(&self, x: &Tensor, fused: Epilogue<()>, z: Option<&Tensor>, train: bool) -> Result<Tensor> {
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
        let tracked = [Some(x), z, Some(weight), Some(bias)].into_iter().flatten().any(Tensor::track_op);
        let statistics = if train {
            Statistics::Batch
        } else {
            let [mean, var] = [&running.mean, &running.var].map(|of| of.as_detached_tensor());
            // The backward pass is to see what this pass saw, also where a training forward comes between them.
            Statistics::Frozen(if tracked { [mean.copy()?, var.copy()?] } else { [mean, var] })
        };
        let x = x.contiguous()?;
        let op = Normalize::new(&self.inner, shape, &x, fused, statistics, tracked);
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
            [_, _, ..] => candle_core::bail!("batch-norm: expected x of {c} channels, [n, {c}, ...], got {dims:?}"),
            _ => candle_core::bail!("batch-norm: expected x of at least 2 dimensions, [n, {c}, ...], got {dims:?}"),
        }
        let is_taken = match mean.dtype() {
            DType::F64 => x.dtype() == DType::F64,
            _ => matches!(x.dtype(), DType::F32 | DType::F16 | DType::BF16),
        };
        if !is_taken {
            return Err(Error::UnsupportedDTypeForOp(x.dtype(), "batch-norm").context(format!(
                "batch-norm: expected x in {}, as its statistics are in {}",
                if mean.dtype() == DType::F64 { "f64" } else { "f32, f16 or bf16" },
                mean.dtype().as_str()
            )));
        }
        same_device(mean, x)?;
        let s: usize = dims[2..].iter().product();
        Shape::new(&[dims[0], c, s], Layout::ChannelsFirst).map_err(Error::wrap)
    }
}

impl ModuleT for BatchNorm {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.normalize(x, Epilogue::Identity, None, train)
    }
}

/// A [`BatchNorm`] that normalizes by its running statistics: see [`BatchNorm::inference`].
#[derive(Clone, Debug)]
pub struct Inference(BatchNorm);

impl Module for Inference {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward_t(x, false)
    }
}

/// A [`BatchNorm`] and a relu in one operation: see [`BatchNorm::with_relu`].
#[derive(Clone, Debug)]
pub struct BatchNormRelu(BatchNorm);

impl ModuleT for BatchNormRelu {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.0.relu(x, train)
    }
}

impl fmt::Debug for BatchNorm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchNorm")
            .field("num_features", &self.num_features())
            .field("eps", &self.inner.eps)
            .field("momentum", &self.inner.momentum)
            .field("affine", &self.inner.is_affine)
            .finish_non_exhaustive()
    }
}

fn same_device(expected: &Tensor, got: &Tensor) -> Result<()> {
    if expected.device().same_device(got.device()) {
        return Ok(());
    }
    let (lhs, rhs) = (expected.device().location(), got.device().location());
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

//! Statistics: how running ones follow the batches, and the types that hold them.

use crate::{Backend, Epilogue, Error, ForwardPass, Param, Result, Shape, memory};

/// The weight `a` of the new batch in a running statistic: `running <- (1 - a) * running + a * batch`.
///
/// This is PyTorch's `momentum`. TensorFlow, Keras, Flax and ONNX name the weight of the *old* value, "decay" or
/// "momentum": [`Momentum::from_decay`] converts.
#[doc(alias = "decay")]
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Momentum {
    /// An exponential moving average with this constant weight, in [0, 1]. With 1 the old value is not read, with 0 the
    /// batch's: NaN or an infinity there does not enter.
    Ema(f64),
    /// The plain average of all batches: `a = 1 / num_batches_tracked`, counted after the step. PyTorch's `None`.
    Cumulative,
}

impl Momentum {
    /// From the weight of the old value, as TensorFlow, Keras, Flax and ONNX give it: `Ema(1 - decay)`.
    ///
    /// ```
    /// use batchnorm::Momentum;
    /// assert_eq!(Momentum::from_decay(0.75), Momentum::Ema(0.25));
    /// ```
    pub fn from_decay(decay: f64) -> Self {
        Self::Ema(1.0 - decay)
    }

    /// The weight of a new batch, where `num_batches_tracked` counts it already.
    pub(crate) fn weight(self, num_batches_tracked: i64) -> f64 {
        match self {
            Self::Ema(a) => a,
            Self::Cumulative => 1.0 / num_batches_tracked.max(1) as f64,
        }
    }
}

/// Which variance feeds the running variance. The biased one normalizes in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunningVar {
    /// `var * m / (m - 1)`, as PyTorch and TensorFlow's fused operation track it.
    Unbiased,
    /// `var`, as Keras, Flax, ONNX and the TensorFlow moving-average idiom track it.
    Biased,
}

/// What a batch whose statistics are NaN or infinite, in the type of the running ones, does to these of its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonFinite {
    /// It enters them, as the formula says, and stays there: an infinity in the batch as mean, with a variance of NaN.
    Propagate,
    /// It leaves them bit-identical. The batch is counted.
    Skip,
}

/// How running statistics follow the batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tracking {
    /// The weight of a new batch.
    pub momentum: Momentum,
    /// Which variance is tracked.
    pub variance: RunningVar,
    /// What a non-finite batch does.
    pub non_finite: NonFinite,
}

impl Default for Tracking {
    /// PyTorch's: momentum 0.1, unbiased variance, non-finite batches propagate.
    fn default() -> Self {
        Self { momentum: Momentum::Ema(0.1), variance: RunningVar::Unbiased, non_finite: NonFinite::Propagate }
    }
}

/// Running statistics: two per-channel vectors `V` and a counter `N`.
///
/// On the host `V` is `Vec<P>` and `N` is `i64`; of a layer they are its backend's views.
#[derive(Clone, Debug, PartialEq)]
pub struct Running<V, N> {
    /// The running mean, one value a channel.
    pub mean: V,
    /// The running variance, one value a channel.
    pub var: V,
    /// How many batches have been counted.
    pub num_batches_tracked: N,
}

impl<P: Param> Running<Vec<P>, i64> {
    /// Those of `c` channels before the first batch: mean 0, variance 1, no batch counted.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(c: usize) -> Result<Self> {
        let filled = |value: f64| memory::filled(P::from_f64(value), c);
        Ok(Self { mean: filled(0.0)?, var: filled(1.0)?, num_batches_tracked: 0 })
    }
}

/// What one forward pass leaves for its backward pass. The caller's, so that a layer used twice in a network has two.
///
/// Made by [`BatchNorm::saved`](crate::BatchNorm::saved) for one shape and used again for every batch of that shape. It
/// knows which pass and epilogue wrote it, and a backward pass of another one is refused with [`Error::SavedPass`]. It does not
/// know whose: that layer, `x`, gamma, beta and dtype are those of the forward pass is for the caller to keep.
pub struct Saved<B: Backend, P: Param = f32> {
    pub(crate) shape: Shape,
    pub(crate) mean: B::Buf<P>,
    pub(crate) inv_std: B::Buf<P>,
    pub(crate) relu_mask: Option<B::Buf<u32>>,
    pub(crate) pass: Option<ForwardPass>,
}

impl<B: Backend, P: Param> Saved<B, P> {
    pub(crate) fn new(backend: &B, shape: Shape, epilogue: Epilogue<()>) -> Result<Self> {
        let zeros = || backend.zeros(shape.c());
        let relu_mask = match epilogue {
            Epilogue::AddRelu(()) => Some(backend.zeros(relu_mask_len(shape))?),
            Epilogue::Identity | Epilogue::Relu | Epilogue::Add(()) => None,
        };
        Ok(Self { shape, mean: zeros()?, inv_std: zeros()?, relu_mask, pass: None })
    }

    /// The shape that these statistics are for.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The forward pass that wrote this; `None` before the first one, and after one that failed on the device.
    pub fn pass(&self) -> Option<ForwardPass> {
        self.pass
    }

    /// The batch mean, rounded to the type of per-channel values; of the last training forward, or zeros.
    pub fn mean(&self) -> &B::Buf<P> {
        &self.mean
    }

    /// `1 / sqrt(var + eps)`, 0 where `var + eps = 0`, NaN where the batch has a NaN or an infinity.
    pub fn inv_std(&self) -> &B::Buf<P> {
        &self.inv_std
    }

    /// Notes how a forward pass ended that was begun with `pass` as `None`, which `before` was until then. A refusal
    /// wrote nothing, so that what was there is still good.
    pub(crate) fn end(&mut self, pass: ForwardPass, before: Option<ForwardPass>, result: &Result<()>) {
        self.pass = match result {
            Ok(()) => Some(pass),
            Err(Error::Driver { .. } | Error::Launch { .. }) => None,
            Err(_) => before,
        };
    }

    pub(crate) fn check_pass(&self, expected: ForwardPass) -> Result<()> {
        let actual = self.pass;
        if actual == Some(expected) { Ok(()) } else { Err(Error::SavedPass { expected, actual }) }
    }

    pub(crate) fn check(&self, shape: Shape) -> Result<()> {
        if shape == self.shape { Ok(()) } else { Err(Error::SavedShape { expected: self.shape, actual: shape }) }
    }
}

/// The 32-bit words of a relu mask: one bit an element in memory order, the lowest bit first.
pub fn relu_mask_len(shape: Shape) -> usize {
    shape.len().div_ceil(32)
}

//! The forward pass with the batch's statistics.

use core::fmt;

use super::tensor::Values;
use super::{Epilogue, Facts, Map, Memory, Op, Problem, Role, Tracking, Traffic};
use crate::element::{Element, Param};
use crate::error::{Error, Result};
use crate::shape::Shape;

/// The forward pass with the batch's own statistics, which also move the running ones:
///
/// ```text
/// y = epilogue((x - mean) * inv_std * gamma + beta)
///
/// running_mean <- (1 - a) * running_mean + a * mean
/// running_var  <- (1 - a) * running_var  + a * var * k       k = m/(m-1) unbiased, 1 biased
/// num_batches_tracked <- num_batches_tracked + 1
/// ```
///
/// with `a` as [`Momentum`](super::Momentum) says; with `a = 1` the old value is not read, with `a = 0` the batch's. An infinity
/// in a channel thus becomes its running mean, and its running variance NaN, unless
/// [`NonFinite::Skip`](super::NonFinite::Skip) leaves both as they are. An empty batch (`m = 0`) writes zeros to `saved_mean` and
/// `saved_inv_std` and leaves the running statistics and the counter bit-identical.
///
/// # Shapes
/// `x`, `y`, `z` as `shape`; `gamma`, `beta`, `saved_mean`, `saved_inv_std`, running mean and variance `[c]`;
/// `relu_mask` `[ceil(n*c*s / 32)]`.
///
/// # Errors
/// The [common ones](super#errors); [`Error::Momentum`]; [`Error::OneValuePerChannel`] for `m = 1` where the unbiased running
/// variance is tracked.
pub struct Train<'a, M: Memory, T: Element> {
    /// The shape of the data tensors.
    pub shape: Shape,
    /// The constant that is added to the variance, in the type of per-channel values; finite, at least 0.
    pub eps: f64,
    /// The data.
    pub x: M::In<'a, T>,
    /// The epilogue, with the residual `z`.
    pub epilogue: Epilogue<M::In<'a, T>>,
    /// The scale of each channel.
    pub gamma: Option<M::In<'a, T::Param>>,
    /// The offset of each channel.
    pub beta: Option<M::In<'a, T::Param>>,
    /// Written: the result.
    pub y: M::Out<'a, T>,
    /// Written: the batch mean of each channel.
    pub saved_mean: M::Out<'a, T::Param>,
    /// Written: `1 / sqrt(var + eps)` of each channel.
    pub saved_inv_std: M::Out<'a, T::Param>,
    /// Written, with the epilogue add-relu: one bit an element, for the backward pass.
    pub relu_mask: Option<M::Out<'a, u32>>,
    /// Updated: the running statistics, where they are tracked.
    pub running: Option<Update<'a, M, T::Param>>,
}

/// Running statistics to be updated by [`Train`].
pub struct Update<'a, M: Memory, P: Param> {
    /// How they follow the batch.
    pub tracking: Tracking,
    /// Updated: the running mean.
    pub mean: M::Out<'a, P>,
    /// Updated: the running variance.
    pub var: M::Out<'a, P>,
    /// Updated: the number of batches, one value.
    pub num_batches_tracked: M::Out<'a, i64>,
}

pub(super) const FACTS: Facts = Facts {
    summary: "Normalize with the batch's statistics; update the running ones",
    is_backward: false,
    needs_batch_statistics: true,
    reduces: true,
    writes_y: true,
    tracks: true,
    traffic: Traffic { reads: 1, writes: 1, cached: 1 },
};

/// Whether running statistics can follow a batch of this shape so.
pub(super) fn check(shape: Shape, tracking: Tracking) -> Result<()> {
    if shape.m() == 1 && tracking.corrects_variance() {
        return Err(Error::OneValuePerChannel { shape });
    }
    Ok(())
}

impl<'a, M: Memory, T: Element> Train<'a, M, T> {
    pub(super) fn problem(&self) -> Result<Problem> {
        let tracking = self.running.as_ref().map(|running| running.tracking);
        Problem::new(Op::Train, self.shape, T::DTYPE, self.epilogue.kind(), self.eps, tracking)
    }

    pub(super) fn map<'b, N: Memory>(self, map: &mut impl Map<'a, 'b, M, N>) -> Train<'b, N, T> {
        Train {
            shape: self.shape,
            eps: self.eps,
            x: map.read("x", Role::Data, self.x),
            epilogue: self.epilogue.map(|z| map.read("z", Role::Data, z)),
            gamma: self.gamma.map(|gamma| map.read("gamma", Role::Channel, gamma)),
            beta: self.beta.map(|beta| map.read("beta", Role::Channel, beta)),
            y: map.write("y", Role::Data, self.y),
            saved_mean: map.write("saved_mean", Role::Channel, self.saved_mean),
            saved_inv_std: map.write("saved_inv_std", Role::Channel, self.saved_inv_std),
            relu_mask: self.relu_mask.map(|mask| map.write("relu_mask", Role::ReluMask, mask)),
            running: self.running.map(|Update { tracking, mean, var, num_batches_tracked }| Update {
                tracking,
                mean: map.write("running_mean", Role::Channel, mean),
                var: map.write("running_var", Role::Channel, var),
                num_batches_tracked: map.write("num_batches_tracked", Role::Counter, num_batches_tracked),
            }),
        }
    }

    pub(super) fn fill_empty(self, mut fill: impl FnMut(M::Out<'a, T::Param>, f64) -> Result<()>) -> Result<()> {
        fill(self.saved_mean, 0.0)?;
        fill(self.saved_inv_std, 0.0)
    }
}

/// The arguments by their names; of tensors their lengths.
impl<M: Memory, T: Element> fmt::Debug for Train<'_, M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Train")
            .field("shape", &self.shape)
            .field("eps", &self.eps)
            .field("x", &Values::read::<M, T>(&self.x))
            .field("epilogue", &Values::of_residual(&self.epilogue, Values::read::<M, T>))
            .field("gamma", &self.gamma.as_ref().map(Values::read::<M, T::Param>))
            .field("beta", &self.beta.as_ref().map(Values::read::<M, T::Param>))
            .field("y", &Values::written::<M, T>(&self.y))
            .field("saved_mean", &Values::written::<M, T::Param>(&self.saved_mean))
            .field("saved_inv_std", &Values::written::<M, T::Param>(&self.saved_inv_std))
            .field("relu_mask", &self.relu_mask.as_ref().map(Values::written::<M, u32>))
            .field("running", &self.running)
            .finish()
    }
}

/// The arguments by their names; of tensors their lengths.
impl<M: Memory, P: Param> fmt::Debug for Update<'_, M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Update")
            .field("tracking", &self.tracking)
            .field("mean", &Values::written::<M, P>(&self.mean))
            .field("var", &Values::written::<M, P>(&self.var))
            .field("num_batches_tracked", &Values::written::<M, i64>(&self.num_batches_tracked))
            .finish()
    }
}

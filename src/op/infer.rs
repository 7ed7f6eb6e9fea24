//! The forward pass with running statistics.

use core::fmt;

use super::tensor::Values;
use super::{Epilogue, Facts, Map, Memory, Op, Problem, Role, Traffic};
use crate::element::Element;
use crate::error::Result;
use crate::shape::Shape;

/// The forward pass with given statistics: `mean = running_mean`, `var = running_var`.
///
/// ```text
/// y = epilogue((x - mean) / sqrt(var + eps) * gamma + beta)
/// ```
///
/// Where `running_var + eps` is 0, `y` is `beta`; where it is less, or NaN, `y` is NaN.
///
/// # Shapes
/// `x`, `y`, `z` as `shape`; `gamma`, `beta`, `running_mean`, `running_var` `[c]`; `relu_mask` `[ceil(n*c*s / 32)]`.
///
/// # Errors
/// The [common ones](super#errors).
pub struct Infer<'a, M: Memory, T: Element> {
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
    /// The running mean.
    pub running_mean: M::In<'a, T::Param>,
    /// The running variance.
    pub running_var: M::In<'a, T::Param>,
    /// Written: the result.
    pub y: M::Out<'a, T>,
    /// Written, with the epilogue add-relu: one bit an element, for the backward pass.
    pub relu_mask: Option<M::Out<'a, u32>>,
}

pub(super) const FACTS: Facts = Facts {
    summary: "Normalize with the running statistics",
    is_backward: false,
    needs_batch_statistics: false,
    reduces: false,
    writes_y: true,
    tracks: false,
    traffic: Traffic { reads: 1, writes: 1, cached: 0 },
};

impl<'a, M: Memory, T: Element> Infer<'a, M, T> {
    pub(super) fn problem(&self) -> Result<Problem> {
        Problem::new(Op::Infer, self.shape, T::DTYPE, self.epilogue.kind(), self.eps, None)
    }

    pub(super) fn map<'b, N: Memory>(self, map: &mut impl Map<'a, 'b, M, N>) -> Infer<'b, N, T> {
        Infer {
            shape: self.shape,
            eps: self.eps,
            x: map.read("x", Role::Data, self.x),
            epilogue: self.epilogue.map(|z| map.read("z", Role::Data, z)),
            gamma: self.gamma.map(|gamma| map.read("gamma", Role::Channel, gamma)),
            beta: self.beta.map(|beta| map.read("beta", Role::Channel, beta)),
            running_mean: map.read("running_mean", Role::Channel, self.running_mean),
            running_var: map.read("running_var", Role::Channel, self.running_var),
            y: map.write("y", Role::Data, self.y),
            relu_mask: self.relu_mask.map(|mask| map.write("relu_mask", Role::ReluMask, mask)),
        }
    }

    pub(super) fn fill_empty(self, _: impl FnMut(M::Out<'a, T::Param>, f64) -> Result<()>) -> Result<()> {
        Ok(())
    }
}

/// The arguments by their names; of tensors their lengths.
impl<M: Memory, T: Element> fmt::Debug for Infer<'_, M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Infer")
            .field("shape", &self.shape)
            .field("eps", &self.eps)
            .field("x", &Values::read::<M, T>(&self.x))
            .field("epilogue", &Values::of_residual(&self.epilogue, Values::read::<M, T>))
            .field("gamma", &self.gamma.as_ref().map(Values::read::<M, T::Param>))
            .field("beta", &self.beta.as_ref().map(Values::read::<M, T::Param>))
            .field("running_mean", &Values::read::<M, T::Param>(&self.running_mean))
            .field("running_var", &Values::read::<M, T::Param>(&self.running_var))
            .field("y", &Values::written::<M, T>(&self.y))
            .field("relu_mask", &self.relu_mask.as_ref().map(Values::written::<M, u32>))
            .finish()
    }
}

//! Mean and variance.

use core::fmt;

use super::tensor::Values;
use super::{Epilogue, Facts, Map, Memory, Op, Problem, Role, Traffic};
use crate::element::Element;
use crate::error::Result;
use crate::shape::Shape;

/// Mean and biased variance of each channel, as `tf.nn.moments` gives them:
///
/// ```text
/// mean = sum(x) / m
/// var  = sum((x - mean)^2) / m
/// ```
///
/// NaN where a channel has no value. A channel with an infinity has that as mean, and NaN as `var`.
///
/// # Shapes
/// `x` as `shape`; `mean`, `var` `[c]`.
///
/// # Errors
/// The [common ones](super#errors).
pub struct Moments<'a, M: Memory, T: Element> {
    /// The shape of `x`.
    pub shape: Shape,
    /// The data.
    pub x: M::In<'a, T>,
    /// Written: the mean of each channel.
    pub mean: M::Out<'a, T::Param>,
    /// Written: the biased variance of each channel.
    pub var: M::Out<'a, T::Param>,
}

pub(super) const FACTS: Facts = Facts {
    summary: "Mean and biased variance of each channel",
    is_backward: false,
    needs_batch_statistics: true,
    reduces: true,
    writes_y: false,
    tracks: false,
    traffic: Traffic { reads: 1, writes: 0, cached: 0 },
};

impl<'a, M: Memory, T: Element> Moments<'a, M, T> {
    pub(super) fn problem(&self) -> Result<Problem> {
        Problem::new(Op::Moments, self.shape, T::DTYPE, Epilogue::IDENTITY, 0.0, None)
    }

    pub(super) fn map<'b, N: Memory>(self, map: &mut impl Map<'a, 'b, M, N>) -> Moments<'b, N, T> {
        Moments {
            shape: self.shape,
            x: map.read("x", Role::Data, self.x),
            mean: map.write("mean", Role::Channel, self.mean),
            var: map.write("var", Role::Channel, self.var),
        }
    }

    pub(super) fn fill_empty(self, mut fill: impl FnMut(M::Out<'a, T::Param>, f64) -> Result<()>) -> Result<()> {
        fill(self.mean, f64::NAN)?;
        fill(self.var, f64::NAN)
    }
}

/// The arguments by their names; of tensors their lengths.
impl<M: Memory, T: Element> fmt::Debug for Moments<'_, M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moments")
            .field("shape", &self.shape)
            .field("x", &Values::read::<M, T>(&self.x))
            .field("mean", &Values::written::<M, T::Param>(&self.mean))
            .field("var", &Values::written::<M, T::Param>(&self.var))
            .finish()
    }
}

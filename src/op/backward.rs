//! The backward passes of both forward passes.

use core::fmt;

use super::tensor::Values;
use super::{Epilogue, Facts, Map, Memory, Op, Problem, Role, Statistics, Traffic};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::shape::Shape;

/// The backward pass of [`Train`](super::Train) or [`Infer`](super::Infer), through the statistics that normalized:
///
/// ```text
/// g      = dy * activation'(v + z)         dz = g
/// dbeta  = sum(g)
/// dgamma = sum(g * (x - mean)) * inv_std
/// dx     = gamma * inv_std * (g - dbeta/m - (x - mean) * inv_std * dgamma/m)      the batch's statistics
/// dx     = gamma * inv_std * g                                                    running ones, which are constants
/// ```
///
/// Where the derivative of relu or relu6 jumps it is that of `v`, found again from `x`, as `y` was rounded. Gradients overwrite, they do
/// not accumulate. A saved mean is a rounded mean: what the rounding left is found again from `sum(x - mean)`, unless that is more
/// than a rounding, when the saved mean is taken as given. With running statistics
/// `inv_std = 1 / sqrt(var + eps)`: 0 where the sum is 0, and so are `dgamma` and `dx`; NaN where it is less, or NaN, and so are
/// `dgamma` and `dx`.
///
/// # Shapes
/// `x`, `dy`, `dx`, `dz` as `shape`; `gamma`, `beta`, the statistics, `dgamma`, `dbeta` `[c]`; `relu_mask` `[ceil(n*c*s / 32)]`.
///
/// # Errors
/// The [common ones](super#errors); [`Error::Missing`] for add-relu of a value or more without its mask.
pub struct Backward<'a, M: Memory, T: Element> {
    /// The shape of the data tensors.
    pub shape: Shape,
    /// The data that the forward pass read.
    pub x: M::In<'a, T>,
    /// The gradient of `y`.
    pub dy: M::In<'a, T>,
    /// The epilogue, with the residual's gradient `dz`, written. With [`Epilogue::add`] it equals `dy`: who needs no
    /// copy passes [`Epilogue::IDENTITY`] and uses `dy`. Who needs no `dz` of an [`Epilogue::add_relu`] passes [`Epilogue::RELU`] and
    /// the mask.
    pub epilogue: Epilogue<M::Out<'a, T>>,
    /// The scale of each channel.
    pub gamma: Option<M::In<'a, T::Param>>,
    /// The offset of each channel: for the derivative of an activation without a residual `v` is computed again from `x`.
    pub beta: Option<M::In<'a, T::Param>>,
    /// The statistics that normalized.
    pub statistics: Statistics<M::In<'a, T::Param>>,
    /// With the epilogue add-relu: the mask that the forward pass wrote. With relu: that of an add-relu whose `dz` nobody needs.
    pub relu_mask: Option<M::In<'a, u32>>,
    /// Written: the gradients.
    pub gradients: Gradients<'a, M, T>,
}

/// The gradients that a backward pass writes beside `dz`.
///
/// Written where they are passed on, as in the example of [the crate](crate#a-training-step), their types follow from the backend. In a
/// variable they are named: `Gradients::<Cpu, f32> { .. }`.
pub struct Gradients<'a, M: Memory, T: Element> {
    /// Written: the gradient of `x`, computed only where it is asked for.
    pub dx: Option<M::Out<'a, T>>,
    /// Written: the gradient of `gamma`, computed whether or not there is one.
    pub dgamma: Option<M::Out<'a, T::Param>>,
    /// Written: the gradient of `beta`, computed whether or not there is one.
    pub dbeta: Option<M::Out<'a, T::Param>>,
}

/// The facts of the pass through the batch's statistics.
pub(super) const FACTS: Facts = Facts {
    summary: "The gradients of train",
    is_backward: true,
    needs_batch_statistics: true,
    reduces: true,
    writes_y: false,
    tracks: false,
    traffic: Traffic { reads: 2, writes: 1, cached: 2 },
};

/// The facts of the pass through running statistics.
pub(super) const FACTS_RUNNING: Facts = Facts {
    summary: "The gradients of infer",
    is_backward: true,
    needs_batch_statistics: false,
    reduces: true,
    writes_y: false,
    tracks: false,
    traffic: Traffic { reads: 2, writes: 1, cached: 0 },
};

/// Whether the mask that a backward pass of this epilogue reads is there. The mask of no value has no words, and who keeps it by
/// its address has none.
pub(super) fn check_mask(shape: Shape, epilogue: Epilogue<()>, has_mask: bool) -> Result<()> {
    if epilogue.keeps_mask() && !has_mask && !shape.is_empty() {
        let reason = "the backward pass of add-relu reads the mask that its forward pass kept";
        return Err(Error::Missing { tensor: "relu_mask", reason });
    }
    Ok(())
}

impl<'a, M: Memory, T: Element> Backward<'a, M, T> {
    pub(super) fn problem(&self) -> Result<Problem> {
        let eps = match self.statistics {
            Statistics::Batch { .. } => 0.0,
            Statistics::Running { eps, .. } => eps,
        };
        let op = Op::Backward(self.statistics.kind());
        Problem::new(op, self.shape, T::DTYPE, self.epilogue.kind(), eps, None)
    }

    pub(super) fn map<'b, N: Memory>(self, map: &mut impl Map<'a, 'b, M, N>) -> Backward<'b, N, T> {
        let Gradients { dx, dgamma, dbeta } = self.gradients;
        Backward {
            shape: self.shape,
            x: map.read("x", Role::Data, self.x),
            dy: map.read("dy", Role::Data, self.dy),
            gamma: self.gamma.map(|gamma| map.read("gamma", Role::Channel, gamma)),
            beta: self.beta.map(|beta| map.read("beta", Role::Channel, beta)),
            statistics: match self.statistics {
                Statistics::Batch { mean, inv_std } => Statistics::Batch {
                    mean: map.read("saved_mean", Role::Channel, mean),
                    inv_std: map.read("saved_inv_std", Role::Channel, inv_std),
                },
                Statistics::Running { mean, var, eps } => Statistics::Running {
                    mean: map.read("running_mean", Role::Channel, mean),
                    var: map.read("running_var", Role::Channel, var),
                    eps,
                },
            },
            relu_mask: self.relu_mask.map(|mask| map.read("relu_mask", Role::ReluMask, mask)),
            epilogue: self.epilogue.map(|dz| map.write("dz", Role::Data, dz)),
            gradients: Gradients {
                dx: dx.map(|dx| map.write("dx", Role::Data, dx)),
                dgamma: dgamma.map(|dgamma| map.write("dgamma", Role::Channel, dgamma)),
                dbeta: dbeta.map(|dbeta| map.write("dbeta", Role::Channel, dbeta)),
            },
        }
    }

    pub(super) fn fill_empty(self, mut fill: impl FnMut(M::Out<'a, T::Param>, f64) -> Result<()>) -> Result<()> {
        let Gradients { dgamma, dbeta, .. } = self.gradients;
        dgamma.into_iter().chain(dbeta).try_for_each(|gradient| fill(gradient, 0.0))
    }
}

/// The arguments by their names; of tensors their lengths.
impl<M: Memory, T: Element> fmt::Debug for Backward<'_, M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backward")
            .field("shape", &self.shape)
            .field("x", &Values::read::<M, T>(&self.x))
            .field("dy", &Values::read::<M, T>(&self.dy))
            .field("epilogue", &Values::of_residual(&self.epilogue, Values::written::<M, T>))
            .field("gamma", &self.gamma.as_ref().map(Values::read::<M, T::Param>))
            .field("beta", &self.beta.as_ref().map(Values::read::<M, T::Param>))
            .field("statistics", &self.statistics.as_ref().map(Values::read::<M, T::Param>))
            .field("relu_mask", &self.relu_mask.as_ref().map(Values::read::<M, u32>))
            .field("gradients", &self.gradients)
            .finish()
    }
}

/// The arguments by their names; of tensors their lengths.
impl<M: Memory, T: Element> fmt::Debug for Gradients<'_, M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gradients")
            .field("dx", &self.dx.as_ref().map(Values::written::<M, T>))
            .field("dgamma", &self.dgamma.as_ref().map(Values::written::<M, T::Param>))
            .field("dbeta", &self.dbeta.as_ref().map(Values::written::<M, T::Param>))
            .finish()
    }
}

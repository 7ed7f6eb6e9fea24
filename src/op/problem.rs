//! The checked operation: its shape and options become a [`Problem`], or an error; check.rs checks its tensors.
//!
//! Whatever runs after a `Problem` relies on it and checks nothing again.

use super::{Epilogue, Op, Tracking, train};
use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::shape::Shape;

/// Whether an eps is finite and at least 0.
pub(crate) fn check_eps(eps: f64) -> Result<()> {
    if eps.is_finite() && eps >= 0.0 { Ok(()) } else { Err(Error::Eps { actual: eps }) }
}

impl Op {
    /// Whether it can have this epilogue.
    pub(crate) fn check_epilogue(self, epilogue: Epilogue<()>) -> Result<()> {
        let is_taken = self.epilogues().contains(&epilogue);
        if is_taken { Ok(()) } else { Err(Error::Epilogue { op: self, actual: epilogue.name() }) }
    }
}

/// A checked operation: what is to be computed, without a device and without pointers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    op: Op,
    shape: Shape,
    dtype: Dtype,
    epilogue: Epilogue<()>,
    eps: f64,
    tracking: Option<Tracking>,
    alignment: usize,
}

impl Problem {
    /// The widest alignment that anything makes use of, in bytes.
    const MAX_ALIGNMENT: usize = 16;

    /// An operation over buffers not known yet: to plan with, or to size a workspace.
    ///
    /// `eps` is not read by [`Op::Moments`] and the batch's [`Op::Backward`], `tracking` by [`Op::Train`] alone.
    ///
    /// # Errors
    /// [`Error::Eps`], [`Error::Momentum`], [`Error::OneValuePerChannel`], [`Error::Epilogue`].
    pub fn new(
        op: Op,
        shape: Shape,
        dtype: Dtype,
        epilogue: Epilogue<()>,
        eps: f64,
        tracking: Option<Tracking>,
    ) -> Result<Self> {
        Self::check_options(eps, tracking)?;
        op.check_epilogue(epilogue)?;
        if let (true, Some(tracking)) = (op.tracks(), tracking) {
            train::check(shape, tracking)?;
        }
        Ok(Self { op, shape, dtype, epilogue, eps, tracking, alignment: Self::MAX_ALIGNMENT })
    }

    /// Whether a layer can have these options, whatever it computes.
    ///
    /// # Errors
    /// [`Error::Eps`], [`Error::Momentum`].
    pub fn check_options(eps: f64, tracking: Option<Tracking>) -> Result<()> {
        check_eps(eps)?;
        tracking.map_or(Ok(()), Tracking::check)
    }

    /// The same operation over data that begins this number of elements behind the start of its memory, to plan for buffers not
    /// known yet.
    #[must_use]
    pub fn with_offset(self, elements: usize) -> Self {
        // Wrapping drops high bits alone, and the alignment is that of the lowest one.
        self.aligned_as(elements.wrapping_mul(self.dtype.bytes() as usize))
    }

    /// The same operation over data of this alignment, to plan for buffers not known yet.
    #[cfg(feature = "cuda")]
    pub(crate) fn with_alignment(self, alignment: usize) -> Self {
        Self { alignment: alignment.min(Self::MAX_ALIGNMENT), ..self }
    }

    /// The same operation over data that is aligned as this address is, which may be that of several tensors, by `or`.
    pub(super) fn aligned_as(self, address: usize) -> Self {
        Self { alignment: self.alignment.min(1 << address.trailing_zeros().min(31)), ..self }
    }

    /// The operation.
    pub fn op(&self) -> Op {
        self.op
    }

    /// The shape of every data tensor.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The type of every data tensor.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The epilogue that is fused behind the normalization.
    pub fn epilogue(&self) -> Epilogue<()> {
        self.epilogue
    }

    /// The constant that is added to the variance.
    pub fn eps(&self) -> f64 {
        self.eps
    }

    /// How running statistics follow, where they do.
    pub fn tracking(&self) -> Option<Tracking> {
        self.tracking
    }

    /// The common alignment of the data tensors in bytes, at most 16.
    pub fn alignment(&self) -> usize {
        self.alignment
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Momentum, NonFinite, RunningVar};
    use crate::shape::Layout;

    fn shape(dims: &[usize]) -> Shape {
        Shape::new(dims, Layout::ChannelsFirst).unwrap()
    }

    fn train(dims: &[usize], eps: f64, tracking: Option<Tracking>) -> Result<Problem> {
        Problem::new(Op::Train, shape(dims), Dtype::F32, Epilogue::IDENTITY, eps, tracking)
    }

    #[test]
    fn eps_is_finite_and_not_negative() {
        for eps in [-1.0, -f64::MIN_POSITIVE, f64::NAN, f64::INFINITY] {
            assert!(matches!(train(&[4, 3], eps, None), Err(Error::Eps { .. })), "{eps}");
        }
        for eps in [0.0, -0.0, 1e-5, 1e30] {
            train(&[4, 3], eps, None).unwrap();
        }
        let text = train(&[4, 3], -1.0, None).unwrap_err().to_string();
        assert_eq!(text, "eps: expected a finite value >= 0, got -1");
    }

    #[test]
    fn momentum_is_in_the_unit_interval() {
        let with = |a| Some(Tracking { momentum: Momentum::Ema(a), ..Tracking::default() });
        for a in [-0.1, 1.0 + f64::EPSILON, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(matches!(train(&[4, 3], 1e-5, with(a)), Err(Error::Momentum { .. })), "{a}");
        }
        for a in [0.0, 0.1, 1.0] {
            train(&[4, 3], 1e-5, with(a)).unwrap();
        }
        let text = train(&[4, 3], 1e-5, with(-1.2)).unwrap_err().to_string();
        assert_eq!(text, "momentum: expected a value in [0, 1], got -1.2");
    }

    #[test]
    fn one_value_a_channel_trains_only_where_no_division_by_zero_follows() {
        let unbiased = Tracking::default();
        let biased = Tracking { variance: RunningVar::Biased, non_finite: NonFinite::Skip, ..unbiased };
        let error = train(&[1, 3, 1, 1], 1e-5, Some(unbiased)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "shape [1, 3, 1, 1] channels-first: expected at least 2 values per channel to train with an unbiased \
             running variance, got 1"
        );
        train(&[1, 3], 1e-5, Some(biased)).unwrap();
        train(&[1, 3], 1e-5, None).unwrap();
        train(&[0, 3], 1e-5, Some(unbiased)).unwrap();
        train(&[2, 3], 1e-5, Some(unbiased)).unwrap();
    }

    #[test]
    fn moments_take_no_epilogue() {
        let error = Problem::new(Op::Moments, shape(&[4, 3]), Dtype::F32, Epilogue::RELU, 0.0, None);
        assert_eq!(error.unwrap_err().to_string(), "moments: expected no epilogue, got relu");
    }
}

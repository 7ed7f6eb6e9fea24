//! The statistics that a forward pass leaves for its backward pass.

use core::fmt;

use crate::backend::Backend;
use crate::element::Param;
use crate::error::{Error, Result};
use crate::op::{Epilogue, ForwardPass};
use crate::shape::{Shape, relu_mask_len};

/// The statistics that one forward pass leaves for its backward pass. The caller's, so that a layer used twice in a network has two.
///
/// Made by [`BatchNorm::saved`](crate::BatchNorm::saved) for one shape and used again for every batch of that shape, and for any
/// smaller one, such as the last of an epoch. It knows which pass wrote it: [`BatchNorm::backward`](crate::BatchNorm::backward) is
/// that of this pass, and refuses another shape or epilogue with [`Error::SavedBatch`] and [`Error::SavedPass`]. It does not know
/// whose: that layer, `x`, gamma, beta and dtype are those of the forward pass is for the caller to keep.
pub struct Saved<B: Backend, P: Param = f32> {
    made_for: Shape,
    pub(super) mean: B::Buf<P>,
    pub(super) inv_std: B::Buf<P>,
    pub(super) relu_mask: Option<B::Buf<u32>>,
    /// The pass that wrote this, and its shape. A mask is in use as far as that shape needs it.
    pub(super) pass: Option<(ForwardPass, Shape)>,
}

impl<B: Backend, P: Param> Saved<B, P> {
    pub(super) fn new(backend: &B, shape: Shape, epilogue: Epilogue<()>) -> Result<Self> {
        let zeros = || backend.zeros(shape.c());
        let relu_mask = if epilogue.keeps_mask() { Some(backend.zeros(relu_mask_len(shape))?) } else { None };
        Ok(Self { made_for: shape, mean: zeros()?, inv_std: zeros()?, relu_mask, pass: None })
    }

    /// The shape of the batch that these statistics are of, which is that of the backward pass; while [`Saved::pass`] is `None`,
    /// the one that they were made for.
    pub fn shape(&self) -> Shape {
        self.pass.map_or(self.made_for, |(_, shape)| shape)
    }

    /// The shape that there is room for: a batch of it, or any smaller one.
    pub fn made_for(&self) -> Shape {
        self.made_for
    }

    /// The forward pass that wrote this; `None` before the first one, and after one that failed on the device.
    pub fn pass(&self) -> Option<ForwardPass> {
        self.pass.map(|(pass, _)| pass)
    }

    /// The batch mean, rounded to the type of per-channel values; of the last training forward, or zeros.
    pub fn mean(&self) -> &B::Buf<P> {
        &self.mean
    }

    /// `1 / sqrt(var + eps)`, 0 where `var + eps = 0`, NaN where the batch has a NaN or an infinity.
    pub fn inv_std(&self) -> &B::Buf<P> {
        &self.inv_std
    }

    /// Whether there is room for a pass of this shape.
    pub(super) fn check(&self, shape: Shape) -> Result<()> {
        let expected = self.made_for;
        if shape.fits_batch_of(&expected) { Ok(()) } else { Err(Error::SavedShape { expected, actual: shape }) }
    }

    /// The pass that this is of, if that had this shape and epilogue.
    pub(super) fn pass_of(&self, shape: Shape, epilogue: Epilogue<()>) -> Result<ForwardPass> {
        self.check(shape)?;
        let of_it = self.pass().filter(|pass| pass.epilogue == epilogue);
        let pass = of_it.ok_or(Error::SavedPass { expected: epilogue, actual: self.pass() })?;
        let (expected, actual) = (self.shape().n(), shape.n());
        if expected == actual { Ok(pass) } else { Err(Error::SavedBatch { expected, actual }) }
    }
}

/// Shape, dtype of the statistics, and pass: nothing of what is on a device.
impl<B: Backend, P: Param> fmt::Debug for Saved<B, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saved")
            .field("shape", &self.shape())
            .field("made_for", &self.made_for)
            .field("param_type", &P::DTYPE)
            .field("keeps_mask", &self.relu_mask.is_some())
            .field("pass", &self.pass())
            .finish_non_exhaustive()
    }
}

/// Runs a forward pass and records it as the one that wrote the saved statistics. A refusal wrote nothing, so that the record of
/// before is still good.
pub(super) fn run_and_record(
    pass: &mut Option<(ForwardPass, Shape)>,
    next: (ForwardPass, Shape),
    forward: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let before = pass.take();
    let result = forward();
    *pass = match &result {
        Ok(()) => Some(next),
        Err(Error::Driver { .. } | Error::Launch { .. }) => None,
        Err(_) => before,
    };
    result
}

/// The mask of a [`Saved`], for the epilogues that keep one.
pub(super) fn mask_of<M, Z>(relu_mask: Option<M>, epilogue: &Epilogue<Z>) -> Result<Option<M>> {
    if !epilogue.keeps_mask() {
        return Ok(None);
    }
    let reason = "expected a `saved` made for add-relu, got one without a mask";
    relu_mask.map(Some).ok_or(Error::Missing { tensor: "relu_mask", reason })
}

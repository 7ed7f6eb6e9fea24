//! The forward passes.

use super::activation::Kind;
use super::channels::{Channels, inv_std};
use super::convert::{Convert, SimdElement};
use super::formulas;
use super::mask::Mask;
use super::moments::{self, Moments};
use super::output::Output;
use super::sweep::{Block, by_block, whole};
use super::vector::Real;
use crate::op::Epilogue;
use crate::shape::Shape;

/// What a forward pass writes of each element: `y`, and the bit of a relu mask, where there is one.
pub(super) struct Written<'a, T> {
    y: Output<'a, T>,
    relu_mask: Option<Mask<'a>>,
}

impl<'a, T> Written<'a, T> {
    pub(super) fn new(y: &'a mut [T], relu_mask: Option<&'a mut [u32]>) -> Self {
        Self { y: Output::new(y), relu_mask: relu_mask.map(Mask::new) }
    }
}

/// Mean and biased variance of each channel, block by block.
pub(super) fn moments<T: SimdElement>(shape: Shape, x: &[T]) -> Vec<Moments> {
    by_block(shape, |block| moments::of_block(block, x))
}

/// The training forward but for what it leaves of the statistics: normalizes by the moments of `x`, which it gives, with
/// the `inv_std` of each channel, block by block.
pub(super) fn train<T: SimdElement>(
    shape: Shape,
    eps: f64,
    x: &[T],
    affine: [Option<&[T::Param]>; 2],
    epilogue: Epilogue<&[T]>,
    written: &Written<'_, T>,
) -> Vec<(Moments, Vec<f64>)> {
    by_block(shape, |block| {
        let Moments { mean, var } = moments::of_block(block, x);
        let inv_std = inv_std::<T::Param>(&var, eps);
        let channels = Channels::new(block.channels(), mean, inv_std, affine);
        normalize(block, x, &channels, epilogue, written);
        (Moments { mean: channels.mean, var }, channels.inv_std)
    })
}

/// Normalizes by these running statistics.
pub(super) fn infer<T: SimdElement>(
    shape: Shape,
    eps: f64,
    x: &[T],
    affine: [Option<&[T::Param]>; 2],
    running: [&[T::Param]; 2],
    epilogue: Epilogue<&[T]>,
    written: &Written<'_, T>,
) {
    let channels = |block: &Block| Channels::running(block.channels(), eps, affine, running);
    // A channel whose coefficients do not fit decides for its block, and for no more.
    if let Some(block) = whole(shape)
        && let channels = channels(&block)
        && channels.fit::<T::Usual>()
    {
        return normalize_in::<T, T::Usual>(&block, x, &channels, epilogue, written);
    }
    by_block(shape, |block| normalize(block, x, &channels(block), epilogue, written));
}

/// `y = epilogue((x - mean) * inv_std * gamma + beta)`
fn normalize<T: SimdElement>(
    block: &Block,
    x: &[T],
    channels: &Channels,
    epilogue: Epilogue<&[T]>,
    written: &Written<'_, T>,
) {
    if channels.fit::<T::Usual>() {
        normalize_in::<T, T::Usual>(block, x, channels, epilogue, written);
    } else {
        normalize_in::<T, f64>(block, x, channels, epilogue, written);
    }
}

fn normalize_in<T: SimdElement + Convert<R>, R: Real + Convert<R>>(
    block: &Block,
    x: &[T],
    channels: &Channels,
    epilogue: Epilogue<&[T]>,
    Written { y, relu_mask }: &Written<'_, T>,
) {
    let table = channels.normalizing::<R>(block);
    match Kind::of(epilogue.activation(), T::DTYPE) {
        Kind::Bounded { y: bounds, .. } => {
            let z = epilogue.into_residual();
            block.map::<T, R>(y, |piece, _, y| {
                let z = z.map(|z| piece.of(z));
                formulas::normalize(piece.grid(), table.of(piece), bounds, piece.of(x), z, y);
                if let Some(relu_mask) = relu_mask {
                    relu_mask.pack(piece.range().start, y);
                }
            });
        }
        // Problem lets no residual come before these, and so no mask belongs to them.
        Kind::Smooth(activation) => block.map::<T, R>(y, |piece, tiles, y| {
            let ([x_of_tile, _, v], len) = (tiles.get(), piece.len());
            piece.load(x, x_of_tile);
            formulas::normalize(
                piece.grid_of_tile(),
                table.of(piece),
                None,
                &x_of_tile.0[..len],
                None,
                &mut v.0[..len],
            );
            activation.apply(v, len);
            T::narrow(&v.0[..len], y);
        }),
    }
}

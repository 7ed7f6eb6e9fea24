//! The forward passes.

use super::activation::Kind;
use super::channels::{Channels, inv_std};
use super::convert::{Convert, SimdElement};
use super::formulas;
use super::mask::Mask;
use super::moments::{self, Moments};
use super::output::Output;
use super::piece::Piece;
use super::sweep::{Block, by_block, whole};
use super::tile::Tiles;
use super::vector::Real;
use crate::op::Epilogue;
use crate::shape::Shape;

/// The outputs of a forward pass that have a value of each element: `y`, and a relu mask, where there is one.
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
    by_block(shape, |block| moments::of_block(block, x, None))
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
        let Moments { mean, var } = moments::of_block(block, x, Some(eps));
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
    let normalize = |block: &Block| {
        let channels = Channels::running(block.channels(), eps, affine, running);
        normalize(block, x, &channels, epilogue, written);
    };
    match whole(shape) {
        Some(block) => normalize(&block),
        None => drop(by_block(shape, normalize)),
    }
}

/// `y = epilogue((x - mean) * inv_std * gamma + beta)`
fn normalize<T: SimdElement>(
    block: &Block,
    x: &[T],
    channels: &Channels,
    epilogue: Epilogue<&[T]>,
    written: &Written<'_, T>,
) {
    let Written { y, relu_mask } = written;
    channels.fit::<T::Usual>().map(
        block,
        y,
        || normalizer::<T, T::Usual>(block, x, channels, epilogue),
        || normalizer::<T, f64>(block, x, channels, epilogue),
        |piece, y| {
            if let Some(relu_mask) = relu_mask {
                relu_mask.pack(piece.range().start, y);
            }
        },
    );
}

/// The formula in a type.
fn normalizer<'a, T: SimdElement + Convert<R>, R: Real + Convert<R>>(
    block: &Block,
    x: &'a [T],
    channels: &Channels,
    epilogue: Epilogue<&'a [T]>,
) -> impl Fn(&Piece, &mut Tiles<R>, &mut [T]) + use<'a, T, R> {
    let table = channels.normalizing::<R>(block);
    let (kind, z) = (Kind::of(epilogue.activation(), T::DTYPE), epilogue.into_residual());
    move |piece, tiles, y| match kind {
        Kind::Bounded { y: bounds, .. } => {
            let z = z.map(|z| piece.of(z));
            formulas::normalize(piece.grid(), table.of(piece), bounds, piece.of(x), z, y);
        }
        // Problem lets no residual come before these.
        Kind::Smooth(activation) => {
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
        }
    }
}

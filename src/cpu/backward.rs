//! The backward passes.

use super::Cpu;
use super::activation::{Kind, Smooth};
use super::channels::{Channels, LARGE, SMALL, rest};
use super::convert::{Convert, SimdElement};
use super::fit::Fit;
use super::formulas;
use super::grid::Parameters;
use super::mask;
use super::moments::FEW;
use super::output::Output;
use super::per_channel;
use super::piece::Piece;
use super::sweep::{Block, by_block};
use super::tile::Tiles;
use super::vector::{Real, is_f64};
use crate::element::Element;
use crate::op::{Activation, Epilogue, Gradients, Statistics};
use crate::shape::Shape;

/// Writes the gradients of a checked problem.
pub(super) fn gradients<T: SimdElement>(
    shape: Shape,
    statistics: Statistics<&[T::Param]>,
    affine: [Option<&[T::Param]>; 2],
    [x, dy]: [&[T]; 2],
    epilogue: Epilogue<&mut [T]>,
    relu_mask: Option<&[u32]>,
    gradients: Gradients<'_, Cpu, T>,
) {
    // Behind a residual g is dz, as it was rounded.
    let (activation, dy) = match (epilogue.activation(), epilogue.into_residual()) {
        (activation, None) => (activation, dy),
        (_, Some(dz)) => {
            mask::residual_gradient(dy, relu_mask, dz);
            (Activation::Identity, &*dz)
        }
    };
    let dx = gradients.dx.map(Output::new);
    let of_blocks = by_block(shape, |block| {
        let channels = Channels::given(block.channels(), statistics, affine);
        let pass = Pass { block, x, dy, activation, fit: channels.fit::<T::Usual>() };
        match statistics {
            Statistics::Batch { .. } => pass.by_batch(channels, dx.as_ref()),
            Statistics::Running { .. } => pass.by_running(&channels, dx.as_ref()),
        }
    });
    let write = |output: Option<&mut [T::Param]>, of_block: fn(&[Vec<f64>; 2]) -> &[f64]| {
        if let Some(output) = output {
            per_channel::write(of_blocks.iter().map(of_block), output);
        }
    };
    write(gradients.dgamma, |[dgamma, _]| dgamma);
    write(gradients.dbeta, |[_, dbeta]| dbeta);
}

/// The backward pass over a block, from `dy` behind the activation, whose argument is computed again from `x`.
struct Pass<'a, T> {
    block: &'a Block,
    x: &'a [T],
    dy: &'a [T],
    activation: Activation,
    /// The channels whose coefficients are such that the usual type suffices.
    fit: Fit,
}

impl<T: SimdElement> Pass<'_, T> {
    /// `dgamma` and `dbeta` of the block's channels, which were normalized by running statistics; `dx`, where there is one, is written.
    fn by_running(&self, channels: &Channels, dx: Option<&Output<'_, T>>) -> [Vec<f64>; 2] {
        let [dbeta, mut dgamma, _] = self.sums(channels);
        if let Some(dx) = dx {
            self.scale(channels, dx);
        }
        per_channel::update([&mut dgamma], [&channels.inv_std], |[dgamma], [inv_std]| [dgamma * inv_std]);
        [dgamma, dbeta]
    }

    /// `dgamma` and `dbeta` of channels that were normalized by the batch's statistics, and `dx`.
    fn by_batch(&self, mut channels: Channels, dx: Option<&Output<'_, T>>) -> [Vec<f64>; 2] {
        let m = self.block.m() as f64;
        let Channels { mean, inv_std, .. } = &channels;
        if self.activation != Activation::Identity && per_channel::any([mean, inv_std], needs_residual::<T>) {
            // v needs the mean before the sums are there.
            let residuals = self.mean_residuals::<T::Usual>(&channels);
            let Channels { mean, inv_std, .. } = &mut channels;
            per_channel::update([mean], [&residuals, inv_std], move |[mean], [sum, inv_std]| {
                [if needs_residual::<T>([mean, inv_std]) { with_residual::<T>(mean, sum / m) } else { mean }]
            });
        }
        let [dbeta, mut dgamma, mut sum_xmu] = self.sums(&channels);
        if !is_f64::<T::Usual>() && self.block.m() <= FEW {
            sum_xmu = self.mean_residuals::<f64>(&channels);
        }
        let Channels { mean, inv_std, .. } = &mut channels;
        per_channel::update(
            [mean, &mut dgamma],
            [&sum_xmu, &dbeta, inv_std],
            move |[given, sum], [sum_xmu, dbeta, inv_std]| {
                let mean = with_residual::<T>(given, sum_xmu / m);
                [mean, (sum - (mean - given) * dbeta) * inv_std]
            },
        );
        if let Some(dx) = dx {
            let projection = [&dbeta, &dgamma, &channels.inv_std].map(Vec::as_slice);
            let [mean_dy, proj] =
                per_channel::map(projection, move |[dbeta, dgamma, inv_std]| [dbeta / m, dgamma / m * inv_std]);
            self.project(&channels, [&mean_dy, &proj], dx);
        }
        [dgamma, dbeta]
    }

    /// The sums of `x - mean`.
    fn mean_residuals<R: Real>(&self, channels: &Channels) -> Vec<f64>
    where
        T: Convert<R>,
    {
        fn of<T: Convert<R>, R: Real>(block: &Block, x: &[T], mean: &[f64]) -> [Vec<f64>; 1] {
            let table = block.table::<1, R>([mean]);
            let [sums, _] = block.sums::<R, 2>(|piece, _, sums| {
                formulas::sum_squares(piece.grid(), table.of(piece), piece.of(x), sums);
            });
            [sums]
        }
        let (block, x, mean) = (self.block, self.x, &channels.mean[..]);
        let has_lost = |[sum]: [f64; 1]| !sum.is_finite();
        let [sums] = self.fit.sums::<R, 1>(|| of::<T, R>(block, x, mean), || of::<T, f64>(block, x, mean), has_lost);
        sums
    }

    /// The sums of `g`, `g * (x - mean)` and `x - mean`.
    fn sums(&self, channels: &Channels) -> [Vec<f64>; 3] {
        let usual = || self.sums_in::<T::Usual>(channels);
        self.fit.sums::<T::Usual, 3>(usual, || self.sums_in::<f64>(channels), has_lost)
    }

    fn sums_in<R: Real + Convert<R>>(&self, channels: &Channels) -> [Vec<f64>; 3]
    where
        T: Convert<R>,
    {
        let table = channels.normalizing::<R>(self.block);
        let [sum_dy, mut sum_dy_xmu, mut sum_xmu] = match Kind::of(self.activation, T::DTYPE) {
            Kind::Bounded { passing, .. } => self.block.sums::<R, 3>(|piece, _, sums| {
                formulas::sum_products(piece.grid(), table.of(piece), passing, self.inputs(piece), sums);
            }),
            Kind::Smooth(activation) => self.block.sums(|piece, tiles, sums| {
                let (grid, parameters) = (piece.grid_of_tile(), table.of(piece));
                let [x, g, _] = self.load(piece, parameters, activation, tiles);
                formulas::sum_products(grid, parameters, None, [x, g], sums);
            }),
        };
        if !is_f64::<R>() {
            // They are about the nearest values of the type.
            let m = self.block.m() as f64;
            let sums = [&mut sum_dy_xmu, &mut sum_xmu].map(Vec::as_mut_slice);
            per_channel::update(sums, [&channels.mean, &sum_dy], move |[dy_xmu, xmu], [mean, dy]| {
                let rest = rest::<R>(mean);
                [if rest == 0.0 { dy_xmu } else { dy_xmu - rest * dy }, xmu - rest * m]
            });
        }
        [sum_dy, sum_dy_xmu, sum_xmu]
    }

    /// The values of `x` and `dy` from those of a piece on.
    #[inline]
    fn inputs(&self, piece: &Piece) -> [&[T]; 2] {
        [piece.of(self.x), piece.of(self.dy)]
    }

    /// The values of a piece of `x` and of `g`, and room for a result.
    fn load<'t, R: Real + Convert<R>>(
        &self,
        piece: &Piece,
        normalizing: Parameters<'_, 3, R>,
        activation: Smooth,
        tiles: &'t mut Tiles<R>,
    ) -> [&'t mut [R]; 3]
    where
        T: Convert<R>,
    {
        let ([x, dy, v], len) = (tiles.get(), piece.len());
        piece.load(self.x, x);
        piece.load(self.dy, dy);
        formulas::normalize(piece.grid_of_tile(), normalizing, None, &x.0[..len], None, &mut v.0[..len]);
        activation.gradient(v, dy, len);
        [x, dy, v].map(|tile| &mut tile.0[..len])
    }

    /// Writes `dx = scale * g`.
    fn scale(&self, channels: &Channels, dx: &Output<'_, T>) {
        let usual = || self.scaler::<T::Usual>(channels);
        self.fit.map(self.block, dx, usual, || self.scaler::<f64>(channels), |_, _| ());
    }

    fn scaler<R: Real + Convert<R>>(&self, channels: &Channels) -> impl Fn(&Piece, &mut Tiles<R>, &mut [T])
    where
        T: Convert<R>,
    {
        let table = channels.normalizing::<R>(self.block);
        let kind = Kind::of(self.activation, T::DTYPE);
        move |piece, tiles, dx| match kind {
            Kind::Bounded { passing, .. } => {
                formulas::scale(piece.grid(), table.of(piece), passing, self.inputs(piece), dx);
            }
            Kind::Smooth(activation) => {
                let [x, g, result] = self.load(piece, table.of(piece), activation, tiles);
                formulas::scale(piece.grid_of_tile(), table.of(piece), None, [x, g], result);
                T::narrow(result, dx);
            }
        }
    }

    /// Writes `dx = scale * (g - mean_dy - (x - mean) * proj)`.
    fn project(&self, channels: &Channels, [mean_dy, proj]: [&[f64]; 2], dx: &Output<'_, T>) {
        let fit = self.fit.and::<T::Usual>(&[(mean_dy, 1.0 / LARGE..=LARGE), (proj, 1.0 / LARGE..=1.0 / SMALL)]);
        let usual = || self.projector::<T::Usual>(channels, [mean_dy, proj]);
        fit.map(self.block, dx, usual, || self.projector::<f64>(channels, [mean_dy, proj]), |_, _| ());
    }

    fn projector<R: Real + Convert<R>>(
        &self,
        channels: &Channels,
        projection: [&[f64]; 2],
    ) -> impl Fn(&Piece, &mut Tiles<R>, &mut [T])
    where
        T: Convert<R>,
    {
        let table = channels.projecting::<R>(self.block, projection);
        let kind = Kind::of(self.activation, T::DTYPE);
        move |piece, tiles, dx| match kind {
            Kind::Bounded { passing, .. } => {
                formulas::input_gradient(piece.grid(), table.of(piece), passing, self.inputs(piece), dx);
            }
            Kind::Smooth(activation) => {
                let [x, g, result] = self.load(piece, table.of(piece).first(), activation, tiles);
                formulas::input_gradient(piece.grid_of_tile(), table.of(piece), None, [x, g], result);
                T::narrow(result, dx);
            }
        }
    }
}

/// The magnitude of a sum of `g` against which products too small for an f32 count nothing, whatever the channel's `inv_std` that
/// [`Channels::fit`] lets pass: they are that of constant channels, which are not few behind a relu.
const MUCH: f64 = 1.0 / (1u64 << 20) as f64;

/// Whether the sums of a channel in f32 have lost what counts: beyond its range, or so small that products may have been lost.
fn has_lost([dy, dy_xmu, xmu]: [f64; 3]) -> bool {
    let is_zero = (dy == 0.0) & (dy_xmu == 0.0);
    let is_small = (dy_xmu.abs() <= 1.0 / LARGE) & (dy.abs() < MUCH) & !is_zero;
    is_small | !(dy.is_finite() & dy_xmu.is_finite() & xmu.is_finite())
}

/// Whether the rounding of a mean would show in `v`: in f64 always, in f32 where it is many sigmas.
#[inline(always)]
fn needs_residual<T: SimdElement>([mean, inv_std]: [f64; 2]) -> bool {
    let is_near = (mean * inv_std).abs() < 16.0;
    is_f64::<T::Usual>() | !is_near
}

/// A mean and the residual that its rounding took away, found as the mean of `x - mean`.
///
/// More than a rounding is no such residual: the caller gave the statistics of something else, and they are taken as given.
#[inline(always)]
fn with_residual<T: SimdElement>(mean: f64, residual: f64) -> f64 {
    let ulp = 2.0 * <T::Param as Element>::DTYPE.unit_roundoff();
    mean + if residual.abs() <= ulp * mean.abs() { residual } else { 0.0 }
}

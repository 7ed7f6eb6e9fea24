//! The backward passes.

use core::marker::PhantomData;

use rayon::prelude::*;

use super::Cpu;
use super::activation::{Function, Identity, Kind, Relu, VectorFunction};
use super::convert::SimdElement;
use super::forward::{Channels, normalized, vector_of_v};
use super::lanes::{PerLane, Prepare};
use super::sweep::{ChannelBlock, by_block, by_block_into};
use super::threads;
use crate::element::Element;
use crate::op::{Activation, Epilogue, Gradients, Statistics};
use crate::shape::Shape;

/// Elements of a task of a plain copy.
const COPY_ELEMS: usize = 16 * 1024;

/// Writes the residual's gradient `dz = g`: with a mask `dy` where its bit is set.
fn residual_gradient<T: SimdElement>(dy: &[T], relu_mask: Option<&[u32]>, dz: &mut [T]) {
    match relu_mask {
        None => {
            let pieces = dz.par_chunks_mut(COPY_ELEMS).zip(dy.par_chunks(COPY_ELEMS));
            threads::for_each(pieces, |(dz, dy)| dz.copy_from_slice(dy));
        }
        Some(words) => {
            let values = dz.par_chunks_mut(32).zip(dy.par_chunks(32)).with_min_len(512);
            threads::for_each(values.zip(words), |((dz, dy), word)| {
                for (bit, (dz, &dy)) in dz.iter_mut().zip(dy).enumerate() {
                    *dz = if word >> bit & 1 == 1 { dy } else { T::default() };
                }
            });
        }
    }
}

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
            residual_gradient(dy, relu_mask, dz);
            (Activation::Identity, &*dz)
        }
    };
    let inputs = [x, dy];
    let of_channels = match Kind::of::<T>(activation) {
        Kind::Identity => {
            let identity = ByValues::<Identity>(PhantomData);
            channel_gradients(shape, statistics, affine, inputs, gradients.dx, &identity)
        }
        Kind::Relu => {
            channel_gradients(shape, statistics, affine, inputs, gradients.dx, &ByValues::<Relu>(PhantomData))
        }
        Kind::Vector(function) => {
            channel_gradients(shape, statistics, affine, inputs, gradients.dx, &ByVectors(function))
        }
    };
    for (out, [dgamma, _]) in gradients.dgamma.into_iter().flatten().zip(&of_channels) {
        *out = Element::from_f64(*dgamma);
    }
    for (out, [_, dbeta]) in gradients.dbeta.into_iter().flatten().zip(&of_channels) {
        *out = Element::from_f64(*dbeta);
    }
}

/// `dgamma` and `dbeta` of all channels, and `dx` where there is one.
fn channel_gradients<T: SimdElement, G: Gradient + Sync>(
    shape: Shape,
    statistics: Statistics<&[T::Param]>,
    affine: [Option<&[T::Param]>; 2],
    inputs: [&[T]; 2],
    dx: Option<&mut [T]>,
    gradient: &G,
) -> Vec<[f64; 2]> {
    match dx {
        Some(dx) => {
            by_block_into(shape, dx, |block, dx| block_gradients(block, statistics, affine, inputs, Some(dx), gradient))
        }
        None => by_block(shape, |block| block_gradients(block, statistics, affine, inputs, None, gradient)),
    }
}

/// The gradient behind the activation: `g = dy * activation'(v)`.
trait Gradient: Prepare<3, 2> + Prepare<5, 2> {
    /// Whether it depends on `v`.
    const READS_V: bool;

    /// `g` out of `v`, and of `dy` as it was prepared.
    fn of_value<T: SimdElement>(v: f64, dy: f64) -> f64;
}

/// An activation that is compiled into the loops.
struct ByValues<A>(PhantomData<A>);

impl<const Q: usize, A: Sync> Prepare<Q, 2> for ByValues<A> {
    #[inline(always)]
    fn prepare(&self, _: &mut [PerLane; 2], _: &[PerLane; Q]) {}
}

impl<A: Function> Gradient for ByValues<A> {
    const READS_V: bool = A::DERIVATIVE_READS_V;

    #[inline(always)]
    fn of_value<T: SimdElement>(v: f64, dy: f64) -> f64 {
        A::gradient::<T>(v, dy)
    }
}

/// An activation by a call for each vector, which makes `g` of `dy`.
struct ByVectors(VectorFunction);

impl<const Q: usize> Prepare<Q, 2> for ByVectors {
    #[inline(always)]
    fn prepare(&self, [x, dy]: &mut [PerLane; 2], parameters: &[PerLane; Q]) {
        (self.0.gradient)(&vector_of_v(x, parameters), dy);
    }
}

impl Gradient for ByVectors {
    const READS_V: bool = true;

    #[inline(always)]
    fn of_value<T: SimdElement>(_: f64, g: f64) -> f64 {
        g
    }
}

/// `dgamma` and `dbeta` of a block's channels, and its `dx` where there is one, from `dy` behind the activation, whose argument is computed again
/// from `x`.
fn block_gradients<T: SimdElement, G: Gradient>(
    block: &ChannelBlock,
    statistics: Statistics<&[T::Param]>,
    affine: [Option<&[T::Param]>; 2],
    inputs: [&[T]; 2],
    dx: Option<Vec<&mut [T]>>,
    gradient: &G,
) -> Vec<[f64; 2]> {
    let channels = match statistics {
        Statistics::Batch { mean: saved_mean, inv_std: saved_inv_std } => {
            let of_block = |values: &[T::Param]| values[block.channels()].iter().map(|value| value.to_f64()).collect();
            let mut mean: Vec<f64> = of_block(saved_mean);
            if G::READS_V {
                // v needs the mean before the sums are there.
                let residuals = block.sums([&mean], [inputs[0]], |[mean], [x]| [x - mean]);
                add_mean_residuals::<T>(&mut mean, residuals.iter().map(|[sum]| sum / block.m() as f64));
            }
            Channels::new(block.channels(), mean, of_block(saved_inv_std), affine)
        }
        Statistics::Running { mean, var, eps } => Channels::running(block.channels(), eps, affine, [mean, var]),
    };
    let g = |parameters: [f64; 3], x: f64, dy: f64| G::of_value::<T>(normalized(parameters, x), dy);
    let sums = if G::READS_V {
        let sums = block.sums_prepared(channels.parameters(), inputs, gradient, |p @ [mean, ..], [x, dy]| {
            let g = g(p, x, dy);
            [g, g * (x - mean)]
        });
        sums.into_iter().map(|[sum_dy, sum_dy_xmu]| [sum_dy, sum_dy_xmu, 0.0]).collect()
    } else {
        block.sums([&channels.mean], inputs, |[mean], [x, g]| [g, g * (x - mean), x - mean])
    };
    let m = block.m() as f64;
    let Channels { mut mean, inv_std, scale, beta } = channels;
    match statistics {
        Statistics::Running { .. } => {
            let parameters = [&mean, &scale, &beta].map(|of_channels| &of_channels[..]);
            if let Some(dx) = dx {
                block.map_prepared(parameters, inputs, dx, gradient, |p @ [_, scale, _], [x, dy]| scale * g(p, x, dy));
            }
            sums.iter().zip(inv_std).map(|([sum_dy, sum_dy_xmu, _], inv_std)| [sum_dy_xmu * inv_std, *sum_dy]).collect()
        }
        Statistics::Batch { .. } => {
            let given = mean.clone();
            add_mean_residuals::<T>(&mut mean, sums.iter().map(|[.., sum_xmu]| sum_xmu / m));
            let moved = mean.iter().zip(given).map(|(mean, given)| mean - given);
            let of_channel = |(([sum_dy, sum_dy_xmu, _], moved), inv_std): ((&[f64; 3], f64), &f64)| {
                [(sum_dy_xmu - moved * sum_dy) * inv_std, *sum_dy]
            };
            let of_channels: Vec<[f64; 2]> = sums.iter().zip(moved).zip(&inv_std).map(of_channel).collect();
            let mean_dy: Vec<f64> = of_channels.iter().map(|[_, dbeta]| dbeta / m).collect();
            let proj: Vec<f64> =
                of_channels.iter().zip(&inv_std).map(|([dgamma, _], inv_std)| inv_std * (dgamma / m)).collect();
            let parameters = [&mean, &scale, &beta, &mean_dy, &proj].map(|of_channels| &of_channels[..]);
            if let Some(dx) = dx {
                block.map_prepared(parameters, inputs, dx, gradient, |[mean, scale, beta, mean_dy, proj], [x, dy]| {
                    scale * (g([mean, scale, beta], x, dy) - mean_dy - (x - mean) * proj)
                });
            }
            of_channels
        }
    }
}

/// Adds to each mean the residual that its rounding took away, found as the mean of `x - mean`.
///
/// More than a rounding is no such residual: the caller gave the statistics of something else, and they are taken as given.
fn add_mean_residuals<T: SimdElement>(means: &mut [f64], residuals: impl Iterator<Item = f64>) {
    let ulp = 2.0 * <T::Param as Element>::DTYPE.unit_roundoff();
    for (mean, residual) in means.iter_mut().zip(residuals) {
        if residual.abs() <= ulp * mean.abs() {
            *mean += residual;
        }
    }
}

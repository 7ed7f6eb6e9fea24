//! The backward passes.

use rayon::prelude::*;

use super::Cpu;
use super::convert::Lane;
use super::forward::{Channels, normalized};
use super::sweep::{Group, by_group_into};
use super::threads;
use crate::element::Element;
use crate::op::{Activation, Epilogue, Gradients, Statistics};
use crate::shape::Shape;

/// Elements to a task of a plain copy.
const PIECE: usize = 16 * 1024;

/// Writes the residual's gradient `dz = g`.
fn residual_gradient<T: Lane>(dy: &[T], activation: Activation, relu_mask: Option<&[u32]>, dz: &mut [T]) {
    match activation {
        Activation::Identity => {
            let pieces = dz.par_chunks_mut(PIECE).zip(dy.par_chunks(PIECE));
            threads::for_each(pieces, |(dz, dy)| dz.copy_from_slice(dy));
        }
        Activation::Relu => {
            let words = relu_mask.unwrap_or_default(); // Problem saw to it that there is one.
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
pub(super) fn gradients<T: Lane>(
    shape: Shape,
    statistics: Statistics<&[T::Param]>,
    affine: [Option<&[T::Param]>; 2],
    [x, dy]: [&[T]; 2],
    epilogue: Epilogue<&mut [T]>,
    relu_mask: Option<&[u32]>,
    gradients: Gradients<'_, Cpu, T>,
) {
    let (activation, recomputes_v) = (epilogue.activation(), epilogue.recomputes_v());
    // Behind a residual g is dz, as it was rounded.
    let dy = match epilogue.into_residual() {
        None => dy,
        Some(dz) => {
            residual_gradient(dy, activation, relu_mask, dz);
            dz
        }
    };
    let of_channels = by_group_into(shape, gradients.dx, |group, dx| {
        if recomputes_v {
            group_gradients::<T, true>(group, statistics, affine, [x, dy], dx)
        } else {
            group_gradients::<T, false>(group, statistics, affine, [x, dy], dx)
        }
    });
    for (out, [dgamma, _]) in gradients.dgamma.into_iter().flatten().zip(&of_channels) {
        *out = Element::from_f64(*dgamma);
    }
    for (out, [_, dbeta]) in gradients.dbeta.into_iter().flatten().zip(&of_channels) {
        *out = Element::from_f64(*dbeta);
    }
}

/// `dgamma` and `dbeta` of a group's channels, and its `dx`, from `g`, or with `RELU` from `dy`, whose mask is then
/// computed again from `x`.
fn group_gradients<T: Lane, const RELU: bool>(
    group: &Group,
    statistics: Statistics<&[T::Param]>,
    affine: [Option<&[T::Param]>; 2],
    inputs: [&[T]; 2],
    dx: Vec<&mut [T]>,
) -> Vec<[f64; 2]> {
    let channels = match statistics {
        Statistics::Batch { mean: saved_mean, inv_std: saved_inv_std } => {
            let of_group = |values: &[T::Param]| values[group.channels()].iter().map(|value| value.to_f64()).collect();
            let mut mean: Vec<f64> = of_group(saved_mean);
            if RELU {
                // The mask needs the mean before the sums are there.
                let rests = group.sums([&mean], [inputs[0]], |[mean], [x]| [x - mean]);
                add_rests::<T>(&mut mean, rests.iter().map(|[sum]| sum / group.m() as f64));
            }
            Channels::new(group.channels(), mean, of_group(saved_inv_std), affine)
        }
        Statistics::Running { mean, var, eps } => Channels::running(group.channels(), eps, affine, [mean, var]),
    };
    let g = |parameters: [f64; 3], x: f64, dy: f64| {
        if !RELU || T::is_positive(normalized(parameters, x)) { dy } else { 0.0 }
    };
    let sums = if RELU {
        let sums = group.sums(channels.parameters(), inputs, |p @ [mean, ..], [x, dy]| {
            let g = g(p, x, dy);
            [g, g * (x - mean)]
        });
        sums.into_iter().map(|[sum_dy, sum_dy_xmu]| [sum_dy, sum_dy_xmu, 0.0]).collect()
    } else {
        group.sums([&channels.mean], inputs, |[mean], [x, g]| [g, g * (x - mean), x - mean])
    };
    let m = group.m() as f64;
    let Channels { mut mean, inv_std, scale, beta } = channels;
    match statistics {
        Statistics::Running { .. } => {
            group.map([&mean, &scale, &beta], inputs, dx, |p @ [_, scale, _], [x, dy]| scale * g(p, x, dy));
            sums.iter().zip(inv_std).map(|([sum_dy, sum_dy_xmu, _], inv_std)| [sum_dy_xmu * inv_std, *sum_dy]).collect()
        }
        Statistics::Batch { .. } => {
            let given = mean.clone();
            add_rests::<T>(&mut mean, sums.iter().map(|[.., sum_xmu]| sum_xmu / m));
            let moved = mean.iter().zip(given).map(|(mean, given)| mean - given);
            let of_channel = |(([sum_dy, sum_dy_xmu, _], moved), inv_std): ((&[f64; 3], f64), &f64)| {
                [(sum_dy_xmu - moved * sum_dy) * inv_std, *sum_dy]
            };
            let of_channels: Vec<[f64; 2]> = sums.iter().zip(moved).zip(&inv_std).map(of_channel).collect();
            let mean_g: Vec<f64> = of_channels.iter().map(|[_, dbeta]| dbeta / m).collect();
            let slope: Vec<f64> =
                of_channels.iter().zip(&inv_std).map(|([dgamma, _], inv_std)| inv_std * (dgamma / m)).collect();
            let parameters = [&mean, &scale, &beta, &mean_g, &slope].map(|of_channels| &of_channels[..]);
            group.map(parameters, inputs, dx, |[mean, scale, beta, mean_g, slope], [x, dy]| {
                scale * (g([mean, scale, beta], x, dy) - mean_g - (x - mean) * slope)
            });
            of_channels
        }
    }
}

/// Adds to each mean the rest that its rounding took away, found as the mean of `x - mean`.
///
/// More than a rounding is no rest: the caller gave the statistics of something else, and they are taken as given.
fn add_rests<T: Lane>(means: &mut [f64], rests: impl Iterator<Item = f64>) {
    let ulp = 2.0 * <T::Param as Element>::DTYPE.unit_roundoff();
    for (mean, rest) in means.iter_mut().zip(rests) {
        if rest.abs() <= ulp * mean.abs() {
            *mean += rest;
        }
    }
}

//! The backward passes.

use rayon::prelude::*;

use super::Cpu;
use super::forward::{Channels, normalized, passes};
use super::sweep::{channel_sums, map};
use crate::{Element, Epilogue, Gradients, Shape};

/// Elements to a task of a plain copy.
const PIECE: usize = 16 * 1024;

/// Which statistics normalized: those of the batch, on which `dx` depends through `x`, or constants.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Statistics {
    Batch,
    Frozen,
}

/// The mean of each channel, from the rounded one: the rest is found again as the mean of `x - saved_mean`.
///
/// More than a rounding is no rest: the caller gave the statistics of something else, and they are taken as given.
pub(super) fn unrounded_means<T: Element>(shape: Shape, x: &[T], saved_mean: &[T::Param]) -> Vec<f64> {
    let m = shape.m() as f64;
    let saved: Vec<f64> = saved_mean.iter().map(|mean| mean.to_f64()).collect();
    let sums = channel_sums(shape, [&saved], [x], |[saved], [x]| [x - saved]);
    let ulp = 2.0 * <T::Param as Element>::DTYPE.unit_roundoff();
    let is_rest = |rest: f64, saved: f64| rest.abs() <= ulp * saved.abs();
    let unrounded = |(&saved, [sum]): (&f64, [f64; 1])| match sum / m {
        rest if is_rest(rest, saved) => saved + rest,
        _ => saved,
    };
    saved.iter().zip(sums).map(unrounded).collect()
}

/// Writes the residual's gradient `dz = g`, for the epilogues that have one.
fn residual_gradient<T: Element>(dy: &[T], epilogue: &mut Epilogue<&mut [T]>, relu_mask: Option<&[u32]>) {
    match epilogue {
        Epilogue::Add(dz) => {
            dz.par_chunks_mut(PIECE).zip(dy.par_chunks(PIECE)).for_each(|(dz, dy)| dz.copy_from_slice(dy));
        }
        Epilogue::AddRelu(dz) => {
            let words = relu_mask.unwrap_or_default(); // Problem saw to it that there is one.
            let values = dz.par_chunks_mut(32).zip(dy.par_chunks(32)).with_min_len(512);
            values.zip(words).for_each(|((dz, dy), word)| {
                for (bit, (dz, &dy)) in dz.iter_mut().zip(dy).enumerate() {
                    *dz = if word >> bit & 1 == 1 { dy } else { T::default() };
                }
            });
        }
        Epilogue::Identity | Epilogue::Relu => {}
    }
}

/// Writes the gradients of a checked problem whose channels were normalized by these.
pub(super) fn gradients<T: Element>(
    shape: Shape,
    statistics: Statistics,
    channels: &Channels,
    [x, dy]: [&[T]; 2],
    mut epilogue: Epilogue<&mut [T]>,
    relu_mask: Option<&[u32]>,
    gradients: Gradients<'_, Cpu, T>,
) {
    residual_gradient(dy, &mut epilogue, relu_mask);
    let (dy, epilogue) = match epilogue {
        Epilogue::AddRelu(g) => (&*g, Epilogue::AddRelu(())),
        other => (dy, other.kind()),
    };
    if epilogue == Epilogue::Relu {
        gradients_of_g::<T, true>(shape, statistics, channels, [x, dy], gradients);
    } else {
        gradients_of_g::<T, false>(shape, statistics, channels, [x, dy], gradients);
    }
}

/// The gradients from `g`, or with `RELU` from `dy`, whose mask is then computed again from `x`.
fn gradients_of_g<T: Element, const RELU: bool>(
    shape: Shape,
    statistics: Statistics,
    channels: &Channels,
    inputs: [&[T]; 2],
    gradients: Gradients<'_, Cpu, T>,
) {
    let g = |parameters: [f64; 3], x: f64, dy: f64| {
        if !RELU || passes(T::from_f64(normalized(parameters, x))) { dy } else { 0.0 }
    };
    let [mean, scale, beta] = channels.parameters();
    let sums = channel_sums(shape, [mean, scale, beta], inputs, |p @ [mean, ..], [x, dy]| {
        let g = g(p, x, dy);
        [g, g * (x - mean)]
    });
    let inv_std = &channels.inv_std;
    let dbeta: Vec<f64> = sums.iter().map(|[sum_dy, _]| *sum_dy).collect();
    let dgamma: Vec<f64> = sums.iter().zip(inv_std).map(|([_, sum_dy_xmu], inv_std)| sum_dy_xmu * inv_std).collect();

    let m = shape.m() as f64;
    match statistics {
        Statistics::Batch => {
            let parameters = [mean, scale, beta, inv_std, &dgamma, &dbeta];
            map(shape, parameters, inputs, gradients.dx, |[mean, scale, beta, inv_std, dgamma, dbeta], [x, dy]| {
                let x_hat = (x - mean) * inv_std;
                scale * (g([mean, scale, beta], x, dy) - dbeta / m - x_hat * (dgamma / m))
            });
        }
        Statistics::Frozen => {
            map(shape, [mean, scale, beta], inputs, gradients.dx, |p @ [_, scale, _], [x, dy]| scale * g(p, x, dy));
        }
    }
    for (out, dgamma) in gradients.dgamma.into_iter().flatten().zip(dgamma) {
        *out = Element::from_f64(dgamma);
    }
    for (out, dbeta) in gradients.dbeta.into_iter().flatten().zip(dbeta) {
        *out = Element::from_f64(dbeta);
    }
}

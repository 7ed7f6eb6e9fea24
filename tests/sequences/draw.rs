//! Random layers, shapes and values.

use batchnorm::{
    Element, Layout, Momentum, NonFinite, Options, Param, Running, RunningVar, Shape, StateDict, Tracking,
};
use fastrand::Rng;

/// A layer's options.
pub(crate) fn options(rng: &mut Rng) -> Options {
    let momenta = [0.0, 0.1, 0.5, 1.0].map(Momentum::Ema);
    let tracking = Tracking {
        momentum: if rng.u8(..4) == 0 { Momentum::Cumulative } else { rng.choice(momenta).unwrap() },
        variance: if rng.bool() { RunningVar::Unbiased } else { RunningVar::Biased },
        non_finite: if rng.bool() { NonFinite::Propagate } else { NonFinite::Skip },
    };
    Options {
        eps: rng.choice([1e-5, 1e-3, 0.25, 0.0]).unwrap(),
        gamma: rng.u8(..5) != 0,
        beta: rng.u8(..5) != 0,
        tracking: (rng.u8(..8) != 0).then_some(tracking),
    }
}

/// A small shape of `c` channels, now and then of one value a channel or of none.
pub(crate) fn shape(rng: &mut Rng, c: usize) -> Shape {
    let layout = if rng.bool() { Layout::ChannelsFirst } else { Layout::ChannelsLast };
    let mut n = rng.usize(1..12);
    let mut spatial: Vec<usize> = (0..rng.usize(..=3)).map(|_| rng.usize(1..6)).collect();
    match rng.u8(..16) {
        0 => n = 0,
        1 => (n, spatial) = (1, vec![1; spatial.len()]),
        _ => {}
    }
    let dims = match layout {
        Layout::ChannelsFirst => [&[n, c], &spatial[..]].concat(),
        Layout::ChannelsLast => [&[n], &spatial[..], &[c]].concat(),
    };
    Shape::new(&dims, layout).unwrap()
}

/// The shape with each batch up to its own.
pub(crate) fn smaller_batches(most: Shape) -> Vec<Shape> {
    let of = |n: usize| Shape::new(&[&[n], &most.dims()[1..]].concat(), most.layout()).unwrap();
    (0..=most.n()).map(of).collect()
}

/// One of [`smaller_batches`].
pub(crate) fn smaller(rng: &mut Rng, most: Shape) -> Shape {
    rng.choice(smaller_batches(most)).unwrap()
}

/// Values that a half type can hold with room for what is made of them.
pub(crate) fn data<T: Element>(rng: &mut Rng, len: usize) -> Vec<T> {
    let kind = rng.u8(..12);
    let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    let (at, offset) = (rng.usize(..len.max(1)), rng.f64() * 8.0 - 4.0);
    let value = |index: usize, rng: &mut Rng| match kind {
        0 => offset,
        1 if index == at => rng.choice(special).unwrap(),
        2 if rng.u8(..8) == 0 => rng.choice(special).unwrap(),
        3 => 20.0 + rng.f64(),
        4 if index == 0 => 100.0,
        _ => offset + (rng.f64() + rng.f64() + rng.f64()) * 2.0 - 3.0,
    };
    (0..len).map(|index| T::from_f64(value(index, rng))).collect()
}

/// [`data`] that is finite.
pub(crate) fn gradient<T: Element>(rng: &mut Rng, len: usize) -> Vec<T> {
    (0..len).map(|_| T::from_f64(rng.f64() * 4.0 - 2.0)).collect()
}

/// A state of a layer of these options.
pub(crate) fn state<P: Param>(rng: &mut Rng, c: usize, options: &Options) -> StateDict<P> {
    let mut vector =
        |low: f64, high: f64| (0..c).map(|_| P::from_f64(low + (high - low) * rng.f64())).collect::<Vec<_>>();
    let (gamma, beta) = (vector(-2.0, 2.0), vector(-1.0, 1.0));
    let (mean, mut var) = (vector(-3.0, 3.0), vector(0.1, 4.0));
    if rng.u8(..4) == 0 {
        let special = [0.0, -0.0, -1.0, f64::NAN, f64::INFINITY];
        var[rng.usize(..c)] = P::from_f64(rng.choice(special).unwrap());
    }
    let num_batches_tracked = rng.choice([0, 1, 41, i64::MAX - 1, i64::MAX]).unwrap();
    StateDict {
        gamma: options.gamma.then_some(gamma),
        beta: options.beta.then_some(beta),
        running: options.tracking.map(|_| Running { mean, var, num_batches_tracked }),
    }
}

//! The formulas, each compiled for every pair of an element and the type that it is computed in, and for every level.

use fearless_simd::Simd;

use super::columns::{map, sum};
use super::convert::Convert;
use super::grid::{Grid, Parameters};
use super::level::{baseline, by_level, level};
use super::vector::{PerLane, Real, Vector};

/// Where a `v` leaves the range in which relu or relu6 keep it: at most the first, or at least the second. NaN is no bound.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Bounds {
    /// `v`, but the bound that it has reached.
    #[inline(always)]
    fn bounded<S: Simd, V: Vector<S>>(self, simd: S, v: V) -> V {
        let [low, high] = [V::splat(simd, self.low), V::splat(simd, self.high)];
        v.select_at_most(low, low, high.select_at_most(v, high, v))
    }

    /// `dy` where `v` has reached none of them, else 0.
    #[inline(always)]
    fn gradient<S: Simd, V: Vector<S>>(self, simd: S, v: V, dy: V) -> V {
        let [low, high, zero] = [V::splat(simd, self.low), V::splat(simd, self.high), V::splat(simd, 0.0)];
        v.select_at_most(low, zero, high.select_at_most(v, zero, dy))
    }
}

/// `v = distance * scale + shift`, by the parameters mean, scale and shift.
#[inline(always)]
fn argument<S: Simd, V: Vector<S>, const Q: usize>(_: S, parameters: &[V; Q], distance: V) -> V {
    distance * parameters[1] + parameters[2]
}

/// [`by_level!`] for a pair of types.
macro_rules! by_level_of {
    ($T:ident, $R:ident, $simd:ident => $result:expr) => {
        // The branch that is not taken is not compiled either.
        if <$T as Convert<$R>>::IS_RARE {
            let $simd = baseline(level());
            $simd.vectorize(#[inline(always)] || $result)
        } else {
            by_level!($simd => $result)
        }
    };
}

/// Adds `x - pivot` and its square. At every level for every pair of types: channels of few values are summed in f64.
pub(super) fn sum_squares<T: Convert<R>, R: Real>(
    grid: Grid,
    pivot: Parameters<'_, 1, R>,
    x: &[T],
    sums: &mut [[PerLane<f64>; 2]],
) {
    by_level!(simd => sum(simd, grid, pivot, [x], sums, #[inline(always)] |p, [x]| {
        let d = x - p[0];
        [d, d * d]
    }));
}

/// Adds `g`, `g * (x - mean)` and `x - mean`, by mean, scale and shift.
pub(super) fn sum_products<T: Convert<R>, R: Real>(
    grid: Grid,
    parameters: Parameters<'_, 3, R>,
    bounds: Option<Bounds>,
    inputs: [&[T]; 2],
    sums: &mut [[PerLane<f64>; 3]],
) {
    match bounds {
        None => by_level_of!(T, R, simd => sum(simd, grid, parameters, inputs, sums, #[inline(always)] |p, [x, g]| {
            let d = x - p[0];
            [g, g * d, d]
        })),
        Some(bounds) => {
            by_level_of!(T, R, simd => sum(simd, grid, parameters, inputs, sums, #[inline(always)] |p, [x, dy]| {
                let d = x - p[0];
                let g = bounds.gradient(simd, argument(simd, p, d), dy);
                [g, g * d, d]
            }));
        }
    }
}

/// `v = (x - mean) * scale + shift`, by these, and `y` between the bounds that an activation has.
pub(super) fn normalize<T: Convert<R>, R: Real>(
    grid: Grid,
    parameters: Parameters<'_, 3, R>,
    bounds: Option<Bounds>,
    x: &[T],
    z: Option<&[T]>,
    y: &mut [T],
) {
    match (bounds, z) {
        (None, None) => by_level_of!(T, R, simd => map(simd, grid, parameters, [x], y, #[inline(always)] |p, [x]| {
            argument(simd, p, x - p[0])
        })),
        (None, Some(z)) => {
            by_level_of!(T, R, simd => map(simd, grid, parameters, [x, z], y, #[inline(always)] |p, [x, z]| {
                argument(simd, p, x - p[0]) + z
            }));
        }
        (Some(bounds), None) => {
            by_level_of!(T, R, simd => map(simd, grid, parameters, [x], y, #[inline(always)] |p, [x]| {
                bounds.bounded(simd, argument(simd, p, x - p[0]))
            }));
        }
        (Some(bounds), Some(z)) => {
            by_level_of!(T, R, simd => map(simd, grid, parameters, [x, z], y, #[inline(always)] |p, [x, z]| {
                bounds.bounded(simd, argument(simd, p, x - p[0]) + z)
            }));
        }
    }
}

/// `dx = scale * (g - mean_dy - (x - mean) * proj)`, by mean, scale, shift, `mean_dy` and `proj`.
pub(super) fn input_gradient<T: Convert<R>, R: Real>(
    grid: Grid,
    parameters: Parameters<'_, 5, R>,
    bounds: Option<Bounds>,
    inputs: [&[T]; 2],
    dx: &mut [T],
) {
    match bounds {
        None => by_level_of!(T, R, simd => map(simd, grid, parameters, inputs, dx, #[inline(always)] |p, [x, g]| {
            p[1] * ((g - p[3]) - (x - p[0]) * p[4])
        })),
        Some(bounds) => {
            by_level_of!(T, R, simd => map(simd, grid, parameters, inputs, dx, #[inline(always)] |p, [x, dy]| {
                let d = x - p[0];
                let g = bounds.gradient(simd, argument(simd, p, d), dy);
                p[1] * ((g - p[3]) - d * p[4])
            }));
        }
    }
}

/// `dx = scale * g`, by mean, scale and shift.
pub(super) fn scale<T: Convert<R>, R: Real>(
    grid: Grid,
    parameters: Parameters<'_, 3, R>,
    bounds: Option<Bounds>,
    [x, dy]: [&[T]; 2],
    dx: &mut [T],
) {
    match bounds {
        None => by_level_of!(T, R, simd => map(simd, grid, parameters, [dy], dx, #[inline(always)] |p, [g]| p[1] * g)),
        Some(bounds) => {
            by_level_of!(T, R, simd => map(simd, grid, parameters, [x, dy], dx, #[inline(always)] |p, [x, dy]| {
                p[1] * bounds.gradient(simd, argument(simd, p, x - p[0]), dy)
            }));
        }
    }
}

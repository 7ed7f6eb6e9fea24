//! The activations with their derivatives, over the values of a tile.

use fearless_simd::Simd;

use super::convert::{largest_zero, least_six};
use super::formulas::Bounds;
use super::level::by_level;
use super::tile::Tile;
use super::vector::{PerLane, Real, Vector};
use crate::element::Dtype;
use crate::op::Activation;

/// The way that an activation of values of some dtype is computed.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Within the formula: identity, relu and relu6, by the bounds of `y`, and by those of the `v` whose gradients pass.
    Bounded { y: Option<Bounds>, passing: Option<Bounds> },
    /// A tile at a time.
    Smooth(Smooth),
}

impl Kind {
    pub(super) fn of(activation: Activation, dtype: Dtype) -> Self {
        // Where the derivative jumps, by the y that was stored.
        let (zero, six) = (largest_zero(dtype), least_six(dtype));
        let bounded = |high: f64, six: f64| {
            let (y, passing) = (Bounds { low: 0.0, high }, Bounds { low: zero, high: six });
            Self::Bounded { y: Some(y), passing: Some(passing) }
        };
        match activation {
            Activation::Identity => Self::Bounded { y: None, passing: None },
            Activation::Relu => bounded(f64::NAN, f64::NAN),
            Activation::Relu6 => bounded(6.0, six),
            Activation::Silu => Self::Smooth(Smooth::Silu),
            Activation::Hardswish => Self::Smooth(Smooth::Hardswish),
        }
    }
}

/// An activation whose derivative takes more values than 0 and 1.
#[derive(Clone, Copy)]
pub(super) enum Smooth {
    Silu,
    Hardswish,
}

impl Smooth {
    /// Puts `activation(v)` into the place of the first `len` values `v`, and perhaps of some behind them.
    pub(super) fn apply<R: Real>(self, v: &mut Tile<R>, len: usize) {
        match self {
            Self::Silu => by_level!(simd => each(simd, v, len, silu)),
            Self::Hardswish => by_level!(simd => each(simd, v, len, hardswish)),
        }
    }

    /// Puts `g = dy * activation'(v)` into the place of the first `len` values `dy`, and perhaps of some behind them.
    pub(super) fn gradient<R: Real>(self, v: &Tile<R>, dy: &mut Tile<R>, len: usize) {
        match self {
            Self::Silu => by_level!(simd => each_pair(simd, v, dy, len, silu_gradient)),
            Self::Hardswish => by_level!(simd => each_pair(simd, v, dy, len, hardswish_gradient)),
        }
    }
}

/// The vectors that hold the first `len` values.
#[inline(always)]
fn vectors<R: Real>(tile: &mut Tile<R>, len: usize) -> &mut [PerLane<R>] {
    let (vectors, _) = tile.0.as_chunks_mut();
    let count = len.div_ceil(vectors[0].len()).min(vectors.len());
    &mut vectors[..count]
}

#[inline(always)]
fn each<S: Simd, R: Real>(simd: S, v: &mut Tile<R>, len: usize, f: impl Fn(S, R::Vector<S>) -> R::Vector<S>) {
    for v in vectors(v, len) {
        f(simd, Vector::load(simd, v)).store(v);
    }
}

#[inline(always)]
fn each_pair<S: Simd, R: Real>(
    simd: S,
    a: &Tile<R>,
    b: &mut Tile<R>,
    len: usize,
    f: impl Fn(S, R::Vector<S>, R::Vector<S>) -> R::Vector<S>,
) {
    for (a, b) in a.0.as_chunks().0.iter().zip(vectors(b, len)) {
        f(simd, Vector::load(simd, a), Vector::load(simd, b)).store(b);
    }
}

/// `exp(-|v|)`, and 0 where that is hardly a normal number; something for NaN.
///
/// Not the system's, which takes other instructions on other processors, and is no vector code. `|v| = -n ln(2) - r`, and `exp(r)` by
/// its Taylor series.
#[inline(always)]
fn exp_of_minus_abs<S: Simd, V: Vector<S>>(simd: S, v: V) -> V {
    const INVERSE_FACTORIALS: [f64; 14] = {
        let (mut of, mut i) = ([1.0; 14], 1);
        while i < 14 {
            of[i] = of[i - 1] / i as f64;
            i += 1;
        }
        of
    };
    // The sum with it is rounded to a whole number, which its last bits are.
    let round = V::splat(simd, 1.5 * (1u64 << V::Real::FRACTION_BITS) as f64);
    let abs = v.magnitude();
    let shifted = round - abs * V::splat(simd, core::f64::consts::LOG2_E);
    let n = shifted - round;
    let [high, low] = V::Real::LN_2;
    let r = (V::splat(simd, 0.0) - (abs + n * V::splat(simd, high))) - n * V::splat(simd, low);
    let terms = &INVERSE_FACTORIALS[..V::Real::EXP_TERMS];
    let mut exp_of_r = V::splat(simd, terms[terms.len() - 1]);
    for term in terms[..terms.len() - 1].iter().rev() {
        exp_of_r = exp_of_r * r + V::splat(simd, *term);
    }
    abs.select_at_most(V::splat(simd, V::Real::EXP_LIMIT), exp_of_r.times_two_to(shifted), V::splat(simd, 0.0))
}

/// `[sigmoid(v), sigmoid(-v)]`: their sum is 1, and neither loses digits.
#[inline(always)]
fn sigmoids<S: Simd, V: Vector<S>>(simd: S, v: V) -> [V; 2] {
    let (zero, one) = (V::splat(simd, 0.0), V::splat(simd, 1.0));
    let exp = exp_of_minus_abs(simd, v);
    let large = one / (one + exp);
    let small = exp * large;
    [zero.select_at_most(v, large, small), zero.select_at_most(v, small, large)]
}

/// `v * sigmoid(v)`
#[inline(always)]
fn silu<S: Simd, V: Vector<S>>(simd: S, v: V) -> V {
    v * sigmoids(simd, v)[0]
}

#[inline(always)]
fn silu_gradient<S: Simd, V: Vector<S>>(simd: S, v: V, dy: V) -> V {
    let [sigmoid, rest] = sigmoids(simd, v);
    dy * (sigmoid * (V::splat(simd, 1.0) + v * rest))
}

/// `v * min(max(v + 3, 0), 6) / 6`
#[inline(always)]
fn hardswish<S: Simd, V: Vector<S>>(simd: S, v: V) -> V {
    let (zero, six, above) = (V::splat(simd, 0.0), V::splat(simd, 6.0), v + V::splat(simd, 3.0));
    let between = above.select_at_most(zero, zero, six.select_at_most(above, six, above));
    v * (between * V::splat(simd, 1.0 / 6.0))
}

#[inline(always)]
fn hardswish_gradient<S: Simd, V: Vector<S>>(simd: S, v: V, dy: V) -> V {
    let between = dy * (v * V::splat(simd, 1.0 / 3.0) + V::splat(simd, 0.5));
    let below_three = V::splat(simd, 3.0).select_at_most(v, dy, between);
    v.select_at_most(V::splat(simd, -3.0), V::splat(simd, 0.0), below_three)
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::super::convert::Convert;
    use super::super::formulas::scale;
    use super::super::grid::{Grid, Parameters};
    use super::*;
    use crate::element::Element;

    fn applied<R: Real>(activation: Smooth, v: f64) -> f64 {
        let mut tile = Tile::<R>::new();
        tile.0[0] = R::from_f64(v);
        activation.apply(&mut tile, 1);
        tile.0[0].to_f64()
    }

    fn derivative<R: Real>(activation: Smooth, v: f64, dy: f64) -> f64 {
        let (mut of_v, mut of_dy) = (Tile::<R>::new(), Tile::<R>::new());
        (of_v.0[0], of_dy.0[0]) = (R::from_f64(v), R::from_f64(dy));
        activation.gradient(&of_v, &mut of_dy, 1);
        of_dy.0[0].to_f64()
    }

    /// The gradient of `dy` through an activation that the formulas have, by the kernel of `dx = scale * g` with a scale of 1.
    fn passed<T: Element, R: Real + Convert<R>>(activation: Activation, v: f64, dy: f64) -> f64 {
        let Kind::Bounded { passing, .. } = Kind::of(activation, T::DTYPE) else { panic!("{activation:?}") };
        let grid = Grid { columns: 1, column_step: 1, rows: 1, row_step: 1, vectors: 1, last_lanes: 1 };
        let [zero, one, v, dy] = [0.0, 1.0, v, dy].map(R::from_f64);
        let (parameters, mut dx) = (Parameters::Splat([&[zero], &[one], &[zero]]), [zero]);
        scale(grid, parameters, passing, [&[v], &[dy]], &mut dx);
        dx[0].to_f64()
    }

    /// f32 around 6, ties of each dtype among them, and what only f64 can tell from them; and around 0.
    #[test]
    fn relu_and_relu6_let_a_gradient_pass_by_the_y_that_is_stored() {
        fn check<T: Element, R: Real + Convert<R>>() {
            let steps = (0..20).flat_map(|i| [(1 << i) - 1, 1 << i, (1 << i) + 1]);
            let around = |bits: u32| steps.clone().flat_map(move |step| [bits.wrapping_sub(step), bits + step]);
            for bits in around(6f32.to_bits()).chain(around(0x3300_0000)).chain(around(1 << 15)).chain(0..9) {
                let v = f64::from(f32::from_bits(bits));
                for v in [v, v * (1.0 - f64::EPSILON), v * (1.0 + f64::EPSILON)] {
                    let v = R::from_f64(v).to_f64();
                    let y = T::from_f64(v).to_f64();
                    let passes = |is_within: bool| if is_within { 2.5 } else { 0.0 };
                    let got = |activation| passed::<T, R>(activation, v, 2.5);
                    assert_eq!(got(Activation::Relu6), passes(y.is_nan() || y > 0.0 && y < 6.0), "{}: {v:e}", T::DTYPE);
                    assert_eq!(got(Activation::Relu), passes(y > 0.0 || y.is_nan()), "{}: {v:e}", T::DTYPE);
                }
            }
            assert_eq!(passed::<T, R>(Activation::Relu6, f64::NAN, 2.5), 2.5);
            assert_eq!(passed::<T, R>(Activation::Relu, f64::INFINITY, 2.5), 2.5);
        }
        check::<f32, f64>();
        check::<f16, f64>();
        check::<f16, f32>();
        check::<bf16, f64>();
        check::<bf16, f32>();
        check::<f64, f64>();
    }

    #[test]
    fn hardswish_keeps_nan_and_its_limits() {
        fn check<R: Real>(large: f64) {
            let at = |v| {
                let of = Smooth::Hardswish;
                (applied::<R>(of, v), derivative::<R>(of, v, 1.0))
            };
            let large = R::from_f64(large).to_f64();
            assert_eq!([-large, -3.0, 3.0, large].map(at), [(0.0, 0.0), (0.0, 0.0), (3.0, 1.0), (large, 1.0)]);
            assert_eq!(at(0.0), (0.0, 0.5));
            assert!(at(f64::NAN).0.is_nan() && at(f64::NAN).1.is_nan() && at(f64::NEG_INFINITY).0.is_nan());
        }
        check::<f64>(1e300);
        check::<f32>(1e38);
    }

    #[test]
    fn exp_is_within_two_units_of_the_systems() {
        fn check<R: Real>(unit: f64) {
            let steps = (0..=100_000).map(|i| f64::from(i) * R::EXP_LIMIT / 100_000.0);
            let small = (0..1000).map(|i| 2f64.powf(-f64::from(i) / 10.0));
            let exp = |v: f64| {
                let mut tile = Tile::<R>::new();
                tile.0[0] = R::from_f64(v);
                by_level!(simd => each(simd, &mut tile, 1, exp_of_minus_abs));
                tile.0[0].to_f64()
            };
            for v in steps.chain(small).chain([0.0, 5e-324]) {
                let v = R::from_f64(v).to_f64();
                let (want, got) = ((-v).exp(), exp(v));
                assert!((got - want).abs() <= 2.0 * unit * want, "{v:e}: {got:e} for {want:e}");
                assert_eq!(exp(-v).to_bits(), got.to_bits());
            }
            for v in [R::EXP_LIMIT + 0.1, 745.0, 1e300, f64::INFINITY] {
                assert_eq!(exp(v), 0.0);
            }
        }
        check::<f64>(f64::EPSILON);
        check::<f32>(f64::from(f32::EPSILON));
    }

    #[test]
    fn silu_keeps_nan_and_its_limits() {
        fn check<R: Real>(large: f64) {
            let (large, silu) = (R::from_f64(large).to_f64(), |v| applied::<R>(Smooth::Silu, v));
            let slope = |v| derivative::<R>(Smooth::Silu, v, 1.0);
            assert_eq!((silu(0.0), silu(large), silu(f64::INFINITY)), (0.0, large, f64::INFINITY));
            assert_eq!(silu(-large).to_bits(), (-0f64).to_bits());
            assert!([f64::NAN, -f64::NAN, f64::NEG_INFINITY].into_iter().all(|v| silu(v).is_nan()));
            assert!(slope(f64::NAN).is_nan());
            assert_eq!([0.0, 800.0, -800.0].map(slope), [0.5, 1.0, 0.0]);
        }
        check::<f64>(1e300);
        check::<f32>(1e38);
    }
}

//! The activations with their derivatives: a type each. Those that most networks have are compiled into the loops that they end.

use multiversion::multiversion;

use super::convert::SimdElement;
use super::lanes::PerLane;
use crate::op::Activation;

/// An activation.
pub(super) trait Function: Sync {
    /// Whether the derivative depends on `v`.
    const DERIVATIVE_READS_V: bool = true;

    /// `activation(v)`
    fn apply(v: f64) -> f64;

    /// `dy * activation'(v)`. Where that of relu or relu6 jumps, by the `y` that was stored.
    fn gradient<T: SimdElement>(v: f64, dy: f64) -> f64;
}

/// `v`
pub(super) struct Identity;

impl Function for Identity {
    const DERIVATIVE_READS_V: bool = false;

    #[inline(always)]
    fn apply(v: f64) -> f64 {
        v
    }
    #[inline(always)]
    fn gradient<T: SimdElement>(_: f64, dy: f64) -> f64 {
        dy
    }
}

/// Whether relu lets a gradient pass: where its value is more than 0 once it is stored, or NaN.
#[inline(always)]
pub(super) fn relu_passes<T: SimdElement>(v: f64) -> bool {
    !T::rounds_to_at_most_zero(v)
}

/// `max(v, 0)` that keeps NaN.
pub(super) struct Relu;

impl Function for Relu {
    #[inline(always)]
    fn apply(v: f64) -> f64 {
        if v <= 0.0 { 0.0 } else { v }
    }
    #[inline(always)]
    fn gradient<T: SimdElement>(v: f64, dy: f64) -> f64 {
        if relu_passes::<T>(v) { dy } else { 0.0 }
    }
}

/// Whether a value is 6 or more once it is an element: at most half a step below 6, whose tie goes to 6.
#[inline(always)]
fn rounds_to_at_least_six<T: SimdElement>(v: f64) -> bool {
    let v = if T::DTYPE.rounds_through_f32() { f64::from(v as f32) } else { v };
    v >= 6.0 - 4.0 * T::DTYPE.unit_roundoff()
}

/// `min(max(v, 0), 6)` that keeps NaN.
pub(super) struct Relu6;

impl Function for Relu6 {
    #[inline(always)]
    fn apply(v: f64) -> f64 {
        if v >= 6.0 { 6.0 } else { Relu::apply(v) }
    }
    #[inline(always)]
    fn gradient<T: SimdElement>(v: f64, dy: f64) -> f64 {
        if rounds_to_at_least_six::<T>(v) { 0.0 } else { Relu::gradient::<T>(v, dy) }
    }
}

/// `exp(-|v|)`, and 0 beyond 708, where it is hardly a normal number; something for NaN.
///
/// Not the system's, which takes other instructions on other processors, and is no vector code. `|v| = -n ln(2) - r`, and `exp(r)` by
/// its Taylor series, of which the first term left out is `2^-57` at `|r| = ln(2)/2`.
#[inline(always)]
fn exp_of_minus_abs(v: f64) -> f64 {
    /// `1.5 * 2^52`: the sum with it is rounded to a whole number, which its last bits are.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    /// `ln(2)` in two parts. The first has 21 bits to spare, so that its product with n is exact.
    const LN_2: [f64; 2] = [f64::from_bits(0x3fe6_2e42_fee0_0000), 1.908_214_929_270_587_7e-10];
    const INVERSE_FACTORIALS: [f64; 14] = {
        let (mut of, mut i) = ([1.0; 14], 1);
        while i < 14 {
            of[i] = of[i - 1] / i as f64;
            i += 1;
        }
        of
    };
    let abs = v.abs();
    let shifted = ROUND - abs * core::f64::consts::LOG2_E;
    let n = shifted - ROUND;
    let r = (-abs - n * LN_2[0]) - n * LN_2[1];
    let mut exp_of_r = INVERSE_FACTORIALS[13];
    for term in INVERSE_FACTORIALS[..13].iter().rev() {
        exp_of_r = exp_of_r * r + term;
    }
    let exp = f64::from_bits(exp_of_r.to_bits().wrapping_add(shifted.to_bits() << 52));
    if abs > 708.0 { 0.0 } else { exp }
}

/// `[sigmoid(v), sigmoid(-v)]`: their sum is 1, and neither loses digits.
#[inline(always)]
fn sigmoids(v: f64) -> [f64; 2] {
    let exp = exp_of_minus_abs(v);
    let (large, small) = (1.0 / (1.0 + exp), exp / (1.0 + exp));
    if v >= 0.0 { [large, small] } else { [small, large] }
}

/// `v * sigmoid(v)`
pub(super) struct Silu;

impl Function for Silu {
    #[inline(always)]
    fn apply(v: f64) -> f64 {
        v * sigmoids(v)[0]
    }
    #[inline(always)]
    fn gradient<T: SimdElement>(v: f64, dy: f64) -> f64 {
        let [sigmoid, rest] = sigmoids(v);
        dy * (sigmoid * (1.0 + v * rest))
    }
}

/// `v * min(max(v + 3, 0), 6) / 6`
pub(super) struct Hardswish;

impl Function for Hardswish {
    #[inline(always)]
    fn apply(v: f64) -> f64 {
        v * ((v + 3.0).clamp(0.0, 6.0) / 6.0)
    }
    #[inline(always)]
    fn gradient<T: SimdElement>(v: f64, dy: f64) -> f64 {
        if v <= -3.0 {
            0.0
        } else if v >= 3.0 {
            dy
        } else {
            dy * (v / 3.0 + 0.5)
        }
    }
}

/// A function and its derivative over whole vectors, which loops over a tensor call: so that none is compiled for each of them.
#[derive(Clone, Copy)]
pub(super) struct VectorFunction {
    /// `activation(v)` in place of `v`.
    pub(super) apply: fn(&mut PerLane),
    /// `dy * activation'(v)` in place of `dy`.
    pub(super) gradient: fn(&PerLane, &mut PerLane),
}

impl VectorFunction {
    fn of<T: SimdElement, A: Function>() -> Self {
        Self { apply: apply_to_vector::<A>, gradient: gradient_of_vector::<T, A> }
    }
}

#[multiversion(targets("x86_64+avx2+f16c"))]
fn apply_to_vector<A: Function>(v: &mut PerLane) {
    for v in v {
        *v = A::apply(*v);
    }
}

#[multiversion(targets("x86_64+avx2+f16c"))]
fn gradient_of_vector<T: SimdElement, A: Function>(v: &PerLane, dy: &mut PerLane) {
    for (v, dy) in v.iter().zip(dy) {
        *dy = A::gradient::<T>(*v, *dy);
    }
}

/// The way that loops compute an activation.
pub(super) enum Kind {
    /// In each loop: [`Identity`].
    Identity,
    /// In each loop: [`Relu`].
    Relu,
    /// By a call for each vector.
    Vector(VectorFunction),
}

impl Kind {
    /// The way of an activation behind data of type `T`.
    pub(super) fn of<T: SimdElement>(activation: Activation) -> Self {
        match activation {
            Activation::Identity => Self::Identity,
            Activation::Relu => Self::Relu,
            Activation::Relu6 => Self::Vector(VectorFunction::of::<T, Relu6>()),
            Activation::Silu => Self::Vector(VectorFunction::of::<T, Silu>()),
            Activation::Hardswish => Self::Vector(VectorFunction::of::<T, Hardswish>()),
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    /// f32 around 6, ties of each dtype among them, and what only f64 can tell from them.
    #[test]
    fn relu6_lets_a_gradient_pass_by_the_y_that_is_stored() {
        fn check<T: SimdElement>() {
            let six = 6f32.to_bits();
            let steps = (0..20).flat_map(|i| [(1 << i) - 1, 1 << i, (1 << i) + 1]);
            for bits in steps.flat_map(|step| [six - step, six + step]) {
                let v = f64::from(f32::from_bits(bits));
                for v in [v, v * (1.0 - f64::EPSILON), v * (1.0 + f64::EPSILON)] {
                    let y = T::from_f64(v).to_f64();
                    let want = if y < 6.0 { 2.5 } else { 0.0 };
                    assert_eq!(Relu6::gradient::<T>(v, 2.5), want, "{}: {v:e}", T::DTYPE);
                }
            }
            assert_eq!(Relu6::gradient::<T>(f64::NAN, 2.5), 2.5);
        }
        check::<f32>();
        check::<f16>();
        check::<bf16>();
        check::<f64>();
    }

    #[test]
    fn hardswish_keeps_nan_and_its_limits() {
        let at = |v| (Hardswish::apply(v), Hardswish::gradient::<f32>(v, 1.0));
        assert_eq!([-1e300, -3.0, 3.0, 1e300].map(at), [(0.0, 0.0), (0.0, 0.0), (3.0, 1.0), (1e300, 1.0)]);
        assert_eq!(at(0.0), (0.0, 0.5));
        assert!(at(f64::NAN).0.is_nan() && at(f64::NAN).1.is_nan() && at(f64::NEG_INFINITY).0.is_nan());
    }

    #[test]
    fn exp_is_within_two_units_of_the_systems() {
        let steps = (0..=100_000).map(|i| f64::from(i) * 708.0 / 100_000.0);
        let small = (0..1000).map(|i| 2f64.powf(-f64::from(i) / 10.0));
        for v in steps.chain(small).chain([0.0, 5e-324]) {
            let (want, got) = ((-v).exp(), exp_of_minus_abs(v));
            assert!((got - want).abs() <= 2.0 * f64::EPSILON * want, "{v:e}: {got:e} for {want:e}");
            assert_eq!(exp_of_minus_abs(-v).to_bits(), got.to_bits());
        }
        for v in [708.1, 745.0, 1e300, f64::INFINITY] {
            assert_eq!(exp_of_minus_abs(v), 0.0);
        }
    }

    #[test]
    fn silu_keeps_nan_and_its_limits() {
        assert_eq!((Silu::apply(0.0), Silu::apply(1e300), Silu::apply(f64::INFINITY)), (0.0, 1e300, f64::INFINITY));
        assert_eq!(Silu::apply(-1e300).to_bits(), (-0f64).to_bits());
        assert!([f64::NAN, -f64::NAN, f64::NEG_INFINITY].into_iter().all(|v| Silu::apply(v).is_nan()));
        assert!(Silu::gradient::<f32>(f64::NAN, 1.0).is_nan());
        assert_eq!([0.0, 800.0, -800.0].map(|v| Silu::gradient::<f32>(v, 1.0)), [0.5, 1.0, 0.0]);
    }
}

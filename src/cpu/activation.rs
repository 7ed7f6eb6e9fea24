//! The activations with their derivatives: a type each, so that each is compiled into the loop that it ends.

use super::convert::SimdElement;

/// An activation.
pub(super) trait Function {
    /// Whether the derivative depends on `v`.
    const DERIVATIVE_READS_V: bool;

    /// `activation(v)`
    fn apply(v: f64) -> f64;

    /// `dy * activation'(v)`. Where the derivative jumps, by the `y` that was stored.
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
    const DERIVATIVE_READS_V: bool = true;

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
    const DERIVATIVE_READS_V: bool = true;

    #[inline(always)]
    fn apply(v: f64) -> f64 {
        if v >= 6.0 { 6.0 } else { Relu::apply(v) }
    }
    #[inline(always)]
    fn gradient<T: SimdElement>(v: f64, dy: f64) -> f64 {
        if rounds_to_at_least_six::<T>(v) { 0.0 } else { Relu::gradient::<T>(v, dy) }
    }
}

/// An expression over the type of an [`Activation`](crate::op::Activation): it is compiled once for each, under the name that
/// stands before `=>`.
macro_rules! with_activation {
    ($activation:expr, $A:ident => $run:expr) => {
        match $activation {
            $crate::op::Activation::Identity => {
                type $A = $crate::cpu::activation::Identity;
                $run
            }
            $crate::op::Activation::Relu => {
                type $A = $crate::cpu::activation::Relu;
                $run
            }
            $crate::op::Activation::Relu6 => {
                type $A = $crate::cpu::activation::Relu6;
                $run
            }
        }
    };
}

pub(super) use with_activation;

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
}

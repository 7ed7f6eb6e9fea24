//! The activations with their derivatives: a type each, so that each is compiled into the loop that it ends.

use super::convert::SimdElement;

/// An activation.
pub(super) trait Function {
    /// Whether the derivative depends on `v`.
    const DERIVATIVE_READS_V: bool;

    /// `activation(v)`
    fn apply(v: f64) -> f64;

    /// `dy * activation'(v)`, by the `y` that was stored.
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
        }
    };
}

pub(super) use with_activation;

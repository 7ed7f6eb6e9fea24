//! The activations and their derivatives in f64, as plainly as they can be written. Not the CPU reference's, as the rest of the
//! oracle.

use crate::element::Dtype;
use crate::op::Activation;

/// `activation(v)`
#[inline]
pub fn apply(activation: Activation, v: f64) -> f64 {
    match activation {
        Activation::Identity => v,
        Activation::Relu if v <= 0.0 => 0.0,
        Activation::Relu => v,
        Activation::Relu6 if v >= 6.0 => 6.0,
        Activation::Relu6 => apply(Activation::Relu, v),
        Activation::Silu => v * sigmoid(v),
        Activation::Hardswish => v * (v + 3.0).clamp(0.0, 6.0) / 6.0,
    }
}

/// `dy * activation'(v)`
#[inline]
pub fn gradient(activation: Activation, v: f64, dy: f64) -> f64 {
    match activation {
        Activation::Identity => dy,
        Activation::Relu if v <= 0.0 => 0.0,
        Activation::Relu6 if v <= 0.0 || v >= 6.0 => 0.0,
        Activation::Relu | Activation::Relu6 => dy,
        Activation::Silu => dy * sigmoid(v) * (1.0 + v * sigmoid(-v)),
        Activation::Hardswish if v <= -3.0 => 0.0,
        Activation::Hardswish if v >= 3.0 => dy,
        Activation::Hardswish => dy * (2.0 * v + 3.0) / 6.0,
    }
}

/// Whether a `v`, in a channel of this scale of y, is so close to a jump of the derivative that the value on either side is right: closer
/// than any arithmetic may be off, and where the derivative is that of the stored `y`, as that is rounded there. What single values
/// of `v` give at a jump is tests/cuda/special/activations.rs's matter.
pub fn is_close_to_jump(activation: Activation, y_scale: f64, dtype: Dtype) -> impl Fn(f64) -> bool {
    let rounding = match activation {
        Activation::Relu | Activation::Relu6 => dtype.unit_roundoff(),
        Activation::Identity | Activation::Silu | Activation::Hardswish => 0.0,
    };
    let close = 1e-4 * y_scale + 4.0 * dtype.min_subnormal();
    move |v| jumps(activation).iter().any(|jump| (v - jump).abs() <= close + rounding * jump.abs())
}

/// Where the derivative jumps.
pub(super) fn jumps(activation: Activation) -> &'static [f64] {
    match activation {
        Activation::Identity => &[],
        Activation::Relu => &[0.0],
        Activation::Relu6 => &[0.0, 6.0],
        Activation::Silu => &[],
        Activation::Hardswish => &[-3.0, 3.0],
    }
}

#[inline]
fn sigmoid(v: f64) -> f64 {
    1.0 / (1.0 + (-v).exp())
}

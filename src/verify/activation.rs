//! The activations and their derivatives in f64, as plainly as they can be written. Not the CPU reference's, as the rest of the
//! oracle.

use crate::op::Activation;

/// `activation(v)`
pub fn apply(activation: Activation, v: f64) -> f64 {
    match activation {
        Activation::Identity => v,
        Activation::Relu if v <= 0.0 => 0.0,
        Activation::Relu => v,
    }
}

/// `dy * activation'(v)`
pub fn gradient(activation: Activation, v: f64, dy: f64) -> f64 {
    match activation {
        Activation::Identity => dy,
        Activation::Relu if v <= 0.0 => 0.0,
        Activation::Relu => dy,
    }
}

/// Where the derivative jumps: close to there the value on either side is right.
pub fn jumps(activation: Activation) -> &'static [f64] {
    match activation {
        Activation::Identity => &[],
        Activation::Relu => &[0.0],
    }
}

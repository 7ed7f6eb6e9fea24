//! How far a result may be from the oracle, and why.
//!
//! A value passes where `!(|got - want| <= u * |want| + slack * scale + tiny)` is false, so that NaN never passes:
//!
//! | term | what it allows |
//! |---|---|
//! | `u * abs(want)` | the rounding of the output: half a unit in the last place of its dtype, a hair more for ties |
//! | `slack * scale` | the rounding of the arithmetic, as a share of the largest term that enters the value |
//! | `tiny` | one subnormal step of the output's dtype |
//!
//! With `kappa = |mean| / sqrt(var + eps)` and `m` values per channel:
//!
//! | arithmetic | slack | reason |
//! |---|---|---|
//! | f64 | `2^-53 * (16 + sqrt(m)) * (1 + kappa)` | a sum of `m` roundings walks at random; `x - mean` amplifies the mean's by kappa; 16 operations in the formula |
//! | f32 | `2^-24 * (16 + sqrt(m)) + 2^-44 * kappa` | the same in f32, but the mean is a pair of f32 and good to some 44 bits |
//! | mixed | `2^-22 + 2^-44 * kappa` | four operations in f32, or eight terms of a sum, which goes on in f64; the mean as above |
//!
//! A derivative that takes other values than 0 and 1 puts the error of `v`, and its own, into `g`: [`g_error`].
//!
//! A backward pass reads `saved_inv_std` as it was rounded, which enters `dx` and `dgamma` up to three times: their
//! slack has `4 * u` of the per-channel dtype on top. Nothing here is ever widened to make a result pass.

use crate::element::Dtype;
use crate::op::{Activation, Op};

/// The arithmetic of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// Double precision, as the CPU reference does.
    F64,
    /// Single precision with the mean as a pair, as a GPU does.
    F32,
    /// Single precision over half values and double precision over their sums, as the CPU reference does for f16 and bf16. So a `y` is
    /// within 0.501 units in the last place of the exact value where that is not far smaller than the terms that enter it.
    Mixed,
}

/// The share of its scale that the arithmetic may put into a value.
pub fn slack(arithmetic: Arithmetic, op: Op, param: Dtype, m: usize, kappa: f64) -> f64 {
    let roundings = 16.0 + (m as f64).sqrt();
    let of_arithmetic = match arithmetic {
        Arithmetic::F64 => Dtype::F64.unit_roundoff() * roundings * (1.0 + kappa),
        Arithmetic::F32 => Dtype::F32.unit_roundoff() * roundings + 2f64.powi(-44) * kappa,
        Arithmetic::Mixed => 4.0 * Dtype::F32.unit_roundoff() + 2f64.powi(-44) * kappa,
    };
    let reads_saved = op.is_backward() && op.needs_batch_statistics();
    let of_saved = if reads_saved { 4.0 * param.unit_roundoff() } else { 0.0 };
    of_arithmetic + of_saved
}

/// The error that roundings of subnormal values may put into a per-channel value, whatever its size.
pub fn floor(arithmetic: Arithmetic) -> f64 {
    match arithmetic {
        Arithmetic::F64 => 0.0, // far below one step of any output
        Arithmetic::F32 | Arithmetic::Mixed => 8.0 * Dtype::F32.min_subnormal(),
    }
}

/// The scale of a mean: its own size in f64; as a pair of f32 its high half is exact to rounding, and the rest small.
pub fn mean_scale(arithmetic: Arithmetic, mean: f64, sigma: f64) -> f64 {
    match arithmetic {
        Arithmetic::F64 => mean.abs() + sigma,
        Arithmetic::F32 | Arithmetic::Mixed => mean.abs() * 2f64.powi(-20) + sigma,
    }
}

/// The scale of a variance: its own size, and the square of what rounding may have put into the mean.
pub fn var_scale(mean: f64, var: f64) -> f64 {
    var + mean * mean * Dtype::F64.unit_roundoff()
}

/// The scale of `y`: the largest terms that enter it, by the channel's largest magnitudes of x̂, at least a tenth, and of z.
pub fn y_scale(gamma: f64, beta: f64, largest_x_hat: f64, largest_z: f64) -> f64 {
    gamma.abs() * largest_x_hat.max(0.1) + beta.abs() + largest_z
}

/// The scale of one `v` that a backward pass computes again, by its own x̂: the terms that enter it. Up to 16 sigmas f32 arithmetic
/// does not look for the mean's residual before it knows `v`: one rounding of the mean, where the slack has 16 and more, or four.
pub fn v_scale(arithmetic: Arithmetic, gamma: f64, beta: f64, x_hat: f64, kappa: f64) -> f64 {
    let of_mean = match arithmetic {
        Arithmetic::F32 if kappa < 16.5 => gamma.abs() * kappa / 16.0,
        Arithmetic::Mixed if kappa < 16.5 => gamma.abs() * kappa / 4.0,
        Arithmetic::F32 | Arithmetic::Mixed | Arithmetic::F64 => 0.0,
    };
    y_scale(gamma, beta, x_hat.abs(), 0.0) + of_mean
}

/// What the arithmetic may put into one `g`, as a share of `|dy|` and of the slack: by `v`, of this scale, as much as the derivative
/// changes with it there, and by the derivative's own roundings, of which every slack has more.
pub fn g_error(activation: Activation, v: f64, v_scale: f64) -> f64 {
    // The largest second derivative near v.
    let curvature = match activation {
        // 0 or 1. Where `v` decides between them either is right, and `dy` is 0 in the table.
        Activation::Identity | Activation::Relu | Activation::Relu6 => return 0.0,
        // At 0, from where it falls to 4e-8 at 20.
        Activation::Silu => {
            if v.abs() < 20.0 {
                0.5
            } else {
                0.0
            }
        }
        Activation::Hardswish => {
            if v.abs() < 3.0 {
                1.0 / 3.0
            } else {
                0.0
            }
        }
    };
    curvature * v_scale + 1.0
}

/// The scale of `dx`: the largest terms that enter it, by the channel's largest magnitudes of g and of x̂, at least one.
pub fn dx_scale(gamma_times_inv_std: f64, largest_g: f64, largest_x_hat: f64) -> f64 {
    gamma_times_inv_std.abs() * largest_g * largest_x_hat.max(1.0)
}

/// The scale of `dgamma`: the magnitudes of its terms, with an x̂ of a tenth on average at least; that of dbeta is the sum of |g|.
pub fn dgamma_scale(sum_of_g_x_hat: f64, dbeta_scale: f64) -> f64 {
    sum_of_g_x_hat.max(0.1 * dbeta_scale)
}

/// The error that the rounding of an output of this dtype may put into it, by the value wanted. What rounds through f32 rounds twice.
pub fn rounding(dtype: Dtype) -> impl Fn(f64) -> f64 {
    let twice = if dtype.rounds_through_f32() { Dtype::F32.unit_roundoff() } else { 0.0 };
    let (relative, smallest) = (dtype.unit_roundoff() * (1.0 + 1e-6) + twice, dtype.min_subnormal());
    move |want| relative * want.abs() + smallest
}

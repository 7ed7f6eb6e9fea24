//! The comparison of one tensor.

use batchnorm::Dtype;
use half::{bf16, f16};

/// A value that is too far off.
pub(crate) struct Miss {
    pub(crate) index: usize,
    pub(crate) got: f64,
    pub(crate) want: f64,
    pub(crate) allowed: f64,
}

/// The largest scaled error. NaN must be NaN, and what rounds to an infinity of `out` must be that infinity.
///
/// # Errors
/// The first value that is further off than `bar * scale`. A scale that is no number allows nothing.
pub(crate) fn compare(got: &[f64], want: &[f64], scale: &[f64], bar: f64, out: Dtype) -> Result<f64, Miss> {
    let mut largest = 0.0f64;
    for (index, ((&got, &want), &scale)) in got.iter().zip(want).zip(scale).enumerate() {
        let allowed = bar * scale;
        let rounded = round(out, want);
        let passes = if want.is_nan() {
            got.is_nan()
        } else if rounded.is_infinite() {
            got == rounded
        } else {
            let error = (got - want).abs();
            if error > 0.0 {
                largest = largest.max(error / scale);
            }
            // Written so that NaN fails.
            allowed.is_finite() && error <= allowed
        };
        if !passes {
            return Err(Miss { index, got, want, allowed });
        }
    }
    Ok(largest)
}

/// The nearest value of a dtype.
fn round(dtype: Dtype, value: f64) -> f64 {
    match dtype {
        Dtype::F32 => f64::from(value as f32),
        Dtype::F16 => f16::from_f64(value).to_f64(),
        Dtype::Bf16 => bf16::from_f64(value).to_f64(),
        Dtype::F64 => value,
    }
}

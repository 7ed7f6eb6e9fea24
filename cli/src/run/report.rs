//! The report of `run`, in words.

use core::fmt;
use std::time::Duration;

use batchnorm::tensors::TensorFile;
use batchnorm::{Backend, Element, Momentum, NonFinite, Param, RunningVar, Tracking};

use super::job::Job;

/// A computed operation: its output, not yet written, and what to say of it.
pub(crate) struct Done {
    pub(crate) file: TensorFile,
    pub(crate) lines: Vec<String>,
    /// The wall time of the computation, without reading and writing files.
    pub(crate) took: Duration,
}

/// The line of the operation and its tensors.
pub(crate) fn headline<B: Backend, T: Element>(job: &Job<'_, B, T>) -> String {
    let op = job.op.name();
    let (shape, dtype) = (job.shape, T::DTYPE);
    let (n, c, s, m) = (shape.n(), shape.c(), shape.s(), shape.m());
    format!("{op} of x {shape} {dtype}: n {n}, c {c}, s {s}, m {m} values per channel")
}

/// The line of the running statistics; `count` where they were tracked.
pub(crate) fn tracked(tracking: Tracking, count: Option<i64>) -> String {
    let Some(count) = count else {
        return "running statistics: not tracked, the input has none".into();
    };
    let momentum = match tracking.momentum {
        Momentum::Ema(momentum) => format!("momentum {momentum}"),
        Momentum::Cumulative => "the average of all batches".into(),
    };
    let variance = match tracking.variance {
        RunningVar::Unbiased => "unbiased variance",
        RunningVar::Biased => "biased variance",
    };
    let skip = match tracking.non_finite {
        NonFinite::Propagate => "",
        NonFinite::Skip => ", non-finite channels left as they were",
    };
    format!("running statistics: updated with {momentum}, {variance}{skip}; num_batches_tracked {count}")
}

/// The line of parameters and epilogue.
pub(crate) fn behind<B: Backend, T: Element>(job: &Job<'_, B, T>, gamma: bool, beta: bool) -> String {
    let given = |given| if given { "of the input" } else { "none" };
    format!("weight: {}, bias: {}, epilogue: {}", given(gamma), given(beta), job.epilogue.name())
}

/// The largest magnitude of the values; NaN where one is NaN.
pub(crate) fn largest<T: Element>(values: &[T]) -> Short {
    let largest = |max: f64, value: &T| {
        let value = value.to_f64().abs();
        if value.is_nan() || value > max { value } else { max }
    };
    Short(values.iter().fold(0.0, largest))
}

/// A number in a few digits.
pub(crate) struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.abs();
        if magnitude == 0.0 || (1e-3..1e5).contains(&magnitude) || !magnitude.is_finite() {
            write!(f, "{:.4}", self.0)
        } else {
            write!(f, "{:.2e}", self.0)
        }
    }
}

/// The spread of a tensor's channels: over those whose statistics are finite, and the number of the others.
pub(crate) struct Spread {
    largest_mean: f64,
    smallest_var: f64,
    largest_var: f64,
    channels: usize,
    non_finite: usize,
}

impl Spread {
    pub(crate) fn new<P: Param>(mean: &[P], var: &[P]) -> Self {
        let mut spread = Self {
            largest_mean: 0.0,
            smallest_var: f64::INFINITY,
            largest_var: 0.0,
            channels: mean.len(),
            non_finite: 0,
        };
        for (mean, var) in mean.iter().zip(var).map(|(mean, var)| (mean.to_f64(), var.to_f64())) {
            if mean.is_finite() && var.is_finite() {
                spread.largest_mean = spread.largest_mean.max(mean.abs());
                spread.smallest_var = spread.smallest_var.min(var);
                spread.largest_var = spread.largest_var.max(var);
            } else {
                spread.non_finite += 1;
            }
        }
        spread
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { channels, non_finite, .. } = self;
        if non_finite == channels {
            return write!(f, "no channel has a finite mean and variance");
        }
        let (mean, low, high) = (Short(self.largest_mean), Short(self.smallest_var), Short(self.largest_var));
        write!(f, "largest |mean| {mean}, variance {low} to {high}")?;
        if *non_finite > 0 {
            write!(f, ", channels without finite statistics: {non_finite}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_hides_no_channel() {
        let text = |mean: &[f64], var: &[f64]| Spread::new(mean, var).to_string();
        assert_eq!(text(&[-3.0, 2.0], &[0.5, 4.0]), "largest |mean| 3.0000, variance 0.5000 to 4.0000");
        let with_nan = text(&[1e-9, f64::NAN], &[0.0, 1.0]);
        assert_eq!(
            with_nan,
            "largest |mean| 1.00e-9, variance 0.0000 to 0.0000, channels without finite statistics: 1"
        );
        assert_eq!(text(&[f64::NAN], &[f64::NAN]), "no channel has a finite mean and variance");
        assert_eq!(largest(&[1.0, -7.5]).to_string(), "7.5000");
        assert_eq!(largest(&[f64::NAN, -7.5]).to_string(), "NaN");
    }
}

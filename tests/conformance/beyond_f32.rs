//! Results that f32 arithmetic cannot give: the cases by name, each with the reason and the result that policy gives instead.
//!
//! Everything else has to meet the README's bar as it is, which has room for the roundings of f32.

use batchnorm::verify::Verified;
use batchnorm::verify::tolerance::Arithmetic;
use batchnorm::{Compute, Element};

use super::manifest::{Mode, Step};
use super::run::Runner;
use super::scale::Scales;

/// Batch variances of 2e39 are beyond f32's range: they are infinite, inv_std is 0, and so y = beta, dx = dgamma = 0.
const VARIANCE: &str = "seq/NC_5x2_float32_var_overflow_1e20";

/// Number of outputs that may differ, by suite, in the order of [`super::SUITES`].
pub(crate) const COUNTS: [usize; 6] = [0, 0, 0, 0, 5, 0];

impl<B: Verified + Compute<T>, T: Element> Runner<'_, B, T> {
    /// Replaces what f32 arithmetic cannot give by what policy gives, and counts the output.
    ///
    /// Which channels these are follows from float64 alone.
    pub(crate) fn beyond_f32(&mut self, step: &Step, scales: &Scales, role: &str, want: &mut [f64]) {
        if B::arithmetic(T::DTYPE) != Arithmetic::F32 {
            return;
        }
        let shape = self.case.view().expect("a case that runs has channels");
        let beta = self.channels("beta");
        let m = shape.m() as f64;
        let overflows = |var: f64| var > f64::from(f32::MAX);
        let instead = |index: usize, want: f64| match (self.case.name.as_str(), role) {
            (VARIANCE, "running_var_out") => {
                let followed = want / step.update_factor.unwrap_or(f64::NAN) * (m - 1.0) / m;
                overflows(followed).then_some(f64::INFINITY)
            }
            (VARIANCE, "y" | "dx" | "dgamma") if step.mode == Mode::Batch => {
                let c = if role == "dgamma" { index } else { super::scale::channel(shape, index) };
                let y = beta.as_ref().map_or(0.0, |beta| beta[c].to_f64());
                overflows(scales.batch_var[c]).then_some(if role == "y" { y } else { 0.0 })
            }
            _ => None,
        };
        let places: Vec<_> = want.iter().enumerate().filter_map(|(i, &want)| Some((i, instead(i, want)?))).collect();
        self.tally.beyond_f32 += usize::from(!places.is_empty());
        places.into_iter().for_each(|(index, value)| want[index] = value);
    }
}

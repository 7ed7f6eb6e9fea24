//! One channel: its statistics, and what turns its `x` into the activation's argument.

use crate::element::{Element, Param};
use crate::verify::reduce::{finite_magnitude, largest, sums};
use crate::verify::tolerance::y_scale;

/// A channel's mean, and its biased variance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moments {
    pub(super) mean: f64,
    pub(super) var: f64,
}

impl Moments {
    pub(super) fn new(x: &[f64]) -> Self {
        let m = x.len() as f64;
        let [near] = sums(0..x.len(), &|i| [x[i]]).map(|sum| sum / m);
        // A second sum, so that rounding the first costs no digit; an infinity or NaN stays as it is.
        let mean = if near.is_finite() { near + sums(0..x.len(), &|i| [x[i] - near])[0] / m } else { near };
        let [var] = sums(0..x.len(), &|i| [(x[i] - mean) * (x[i] - mean)]).map(|sum| sum / m);
        Self { mean, var }
    }
}

/// The coefficients that normalize a channel, and how far from zero that gets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Normalizer {
    /// The mean: the batch's, or the running one.
    pub(super) center: f64,
    /// `1 / sqrt(var + eps)` of the variance that goes with it.
    pub(super) inv_std: f64,
    pub(super) max_x_hat: f64,
}

impl Normalizer {
    /// The normalizer of this mean and variance over the values of a channel, with `eps` as parameters of type `P` have it.
    pub(super) fn new<P: Param>(center: f64, var: f64, eps: f64, x: &[f64]) -> Self {
        let padded = var + <P as Element>::from_f64(eps).to_f64();
        let inv_std = if padded == 0.0 { 0.0 } else { 1.0 / padded.sqrt() };
        let max_x_hat = largest([x], |[x]| finite_magnitude((x - center) * inv_std));
        Self { center, inv_std, max_x_hat }
    }
}

/// One channel of a case, normalized.
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    pub(super) moments: Moments,
    pub(super) normalizer: Normalizer,
    pub(super) gamma: f64,
    pub(super) beta: f64,
    /// The largest magnitude of `z`, 0 without a residual.
    pub(super) max_z: f64,
}

impl Channel {
    /// The normalized value.
    pub fn x_hat(&self, x: f64) -> f64 {
        (x - self.normalizer.center) * self.normalizer.inv_std
    }

    /// The activation's argument at each value: `x̂ * gamma + beta`, and `z` where there is one.
    pub fn arguments(&self, x: &[f64], z: Option<&[f64]>) -> Vec<f64> {
        let mut v: Vec<f64> = x.iter().map(|&x| self.x_hat(x) * self.gamma + self.beta).collect();
        if let Some(z) = z {
            v.iter_mut().zip(z).for_each(|(v, z)| *v += z);
        }
        v
    }

    /// `|mean| / sqrt(var + eps)`, where that is finite.
    pub(super) fn kappa(&self) -> f64 {
        finite_magnitude(self.normalizer.center * self.normalizer.inv_std)
    }

    /// The largest term that enters `y`.
    pub(super) fn y_scale(&self) -> f64 {
        y_scale(self.gamma, self.beta, self.normalizer.max_x_hat, self.max_z)
    }
}

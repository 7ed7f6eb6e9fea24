//! The values of each channel that formulas are computed with, and the type that they suffice in.

use core::ops::Range;
use std::borrow::Cow;

use super::fit::Fit;
use super::per_channel::{map, to_f64};
use super::piece::Table;
use super::vector::{Real, is_f64};
use super::walk::Walk;
use crate::element::Param;
use crate::op::Statistics;

/// The coefficients that normalize each channel of a block.
pub(super) struct Channels {
    pub(super) mean: Vec<f64>,
    pub(super) inv_std: Vec<f64>,
    /// `inv_std * gamma`
    pub(super) scale: Vec<f64>,
    pub(super) beta: Vec<f64>,
}

impl Channels {
    /// The coefficients of these channels. `gamma` absent is 1, `beta` absent is 0.
    pub(super) fn new<P: Param>(
        channels: Range<usize>,
        mean: Vec<f64>,
        inv_std: Vec<f64>,
        [gamma, beta]: [Option<&[P]>; 2],
    ) -> Self {
        let scale = match gamma {
            None => inv_std.clone(),
            Some(gamma) => {
                let [scale] = map([&inv_std, &to_f64(&gamma[channels.clone()])], |[inv_std, gamma]| [inv_std * gamma]);
                scale
            }
        };
        let beta = match beta {
            None => vec![0.0; mean.len()],
            Some(beta) => to_f64(&beta[channels]),
        };
        Self { mean, inv_std, scale, beta }
    }

    /// The coefficients by the statistics that a backward pass is given.
    pub(super) fn given<P: Param>(
        channels: Range<usize>,
        statistics: Statistics<&[P]>,
        affine: [Option<&[P]>; 2],
    ) -> Self {
        match statistics {
            Statistics::Batch { mean, inv_std } => {
                let [mean, inv_std] = [mean, inv_std].map(|values| to_f64(&values[channels.clone()]));
                Self::new(channels, mean, inv_std, affine)
            }
            Statistics::Running { mean, var, eps } => Self::running(channels, eps, affine, [mean, var]),
        }
    }

    /// The coefficients by running mean and variance.
    pub(super) fn running<P: Param>(
        channels: Range<usize>,
        eps: f64,
        affine: [Option<&[P]>; 2],
        [mean, var]: [&[P]; 2],
    ) -> Self {
        let inv_std = inv_std::<P>(&to_f64(&var[channels.clone()]), eps);
        Self::new(channels.clone(), to_f64(&mean[channels]), inv_std, affine)
    }

    /// The channels whose formulas with them suffice in a type.
    pub(super) fn fit<R: Real>(&self) -> Fit {
        Fit::of::<R>(&[
            (&self.mean, 0.0..=LARGE),
            (&self.beta, 0.0..=LARGE),
            (&self.inv_std, SMALL..=STEEP),
            // A smaller one has lost digits itself. What its products lose no element of a half type shows.
            (&self.scale, f32::MIN_POSITIVE.into()..=1.0 / SMALL),
        ])
    }

    /// `term`, less the share of it that the mean's rounding leaves.
    fn shifted<'a, R: Real>(&self, terms: &'a [f64], factors: &[f64]) -> Cow<'a, [f64]> {
        if is_f64::<R>() {
            return Cow::Borrowed(terms);
        }
        let [shifted] = map([terms, factors, &self.mean], |[term, factor, mean]| {
            let rest = rest::<R>(mean);
            let has_none = (rest == 0.0) | (factor.abs() == f64::INFINITY);
            [if has_none { term } else { term - rest * factor }]
        });
        Cow::Owned(shifted)
    }

    /// The parameters of `v`: mean, scale and shift, which is `beta` but for the mean's rounding.
    pub(super) fn normalizing<R: Real>(&self, walk: &Walk) -> Table<3, R> {
        walk.table([&self.mean, &self.scale, &self.shifted::<R>(&self.beta, &self.scale)])
    }

    /// The parameters of `dx`: those of `v`, `mean_dy` but for the mean's rounding, and `proj`.
    pub(super) fn projecting<R: Real>(&self, walk: &Walk, [mean_dy, proj]: [&[f64]; 2]) -> Table<5, R> {
        let shift = self.shifted::<R>(&self.beta, &self.scale);
        walk.table([&self.mean, &self.scale, &shift, &self.shifted::<R>(mean_dy, proj), proj])
    }
}

/// The magnitude from which differences might leave the range of an f32.
pub(super) const LARGE: f64 = (1u128 << 100) as f64;
/// The magnitude of a factor below which products might, and above whose inverse.
pub(super) const SMALL: f64 = 1.0 / (1u64 << 60) as f64;
/// The `inv_std` above which products too small for an f32, 2^-149, might count.
const STEEP: f64 = (1u64 << 30) as f64;

/// The rest that the nearest value of a type leaves; none where that is not finite.
#[inline(always)]
pub(super) fn rest<R: Real>(value: f64) -> f64 {
    let nearest = R::from_f64(value).to_f64();
    if nearest.abs() < f64::INFINITY { value - nearest } else { 0.0 }
}

/// `1 / sqrt(var + eps)` of each channel, 0 where `var + eps = 0`, NaN below.
///
/// `eps` is rounded to the type of per-channel values first: so an f32 variance and `eps` add up to 0 here exactly where
/// they do on a device, which adds them in f32, and to less than 0 likewise.
pub(super) fn inv_std<P: Param>(var: &[f64], eps: f64) -> Vec<f64> {
    let eps = P::from_f64(eps).to_f64();
    let [inv_std] = map([var], move |[var]| {
        let v = var + eps;
        [if v == 0.0 { 0.0 } else { 1.0 / v.sqrt() }]
    });
    inv_std
}

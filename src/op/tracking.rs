//! Running statistics: how they follow the batches, and what holds them.

use crate::element::Param;
use crate::error::{Error, Result};
use crate::memory;

/// The weight `a` of the new batch in a running statistic: `running <- (1 - a) * running + a * batch`.
///
/// This is PyTorch's `momentum`. TensorFlow, Keras, Flax and ONNX name the weight of the *old* value, "decay" or
/// "momentum": [`Momentum::from_decay`] converts.
#[doc(alias = "decay")]
#[cfg_attr(not(feature = "exhaustive"), non_exhaustive)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Momentum {
    /// An exponential moving average with this constant weight, in [0, 1]. With 1 the old value is not read, with 0 the
    /// batch's: NaN or an infinity there does not enter.
    Ema(f64),
    /// The plain average of all batches: `a = 1 / num_batches_tracked`, counted after the step. PyTorch's `None`.
    Cumulative,
}

impl Momentum {
    /// From the weight of the old value, as TensorFlow, Keras, Flax and ONNX give it: `Ema(1 - decay)`.
    ///
    /// ```
    /// use batchnorm::Momentum;
    /// assert_eq!(Momentum::from_decay(0.75), Momentum::Ema(0.25));
    /// ```
    pub const fn from_decay(decay: f64) -> Self {
        Self::Ema(1.0 - decay)
    }
}

/// Which variance feeds the running variance. The biased one normalizes in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunningVar {
    /// `var * m / (m - 1)`, as PyTorch and TensorFlow's fused operation track it.
    Unbiased,
    /// `var`, as Keras, Flax, ONNX and the TensorFlow moving-average idiom track it.
    Biased,
}

/// The effect of a batch whose statistics are NaN or infinite, in the type of the running ones, on these of its channel.
#[cfg_attr(not(feature = "exhaustive"), non_exhaustive)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonFinite {
    /// It enters them, as the formula says, and stays there: an infinity in the batch as mean, with a variance of NaN.
    Propagate,
    /// It leaves them bit-identical. The batch is counted.
    Skip,
}

/// How running statistics follow the batches: [`Tracking::new`], changed by the method of each field's name.
#[cfg_attr(not(feature = "exhaustive"), non_exhaustive)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tracking {
    /// The weight of a new batch.
    pub momentum: Momentum,
    /// Which variance is tracked.
    pub variance: RunningVar,
    /// The effect of a non-finite batch.
    pub non_finite: NonFinite,
}

impl Default for Tracking {
    /// [`Tracking::new`].
    fn default() -> Self {
        Self::new()
    }
}

impl Tracking {
    /// PyTorch's: momentum 0.1, unbiased variance, non-finite batches propagate.
    pub const fn new() -> Self {
        Self { momentum: Momentum::Ema(0.1), variance: RunningVar::Unbiased, non_finite: NonFinite::Propagate }
    }

    /// The same with this weight of a new batch.
    #[must_use]
    pub const fn momentum(self, momentum: Momentum) -> Self {
        Self { momentum, ..self }
    }

    /// The same with this variance tracked.
    #[must_use]
    pub const fn variance(self, variance: RunningVar) -> Self {
        Self { variance, ..self }
    }

    /// The same with this effect of a non-finite batch.
    #[must_use]
    pub const fn non_finite(self, non_finite: NonFinite) -> Self {
        Self { non_finite, ..self }
    }

    /// Whether the momentum is in [0, 1].
    pub(super) fn check(self) -> Result<()> {
        match self.momentum {
            Momentum::Ema(a) if !(0.0..=1.0).contains(&a) => Err(Error::Momentum { actual: a }),
            Momentum::Ema(_) | Momentum::Cumulative => Ok(()),
        }
    }

    /// Whether the variance is corrected by m/(m-1).
    pub(super) fn corrects_variance(self) -> bool {
        match self.variance {
            RunningVar::Unbiased => true,
            RunningVar::Biased => false,
        }
    }

    /// The factors of the update by a batch of `m` values a channel, in f64: every backend rounds these once.
    pub(crate) fn coefficients(self, m: usize) -> Coefficients {
        let correction = if self.corrects_variance() && m > 1 { m as f64 / (m - 1) as f64 } else { 1.0 };
        let weights = match self.momentum {
            Momentum::Ema(a) => Some(Weights::of(a)),
            Momentum::Cumulative => None,
        };
        Coefficients { weights, correction, skips_non_finite: self.non_finite == NonFinite::Skip }
    }
}

/// The factors by which a batch enters running statistics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Coefficients {
    /// `None` where they depend on the counter: [`Weights::cumulative`].
    pub(crate) weights: Option<Weights>,
    /// The biased variance times this is tracked.
    pub(crate) correction: f64,
    /// Whether a non-finite channel leaves its statistics as they are.
    pub(crate) skips_non_finite: bool,
}

/// The weights of the old value and of the new one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Weights {
    /// `1 - a`
    pub(crate) keep: f64,
    /// `a`
    pub(crate) momentum: f64,
}

impl Weights {
    fn of(a: f64) -> Self {
        Self { keep: 1.0 - a, momentum: a }
    }

    /// The weights of the average of all batches, the new one counted already.
    pub(crate) fn cumulative(num_batches_tracked: i64) -> Self {
        Self::of(1.0 / num_batches_tracked.max(1) as f64)
    }
}

/// Running statistics: two per-channel vectors `V` and a counter `N`.
///
/// On the host `V` is `Vec<P>` and `N` is `i64`; of a layer both are its backend's buffers. A field more is a breaking change.
#[derive(Clone, Debug, PartialEq)]
pub struct Running<V, N> {
    /// The running mean, one value a channel.
    pub mean: V,
    /// The running variance, one value a channel.
    pub var: V,
    /// How many batches have been counted.
    pub num_batches_tracked: N,
}

impl<P: Param> Running<Vec<P>, i64> {
    /// The statistics of `c` channels before the first batch: mean 0, variance 1, no batch counted.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(c: usize) -> Result<Self> {
        let filled = |value: f64| memory::filled(P::from_f64(value), c);
        Ok(Self { mean: filled(0.0)?, var: filled(1.0)?, num_batches_tracked: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_exact_where_a_value_is_not_read() {
        let with = |momentum| Tracking { momentum, ..Tracking::default() }.coefficients(3);
        let usual = with(Momentum::Ema(0.1));
        let weights = usual.weights.unwrap();
        assert_eq!((weights.keep as f32, weights.momentum as f32), (0.9, 0.1), "1 - 0.1f32 would be 0.90000004");
        assert_eq!((usual.correction, usual.skips_non_finite), (1.5, false));
        // With 1 the old value is not read, which a kernel knows by an exact 0.
        assert_eq!(with(Momentum::Ema(1.0)).weights.map(|weights| weights.keep), Some(0.0));
        assert_eq!(with(Momentum::Ema(0.0)).weights.map(|weights| weights.keep), Some(1.0));
        assert_eq!(with(Momentum::Cumulative).weights, None);
        assert_eq!(Weights::cumulative(4), Weights { keep: 0.75, momentum: 0.25 });
    }

    #[test]
    fn the_correction_is_that_of_the_variance() {
        let with = |variance, m| {
            let tracking = Tracking { variance, non_finite: NonFinite::Skip, ..Tracking::default() };
            let coefficients = tracking.coefficients(m);
            assert!(coefficients.skips_non_finite);
            coefficients.correction as f32
        };
        assert_eq!(with(RunningVar::Unbiased, 2), 2.0);
        assert_eq!(with(RunningVar::Unbiased, 1 << 40), 1.0);
        assert_eq!(with(RunningVar::Biased, 2), 1.0);
        assert_eq!(with(RunningVar::Biased, 1), 1.0);
    }
}

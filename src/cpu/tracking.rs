//! The running statistics.

use crate::element::Param;
use crate::op::{Coefficients, Weights};

/// Moves running statistics by the mean and the biased variance of each channel of a batch.
pub(super) fn update<P: Param>(
    coefficients: Coefficients,
    batch: impl Iterator<Item = [f64; 2]>,
    mean: &mut [P],
    var: &mut [P],
    num_batches_tracked: &mut i64,
) {
    *num_batches_tracked = num_batches_tracked.saturating_add(1);
    let Coefficients { weights, correction, skips_non_finite } = coefficients;
    let Weights { keep, momentum } = weights.unwrap_or_else(|| Weights::cumulative(*num_batches_tracked));
    // With a momentum of 0 nothing is read of the batch: 0 * NaN would bring it in.
    if momentum == 0.0 {
        return;
    }
    // With one of 1 the old value is not read: 0 * NaN would keep it.
    let step = |old: P, new: f64| P::from_f64(if momentum == 1.0 { new } else { keep * old.to_f64() + momentum * new });
    // In their own type: a value that overflows there is an infinity in the running statistics.
    let is_finite = |statistic: f64| P::from_f64(statistic).to_f64().is_finite();
    for ([batch_mean, batch_var], (mean, var)) in batch.zip(mean.iter_mut().zip(var)) {
        let finite = is_finite(batch_mean) && is_finite(batch_var);
        if finite || !skips_non_finite {
            *mean = step(*mean, batch_mean);
            *var = step(*var, batch_var * correction);
        }
    }
}

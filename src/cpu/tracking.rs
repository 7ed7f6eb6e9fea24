//! The running statistics.

use core::iter;

use super::per_channel::{self, to_f64};
use crate::element::Param;
use crate::op::{Coefficients, Weights};

/// Moves running statistics by the means and the biased variances of a batch's channels, block after block.
pub(super) fn update<'a, P: Param>(
    coefficients: Coefficients,
    batch: impl Iterator<Item = [&'a [f64]; 2]>,
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
    let step = move |old: f64, new: f64| if momentum == 1.0 { new } else { keep * old + momentum * new };
    // In their own type: a value that overflows there is an infinity in the running statistics.
    let is_finite = |statistic: f64| P::from_f64(statistic).to_f64().is_finite();
    let mut start = 0;
    for batch in batch {
        let block = start..start + batch[0].len();
        start = block.end;
        let running = [&mut mean[block.clone()], &mut var[block]];
        let [mut new_mean, mut new_var] = running.each_ref().map(|running| to_f64(running));
        per_channel::update([&mut new_mean, &mut new_var], batch, move |old, [mean, var]| {
            let is_taken = (is_finite(mean) & is_finite(var)) | !skips_non_finite;
            if is_taken { [step(old[0], mean), step(old[1], var * correction)] } else { old }
        });
        for (running, new) in running.into_iter().zip([new_mean, new_var]) {
            per_channel::write(iter::once(&new[..]), running);
        }
    }
}

//! The running statistics after a step.

use super::channel::{Channel, Moments};
use super::{Expected, Oracle};
use crate::element::{Dtype, Element};
use crate::op::{Momentum, NonFinite, Op, RunningVar, Tracking};
use crate::verify::Case;
use crate::verify::reduce::finite_magnitude;
use crate::verify::tolerance::var_scale;

/// The names of what tracking writes.
const TRACKED: [&str; 3] = ["running_mean", "running_var", "num_batches_tracked"];

impl<T: Element> Oracle<'_, T> {
    /// Makes what is expected of a case out of what is of another that differs from it in its tracking alone.
    pub(in crate::verify) fn track(&self, case: &Case, expected: &mut Vec<Expected>) {
        expected.retain(|expected| !TRACKED.contains(&expected.name));
        if let (Op::Train, Some(tracking)) = (case.op, case.tracking) {
            expected.extend(self.tracked(case, tracking));
        }
    }

    fn tracked(&self, case: &Case, tracking: Tracking) -> [Expected; 3] {
        let m = self.group.shape.m() as f64;
        let count = self.inputs.num_batches_tracked + 1;
        let a = match tracking.momentum {
            Momentum::Ema(a) => a,
            Momentum::Cumulative => 1.0 / count as f64,
        };
        let k = match tracking.variance {
            RunningVar::Unbiased => m / (m - 1.0),
            RunningVar::Biased => 1.0,
        };
        let step = |Moments { mean, var }: Moments, old: f64, new: f64| {
            let skipped = tracking.non_finite == NonFinite::Skip && !(mean.is_finite() && var.is_finite());
            match (skipped, a) {
                (true, _) => old,
                (false, 1.0) => new,
                (false, 0.0) => old,
                (false, _) => (1.0 - a) * old + a * new,
            }
        };
        let mean = |i: usize, ch: &Channel| {
            let (old, (new, scale)) = (self.inputs.running_mean[i].to_f64(), self.mean(ch));
            (step(ch.moments, old, new), finite_magnitude(old) + finite_magnitude(scale))
        };
        let var = |i: usize, ch: &Channel| {
            let (old, new) = (self.inputs.running_var[i].to_f64(), ch.moments.var * k);
            (step(ch.moments, old, new), finite_magnitude(old) + finite_magnitude(var_scale(ch.moments.mean, new)))
        };
        let [of_mean, of_var, of_count] = TRACKED;
        let count =
            Expected { name: of_count, dtype: Dtype::F64, is_data: false, want: vec![count as f64], slack: vec![0.0] };
        [self.per_channel(case, of_mean, mean), self.per_channel(case, of_var, var), count]
    }
}

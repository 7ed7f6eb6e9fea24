//! The result of a suite: what was compared, what failed, and our error relative to the framework's own.

use std::collections::BTreeMap;

use super::refused::Reason;

/// Counts and errors of one suite, or of all.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) cases: usize,
    pub(crate) steps: usize,
    /// Tensors compared.
    pub(crate) outputs: usize,
    /// Tensors that a refusal leaves nothing to compare with.
    pub(crate) left_out: usize,
    /// Cases by what refused them.
    pub(crate) refused: BTreeMap<Reason, usize>,
    /// Outputs where the framework itself misses the bar: compared, but out of the ratios.
    pub(crate) inaccurate: usize,
    /// Training steps on an empty batch, which PyTorch counts and this crate does not.
    pub(crate) uncounted: usize,
    /// Outputs that read a running variance beyond the range of its type, compared with the framework's own value.
    pub(crate) out_of_range: usize,
    /// Outputs with values that f32 arithmetic cannot give, compared with what policy gives.
    pub(crate) beyond_f32: usize,
    /// Cases in a dtype that the backend does not compute.
    pub(crate) other_dtype: usize,
    /// Cases that were left out because they are large.
    pub(crate) too_large: usize,
    /// Outputs whose scale was checked by the framework's own error.
    pub(crate) scales_held: usize,
    /// Our error over the framework's, one an output.
    pub(crate) ratios: Vec<f64>,
    /// Our error over the bar: the largest.
    pub(crate) worst: f64,
    pub(crate) failures: Vec<String>,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.cases += other.cases;
        self.steps += other.steps;
        self.outputs += other.outputs;
        self.left_out += other.left_out;
        for (reason, count) in other.refused {
            *self.refused.entry(reason).or_default() += count;
        }
        self.inaccurate += other.inaccurate;
        self.uncounted += other.uncounted;
        self.out_of_range += other.out_of_range;
        self.beyond_f32 += other.beyond_f32;
        self.other_dtype += other.other_dtype;
        self.too_large += other.too_large;
        self.scales_held += other.scales_held;
        self.ratios.extend(other.ratios);
        self.worst = self.worst.max(other.worst);
        self.failures.extend(other.failures);
    }

    /// The value below which this share of the ratios lies.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut ratios = self.ratios.clone();
        ratios.sort_by(f64::total_cmp);
        let rank = (share * ratios.len() as f64).ceil() as usize;
        ratios.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn print(&self, name: &str) {
        let Self { cases, steps, outputs, left_out, inaccurate, .. } = self;
        let refused: Vec<String> = self.refused.iter().map(|(reason, count)| format!("{count} for {reason}")).collect();
        println!(
            "{name:9} {cases:4} cases, {steps:5} steps, {outputs:5} outputs compared, {left_out:3} left out by a \
             refusal; refused: {}; framework inaccurate: {inaccurate} outputs; beyond f32: {}; dtype not computed: \
             {}; too large: {}; scales held against err_native: {}; worst error {:.3} of the bar; our error over \
             the framework's: median {:.3}, p99 {:.3} ({} outputs)",
            if refused.is_empty() { "none".into() } else { refused.join(", ") },
            self.beyond_f32,
            self.other_dtype,
            self.too_large,
            self.scales_held,
            self.worst,
            self.quantile(0.5),
            self.quantile(0.99),
            self.ratios.len(),
        );
    }
}

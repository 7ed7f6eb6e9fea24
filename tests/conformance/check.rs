//! Holds a step's outputs against the framework's: no role of the manifest goes without a comparison or a reason.

use batchnorm::verify::Verified;
use batchnorm::{Compute, Dtype, Element};

use super::compare::{Miss, compare};
use super::manifest::{Mode, Step};
use super::run::{Outputs, Runner};
use super::scale::{Scales, bar, channel};

/// The tensors that a step reads.
const INPUTS: [&str; 11] = [
    "x",
    "dy",
    "gamma",
    "beta",
    "running_mean_in",
    "running_var_in",
    "running_mean_init",
    "running_var_init",
    "saved_mean_in",
    "saved_var_in",
    "sample_index",
];

/// The statistics that a framework saves for its backward pass. Its float64 run names them as the batch's, or has none.
const SAVED: [(&str, &str); 3] = [("saved_mean", "batch_mean"), ("saved_var", "batch_var"), ("saved_invstd", "")];

/// One tensor of ours, ready to be compared.
struct Output {
    got: Vec<f64>,
    scale: Vec<f64>,
    /// The dtype that the values were rounded to.
    dtype: Dtype,
    /// The dtype whose range bounds them: sums are f64.
    range: Dtype,
    /// The channel of each value; `None` for a sum.
    channels: Option<Vec<usize>>,
}

impl<B: Verified + Compute<T>, T: Element> Runner<'_, B, T> {
    /// Compares the number of batches with the framework's.
    pub(crate) fn count(&mut self, step: &Step) -> Result<(), String> {
        let tracks = self.tracking(step).is_some() && self.refused.is_none();
        let (Some(count), Some(running)) = (step.num_batches_tracked, &self.running) else { return Ok(()) };
        if tracks && self.case.dims.contains(&0) {
            self.tally.uncounted += 1;
        }
        let want = count - self.tally.uncounted as i64;
        if running.num_batches_tracked != want {
            return Err(format!("num_batches_tracked: got {}, want {want}", running.num_batches_tracked));
        }
        let weight = step.update_factor.filter(|_| tracks && self.case.cumulative);
        match weight.filter(|a| (a * count as f64 - 1.0).abs() > 1e-15) {
            Some(a) => Err(format!("cumulative: the weight of batch {count} is {a}")),
            None => Ok(()),
        }
    }

    /// Compares every output that the step has. The error holds the message of each that is off.
    pub(crate) fn compare_all(&mut self, step: &Step, scales: &Scales, outputs: &Outputs<T>) -> Result<(), String> {
        let mut failures = Vec::new();
        let of_framework = step.tensors.keys().filter(|role| !INPUTS.contains(&role.as_str()));
        let mut roles: Vec<&str> = step.wants.keys().chain(of_framework).map(String::as_str).collect();
        roles.sort_unstable();
        roles.dedup();
        for role in roles {
            if let Err(message) = self.compare_one(step, scales, outputs, role) {
                failures.push(format!("{role}: {message}"));
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
    }

    fn compare_one(&mut self, step: &Step, scales: &Scales, outputs: &Outputs<T>, role: &str) -> Result<(), String> {
        let native = step.tensors.get(role);
        let float64 = step.wants.get(role).or_else(|| step.wants.get(SAVED.iter().find(|saved| saved.0 == role)?.1));
        let (mut want, further) = match (float64, native, step.err_native.get(role)) {
            (Some(key), _, _) => (self.file.wide(key), 0.0),
            // The manifest has no float64 of it, but says how far the framework is from it.
            (None, Some(key), Some(&further)) => (self.file.wide(key), further),
            _ => return Err("there is nothing to compare with".into()),
        };
        let Some(output) = self.output(step, scales, outputs, role, &want)? else {
            self.tally.left_out += 1;
            return if self.refused.is_some() { Ok(()) } else { Err("nothing was computed".into()) };
        };
        if output.got.len() != want.len() {
            return Err(format!("{} values, want {}", output.got.len(), want.len()));
        }
        if let (Some(channels), Some(native)) = (self.out_of_range(step, role), native) {
            let native = self.file.wide(native);
            let of_value = output.channels.iter().flatten().enumerate();
            of_value.filter(|(_, c)| channels[**c]).for_each(|(i, _)| want[i] = native[i]);
            self.tally.out_of_range += 1;
        }
        let of_float64 = want.clone();
        self.beyond_f32(step, scales, role, &mut want);
        let allowed = bar(output.dtype, step.kappa) + further;
        let error = compare(&output.got, &want, &output.scale, allowed, output.range).map_err(|miss| {
            let Miss { index, got, want, allowed } = miss;
            let place = output.channels.as_ref().map_or("the sum".into(), |c| format!("channel {}", c[index]));
            format!("[{index}] of {place}: got {got:e}, want {want:e} within {allowed:e}")
        })?;
        self.tally.outputs += 1;
        if let (Some(_), Some(native)) = (float64, native) {
            self.tally.worst = self.tally.worst.max(error / allowed);
            self.hold_scale(step, role, native, &of_float64, &output)?;
        }
        self.relate(step, role, error, float64.is_some());
        Ok(())
    }

    /// The channels whose running variance is finite in float64 and infinite in our type, where an output reads it. No
    /// state of that type gives float64's output, the framework's neither: there the framework's own value is wanted.
    fn out_of_range(&self, step: &Step, role: &str) -> Option<Vec<bool>> {
        let reads = step.mode == Mode::Running && ["y", "dx", "dgamma"].contains(&role);
        let (running, key) = self.running.as_ref().zip(step.wants.get("running_var_out")).filter(|_| reads)?;
        let float64 = self.file.wide(key);
        let channels =
            running.var.iter().zip(float64).map(|(ours, want)| ours.to_f64().is_infinite() && want.is_finite());
        let channels: Vec<bool> = channels.collect();
        channels.contains(&true).then_some(channels)
    }

    /// Holds our scale against the README's: with it, the framework's own error must be the manifest's. In a first step
    /// only, because later `err_native` starts from the framework's own statistics and `tensors_f64` from float64's; and
    /// not in f64, where the two are of one size with the roundings of the scale.
    fn hold_scale(
        &mut self,
        step: &Step,
        role: &str,
        native: &str,
        want: &[f64],
        output: &Output,
    ) -> Result<(), String> {
        let Some(&listed) = step.err_native.get(role).filter(|error| error.is_finite()) else { return Ok(()) };
        if self.tally.steps > 0 || T::DTYPE == Dtype::F64 || output.channels.is_none() {
            return Ok(());
        }
        let again = compare(&self.file.wide(native), want, &output.scale, 1e9, output.range).unwrap_or(f64::NAN);
        self.tally.scales_held += 1;
        // Written so that NaN fails.
        if (again - listed).abs() <= 1e-3 * listed {
            return Ok(());
        }
        Err(format!("the scale is not the README's: the framework's own error is {again:e}, listed as {listed:e}"))
    }

    /// Our error over the framework's own.
    fn relate(&mut self, step: &Step, role: &str, error: f64, has_float64: bool) {
        let Some(&native) = step.err_native.get(role) else { return };
        if self.case.expect_inaccurate || step.native_off.iter().any(|off| off == role) {
            self.tally.inaccurate += 1;
        } else if native > 0.0 && has_float64 && !role.ends_with("_sum_sumsq") {
            self.tally.ratios.push(error / native); // The README gives no scale for sums: ours is not the framework's.
        }
    }

    /// Our tensor of a role; `None` where a refusal left nothing.
    fn output(
        &self,
        step: &Step,
        scales: &Scales,
        outputs: &Outputs<T>,
        role: &str,
        want: &[f64],
    ) -> Result<Option<Output>, String> {
        let shape = self.case.view().expect("a case that runs has channels");
        if let Some((name, part)) = role.split_once('_').filter(|(name, _)| ["y", "dx"].contains(name)) {
            let scale = if name == "y" { &scales.y } else { &scales.dx };
            let Some(values) = outputs.data.get(name) else { return Ok(None) };
            return match part {
                "sampled" => {
                    let positions = self.file.positions(&step.tensors["sample_index"]);
                    Ok(Some(data(values, scale, positions, |i| channel(shape, i))))
                }
                "sum_sumsq" => Ok(Some(sums(values, want))),
                _ => Err("an unknown role".into()),
            };
        }
        if let Some(values) = outputs.data.get(role) {
            let scale = if role == "y" { &scales.y } else { &scales.dx };
            return Ok(Some(data(values, scale, (0..values.len()).collect(), |i| channel(shape, i))));
        }
        let name = if role == "saved_var" { "batch_var" } else { role };
        let Some(got) = outputs.channels.get(name).cloned() else { return Ok(None) };
        let scale = match role {
            "dgamma" => scales.dgamma.clone(),
            "dbeta" => scales.dbeta.clone(),
            "running_mean_out" | "shadow_biased_mean" => scales.running_mean.clone(),
            "running_var_out" | "shadow_biased_var" => scales.running_var.clone(),
            "batch_mean" | "saved_mean" => scales.batch_mean.clone(),
            "batch_var" | "saved_var" => scales.batch_var.clone(),
            "saved_invstd" => scales.inv_std.clone(),
            "shadow_local_step" => vec![0.0],
            _ => return Err("an unknown role".into()),
        };
        Ok(Some(Output {
            channels: Some((0..got.len()).collect()),
            got,
            scale,
            dtype: T::Param::DTYPE,
            range: T::Param::DTYPE,
        }))
    }
}

/// A data tensor at these positions.
fn data<T: Element>(values: &[T], scale: &[f64], positions: Vec<usize>, channel: impl Fn(usize) -> usize) -> Output {
    let channels: Vec<usize> = positions.iter().map(|&i| channel(i)).collect();
    Output {
        got: positions.iter().map(|&i| values[i].to_f64()).collect(),
        scale: channels.iter().map(|&c| scale[c]).collect(),
        dtype: T::DTYPE,
        range: T::DTYPE,
        channels: Some(channels),
    }
}

/// The sum of a data tensor and of its squares.
fn sums<T: Element>(values: &[T], want: &[f64]) -> Output {
    let sum = values.iter().map(|v| v.to_f64()).sum();
    let sum_of_squares: f64 = values.iter().map(|v| v.to_f64().powi(2)).sum();
    let scale = vec![(values.len() as f64 * want[1]).sqrt(), want[1]];
    Output { got: vec![sum, sum_of_squares], scale, dtype: T::DTYPE, range: Dtype::F64, channels: None }
}

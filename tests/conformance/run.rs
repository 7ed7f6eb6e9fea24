//! Runs a case, step by step, and compares every output with the framework's float64.

use std::collections::BTreeMap;

use batchnorm::op;
use batchnorm::verify::Verified;
use batchnorm::{
    Compute, Cpu, Element, Momentum, NonFinite, Param, Running, RunningVar, Tracking, with_device_element,
};
use half::{bf16, f16};

use super::manifest::{Case, File, Mode, Step, widened};
use super::ops::{Backward, Call, Forward, HostRunning};
use super::refused::Reason;
use super::scale::{Ingredients, Scales, Statistics, inv_std};
use super::tally::Tally;

/// A backend that can be compared with the frameworks.
pub(crate) trait Device: Verified + Compute<f32> + Compute<f16> + Compute<bf16> {
    /// Runs a case in f64, or says that the backend computes none.
    fn run_f64(&self, file: &File<'_>, case: &Case) -> Option<Tally>;
}

impl Device for Cpu {
    fn run_f64(&self, file: &File<'_>, case: &Case) -> Option<Tally> {
        Some(run::<Self, f64>(self, file, case))
    }
}

#[cfg(feature = "cuda")]
impl Device for batchnorm::Cuda {
    fn run_f64(&self, _: &File<'_>, _: &Case) -> Option<Tally> {
        None
    }
}

/// Runs a case in its own dtype.
pub(crate) fn run_case<B: Device>(backend: &B, file: &File<'_>, case: &Case) -> Tally {
    let reason = Reason::of(case);
    let mut tally = match case.axis {
        None => Tally::default(), // No channels: refused, and nothing else.
        Some(_) => with_device_element!(
            case.dtype,
            T => run::<B, T>(backend, file, case),
            f64 => backend.run_f64(file, case).unwrap_or(Tally { other_dtype: 1, ..Tally::default() })
        ),
    };
    tally.cases = 1;
    if let Some(reason) = reason {
        tally.refused.insert(reason, 1);
        if !reason.refuses_early(backend, case) {
            tally.failures.push(format!("{}: expected to be refused for {reason}", case.name));
        }
    } else if case.axis.is_none() {
        tally.failures.push(format!("{}: has no channels and is not refused", case.name));
    }
    tally
}

/// The tensors that a step wrote, by the suites' names.
pub(crate) struct Outputs<T> {
    pub(crate) data: BTreeMap<&'static str, Vec<T>>,
    pub(crate) channels: BTreeMap<&'static str, Vec<f64>>,
}

/// A case under way.
pub(crate) struct Runner<'a, B: Compute<T>, T: Element> {
    backend: &'a B,
    pub(crate) file: &'a File<'a>,
    pub(crate) case: &'a Case,
    /// The reason for which the operations refuse the case.
    pub(crate) refused: Option<Reason>,
    pub(crate) running: Option<HostRunning<T>>,
    pub(crate) tally: Tally,
}

fn run<B: Verified + Compute<T>, T: Element>(backend: &B, file: &File<'_>, case: &Case) -> Tally {
    let refused = Reason::of(case).filter(|reason| *reason != Reason::Rank); // A view has no such rank.
    let mut runner = Runner::<B, T> { backend, file, case, refused, running: None, tally: Tally::default() };
    runner.running = runner.initial();
    for (index, step) in case.steps.iter().enumerate() {
        if let Err(message) = runner.step(step) {
            runner.tally.failures.push(format!("{} step {index}: {message}", case.name));
        }
        runner.tally.steps += 1;
    }
    runner.tally
}

impl<B: Verified + Compute<T>, T: Element> Runner<'_, B, T> {
    fn c(&self) -> usize {
        self.case.view().expect("a case that runs has channels").c()
    }

    /// A per-channel input.
    pub(crate) fn channels(&self, role: &str) -> Option<Vec<T::Param>> {
        match &self.case.generated {
            Some(formulas) => formulas.values(role, self.c()),
            None => self.case.tensors.get(role).map(|key| self.file.channels(key, self.c())),
        }
    }

    /// A data input.
    fn data(&self, step: &Step, role: &str) -> Option<Vec<T>> {
        match &self.case.generated {
            Some(formulas) => formulas.values(role, self.case.dims.iter().product()),
            None => step.tensors.get(role).map(|key| self.file.data(key)),
        }
    }

    /// The running statistics before the first step.
    fn initial(&self) -> Option<HostRunning<T>> {
        let given = |role: &str| self.channels(&format!("{role}_in")).or(self.channels(&format!("{role}_init")));
        let all = |value: f64| vec![T::Param::from_f64(value); self.c()];
        let (mean, var) = match (given("running_mean"), given("running_var")) {
            // TensorFlow's zero_debias discards the initial value: its plain averages start at 0.
            (Some(_), Some(_)) if self.case.zero_debias => (all(0.0), all(0.0)),
            (Some(mean), Some(var)) => (mean, var),
            // A weight of 1 for the new batch: there is no old value, and what is not read may be NaN.
            _ if self.case.steps[0].wants.contains_key("running_mean_out") => (all(f64::NAN), all(f64::NAN)),
            _ => return None,
        };
        Some(Running { mean, var, num_batches_tracked: 0 })
    }

    /// The update of the running statistics in this step.
    pub(crate) fn tracking(&self, step: &Step) -> Option<Tracking> {
        let tracks = step.training && step.mode == Mode::Batch && self.running.is_some();
        let momentum = match step.update_factor {
            _ if self.case.cumulative => Momentum::Cumulative,
            Some(a) => Momentum::Ema(a),
            None => return None,
        };
        tracks.then_some(Tracking { momentum, variance: self.case.variance, non_finite: NonFinite::Propagate })
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        let shape = self.case.view().expect("a case that runs has channels");
        let x = self.data(step, "x").ok_or("x is missing")?;
        let (gamma, beta) = (self.channels("gamma"), self.channels("beta"));
        let call = Call { shape, eps: self.case.eps, x, gamma, beta };
        let dy = self.data(step, "dy");
        let normalizing = self.normalizing(step);
        let wide = |running: &HostRunning<T>| Statistics { mean: widened(&running.mean), var: widened(&running.var) };
        let scales = Scales::new(Ingredients {
            shape,
            eps: self.case.eps,
            x: &call.x,
            dy: dy.as_deref(),
            gamma: call.gamma.as_deref().map(widened).as_deref(),
            beta: call.beta.as_deref().map(widened).as_deref(),
            normalizing: normalizing.as_ref().map(wide),
            correction: match (self.case.variance, shape.m()) {
                (RunningVar::Unbiased, m @ 2..) => m as f64 / (m - 1) as f64,
                _ => 1.0,
            },
            old: self.running.as_ref().map(wide),
        });
        let outputs = self.compute(step, &call, dy.as_deref(), normalizing)?;
        self.count(step)?;
        self.compare_all(step, &scales, &outputs)
    }

    /// The statistics that normalize, where they are not the batch's.
    fn normalizing(&self, step: &Step) -> Option<HostRunning<T>> {
        let channels = |key: &String| self.file.channels(key, self.c());
        let read = |mean, var| Running { mean: channels(mean), var: channels(var), num_batches_tracked: 0 };
        match step.mode {
            Mode::Batch => None,
            Mode::Given => Some(read(&step.tensors["saved_mean_in"], &step.tensors["saved_var_in"])),
            // The averages that zero_debias made are not ours to carry.
            Mode::Running if self.case.zero_debias => {
                Some(read(&step.wants["running_mean_out"], &step.wants["running_var_out"]))
            }
            Mode::Running => self.running.clone(),
        }
    }

    /// Runs the operations that the step stands for.
    fn compute(
        &mut self,
        step: &Step,
        call: &Call<T>,
        dy: Option<&[T]>,
        normalizing: Option<HostRunning<T>>,
    ) -> Result<Outputs<T>, String> {
        let failed = |error: batchnorm::Error| format!("refused: {error}");
        let (backend, mut outputs) = (self.backend, Outputs { data: BTreeMap::new(), channels: BTreeMap::new() });
        let gradients = match (step.mode, normalizing) {
            (Mode::Running, Some(running)) => {
                outputs.data.insert("y", call.infer(backend, &running).map_err(failed)?);
                let statistics = op::Statistics::Running { mean: &running.mean[..], var: &running.var, eps: call.eps };
                dy.map(|dy| call.backward(backend, dy, statistics)).transpose().map_err(failed)?
            }
            (Mode::Given, Some(saved)) => {
                let inv_stds = saved.var.iter().map(|var| T::Param::from_f64(inv_std(var.to_f64(), call.eps)));
                let inv_stds: Vec<T::Param> = inv_stds.collect();
                let statistics = op::Statistics::Batch { mean: &saved.mean[..], inv_std: &inv_stds };
                dy.map(|dy| call.backward(backend, dy, statistics)).transpose().map_err(failed)?
            }
            (Mode::Batch, None) => {
                let [mean, var] = call.moments(backend).map_err(failed)?;
                outputs.channels.extend([("batch_mean", widened(&mean)), ("batch_var", widened(&var))]);
                match self.train(step, call)? {
                    Some(forward) => {
                        let (mean, inv_std) = (&forward.saved_mean, &forward.saved_inv_std);
                        outputs.channels.extend([("saved_mean", widened(mean)), ("saved_invstd", widened(inv_std))]);
                        let statistics = op::Statistics::Batch { mean: &mean[..], inv_std };
                        let backward = dy.map(|dy| call.backward(backend, dy, statistics));
                        let backward = backward.transpose().map_err(failed)?;
                        outputs.data.insert("y", forward.y);
                        backward
                    }
                    None => None,
                }
            }
            (mode, _) => return Err(format!("{mode:?}: the statistics are missing")),
        };
        if let Some(Backward { dx, dgamma, dbeta }) = gradients {
            outputs.data.insert("dx", dx);
            outputs.channels.extend([("dgamma", widened(&dgamma)), ("dbeta", widened(&dbeta))]);
        }
        if let Some(running) = self.running.as_ref().filter(|_| self.refused.is_none()) {
            self.running_outputs(step, running, &mut outputs.channels);
        }
        Ok(outputs)
    }

    /// The training forward pass. Where policy refuses it, it must be refused and change nothing; then it runs without
    /// tracking, if that will do.
    fn train(&mut self, step: &Step, call: &Call<T>) -> Result<Option<Forward<T>>, String> {
        let tracking = self.tracking(step);
        if let Some(reason) = self.refused {
            let mut running = self.running.clone();
            let refusal = call.train(self.backend, tracking.zip(running.as_mut())).err();
            if !refusal.as_ref().is_some_and(|error| reason.explains(error)) {
                return Err(format!("train: expected to be refused for {reason}, got {refusal:?}"));
            }
            if running.as_ref().map(bits) != self.running.as_ref().map(bits) {
                return Err("train: refused, and the running statistics have changed".into());
            }
            if reason == Reason::Eps {
                return Ok(None);
            }
        }
        let tracking = tracking.filter(|_| self.refused.is_none());
        call.train(self.backend, tracking.zip(self.running.as_mut())).map(Some).map_err(|e| format!("refused: {e}"))
    }

    /// The running statistics under the names that the suites have for them.
    fn running_outputs(&self, step: &Step, running: &HostRunning<T>, channels: &mut BTreeMap<&'static str, Vec<f64>>) {
        let (mean, var) = (widened(&running.mean), widened(&running.var));
        let steps = running.num_batches_tracked;
        if !self.case.zero_debias {
            channels.extend([("running_mean_out", mean), ("running_var_out", var)]);
            return;
        }
        let keep = 1.0 - step.update_factor.unwrap_or(f64::NAN);
        let debias = |values: &[f64]| values.iter().map(|v| v / (1.0 - keep.powi(steps as i32))).collect::<Vec<f64>>();
        channels.extend([("running_mean_out", debias(&mean)), ("running_var_out", debias(&var))]);
        channels.extend([("shadow_biased_mean", mean), ("shadow_biased_var", var)]);
        channels.insert("shadow_local_step", vec![steps as f64]);
    }
}

/// Running statistics as bytes, so that NaN equals itself.
fn bits<P: Param>(running: &Running<Vec<P>, i64>) -> (&[u8], &[u8], i64) {
    let Running { mean, var, num_batches_tracked } = running;
    (bytemuck::cast_slice(mean), bytemuck::cast_slice(var), *num_batches_tracked)
}

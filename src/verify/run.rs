//! Runs a case on a backend.

use std::collections::BTreeMap;
use std::time::Instant;

use half::{bf16, f16};

use super::oracle::expected;
use super::report::{Report, plan_text};
use super::tolerance::Arithmetic;
use super::{Case, Failure, Group, Inputs, Journal, cases::EPS, compare};
use crate::args::{BackwardArgs, BackwardFrozenArgs, Gradients, InferArgs, MomentsArgs, RunningArgs, TrainArgs};
use crate::{Backend, Compute, Cpu, Dtype, Element, Epilogue, Op, Plan, Problem, Result, Stored, relu_mask_len};

/// The tensors that an operation wrote, as f64 by name.
pub type Outputs = BTreeMap<&'static str, Vec<f64>>;

/// A backend that the table can be held against.
pub trait Verified: Backend {
    /// What it computes in.
    const ARITHMETIC: Arithmetic;

    /// The name of the strategy that it plans by, where one is forced.
    fn strategy_name(&self) -> &'static str {
        AUTO
    }

    /// The plan of a case whose data begins so many elements behind the start of its memory; `None` of a backend that plans
    /// nothing.
    ///
    /// # Errors
    /// That a forced strategy cannot hold it.
    fn plan_of(&self, _case: &Case, _start: usize) -> Result<Option<Plan>> {
        Ok(None)
    }

    /// THE way through the table: every case on each of the backends, which may be one device under several strategies. A
    /// case's data and what the oracle says of it are made once for all of them. `None` for a dtype that the backend does not
    /// compute.
    ///
    /// Cases with the same data should be neighbours, as those of [`Group::cases`] are. Each data tensor begins `start` elements
    /// behind the start of its memory. Where the journal is over, the cases that are left are reported as
    /// [`Failure::NotReached`].
    fn check_all(backends: &[Self], cases: &[Case], start: usize, journal: &Journal) -> Option<Vec<Report>>;

    /// Every case of a group on this backend.
    fn check(&self, group: &Group) -> Option<Vec<Report>> {
        let journal = Journal::new(Instant::now());
        Self::check_all(core::slice::from_ref(self), &group.cases(), 0, &journal)
    }
}

/// The name of a plan that nobody forced.
const AUTO: &str = "auto";

impl Verified for Cpu {
    const ARITHMETIC: Arithmetic = Arithmetic::F64;

    fn check_all(backends: &[Self], cases: &[Case], start: usize, journal: &Journal) -> Option<Vec<Report>> {
        let of_group = |cases: &[Case]| match cases[0].group.dtype {
            Dtype::F32 => check_group::<Self, f32>(backends, cases, start, journal),
            Dtype::F16 => check_group::<Self, f16>(backends, cases, start, journal),
            Dtype::Bf16 => check_group::<Self, bf16>(backends, cases, start, journal),
            Dtype::F64 => check_group::<Self, f64>(backends, cases, start, journal),
        };
        Some(groups_of(cases).flat_map(of_group).collect())
    }
}

#[cfg(feature = "cuda")]
impl Verified for crate::Cuda {
    const ARITHMETIC: Arithmetic = Arithmetic::F32;

    fn strategy_name(&self) -> &'static str {
        self.strategy().map_or(AUTO, crate::Strategy::name)
    }

    fn plan_of(&self, case: &Case, start: usize) -> Result<Option<Plan>> {
        let Case { group: Group { shape, dtype, .. }, op, epilogue, tracking, .. } = *case;
        let problem = Problem::new(op, shape, dtype, epilogue, EPS, tracking)?;
        self.plan(&problem.with_offset(start)).map(Some)
    }

    fn check_all(backends: &[Self], cases: &[Case], start: usize, journal: &Journal) -> Option<Vec<Report>> {
        let of_group = |cases: &[Case]| match cases[0].group.dtype {
            Dtype::F32 => Some(check_group::<Self, f32>(backends, cases, start, journal)),
            Dtype::F16 => Some(check_group::<Self, f16>(backends, cases, start, journal)),
            Dtype::Bf16 => Some(check_group::<Self, bf16>(backends, cases, start, journal)),
            Dtype::F64 => None,
        };
        let reports: Option<Vec<Vec<Report>>> = groups_of(cases).map(of_group).collect();
        reports.map(|reports| reports.into_iter().flatten().collect())
    }
}

/// Neighbours on the same data, none of them empty.
fn groups_of(cases: &[Case]) -> impl Iterator<Item = &[Case]> {
    cases.chunk_by(|a, b| a.group == b.group)
}

/// Cases on the same data, on each of the backends.
fn check_group<B: Verified + Compute<T>, T: Element>(
    backends: &[B],
    cases: &[Case],
    start: usize,
    journal: &Journal,
) -> Vec<Report> {
    let mut reports = Vec::new();
    let mut inputs = None;
    for case in cases {
        let report =
            |backend: &B, plan, result| Report { case: *case, strategy: backend.strategy_name(), plan, result };
        if journal.is_over() {
            reports.extend(backends.iter().map(|backend| report(backend, None, Err(Failure::NotReached))));
            continue;
        }
        let inputs = inputs.get_or_insert_with(|| Inputs::<T>::new(&case.group));
        let dy = inputs.dy_of(case);
        let expected = expected(case, inputs, &dy, B::ARITHMETIC);
        for backend in backends {
            let plan = match backend.plan_of(case, start) {
                Ok(plan) => plan,
                Err(error) => {
                    reports.push(report(backend, None, Err(Failure::Refused(error))));
                    continue;
                }
            };
            let call = || run(backend, case, inputs, &dy, start);
            let lost = |outputs: &core::result::Result<Outputs, Failure>| {
                outputs.as_ref().err().filter(|failure| failure.is_device_lost()).map(ToString::to_string)
            };
            let (strategy, plan_text, what) = (backend.strategy_name(), plan_text(plan.as_ref()), case.to_string());
            let result = match journal.run(strategy, &plan_text, &what, call, lost) {
                Some(outputs) => outputs.and_then(|outputs| compare(case, &expected, &outputs)),
                None => Err(Failure::NotReached),
            };
            let report = report(backend, plan, result);
            if report.is_failure() && !report.is_lost() {
                journal.failed(strategy, &plan_text, &what, &report.why());
            }
            reports.push(report);
        }
    }
    reports
}

/// Runs a case through the functions over a caller's buffers. `dy` is [`Inputs::dy_of`] the case.
///
/// A backward pass is preceded by its forward pass on the same backend, as in training. Every data tensor begins `start`
/// elements behind the start of its memory, which decides its alignment.
///
/// # Errors
/// [`Failure::Refused`] with the error of the operation, [`Failure::Forward`] with that of the forward pass before it.
pub fn run<B: Compute<T>, T: Element>(
    backend: &B,
    case: &Case,
    inputs: &Inputs<T>,
    dy: &[T],
    start: usize,
) -> core::result::Result<Outputs, Failure> {
    let Case { op, group: Group { shape, .. }, .. } = *case;
    let c = shape.c();
    let is_backward = matches!(op, Op::Backward | Op::BackwardFrozen);
    let of_forward = |error| if is_backward { Failure::Forward(error) } else { Failure::Refused(error) };
    let behind = |values: &[T]| backend.upload(&[&vec![T::default(); start][..], values].concat());
    let data = || behind(&vec![T::default(); shape.len()]);
    let channels = || backend.upload(&vec![T::Param::default(); c]);
    let problem = |op, epilogue| Problem::new(op, shape, T::DTYPE, epilogue, EPS, None);
    let workspace = &mut backend.workspace(&[problem(op, case.epilogue)?, problem(Op::Train, case.epilogue)?])?;

    let (x, z) = (&behind(&inputs.x)?, &behind(&inputs.z)?);
    let (x, z) = (&B::slice(x, start), &B::slice(z, start));
    let (gamma, beta) = (&backend.upload(&inputs.gamma)?, &backend.upload(&inputs.beta)?);
    let (mut running_mean, mut running_var) =
        (backend.upload(&inputs.running_mean)?, backend.upload(&inputs.running_var)?);
    let mut count = backend.upload(&[inputs.num_batches_tracked])?;
    let (mut y, mut saved_mean, mut saved_inv_std) = (data()?, channels()?, channels()?);
    let mut mask = backend.upload(&vec![0u32; relu_mask_len(shape)])?;
    let keeps_mask = case.epilogue == Epilogue::AddRelu(());

    let mut outputs = Outputs::new();
    if op == Op::Moments {
        let (mut mean, mut var) = (channels()?, channels()?);
        backend.moments(MomentsArgs::<B, T> {
            shape,
            x: B::view_input(x),
            mean: B::output(&mut mean),
            var: B::output(&mut var),
            workspace,
        })?;
        outputs.insert("mean", values(backend, &mean)?);
        outputs.insert("var", values(backend, &var)?);
        return Ok(outputs);
    }

    let mut y_view = B::slice_mut(&mut y, start);
    if matches!(op, Op::Infer | Op::BackwardFrozen) {
        backend
            .infer(InferArgs::<B, T> {
                shape,
                eps: EPS,
                x: B::view_input(x),
                epilogue: case.epilogue.map(|()| B::view_input(z)),
                gamma: case.affine.then(|| B::input(gamma)),
                beta: case.affine.then(|| B::input(beta)),
                running_mean: B::input(&running_mean),
                running_var: B::input(&running_var),
                y: B::view_output(&mut y_view),
                relu_mask: keeps_mask.then(|| B::output(&mut mask)),
            })
            .map_err(of_forward)?;
    } else {
        let running = case.tracking.map(|tracking| RunningArgs {
            tracking,
            mean: B::output(&mut running_mean),
            var: B::output(&mut running_var),
            num_batches_tracked: B::output(&mut count),
        });
        backend
            .train(TrainArgs::<B, T> {
                shape,
                eps: EPS,
                x: B::view_input(x),
                epilogue: case.epilogue.map(|()| B::view_input(z)),
                gamma: case.affine.then(|| B::input(gamma)),
                beta: case.affine.then(|| B::input(beta)),
                y: B::view_output(&mut y_view),
                saved_mean: B::output(&mut saved_mean),
                saved_inv_std: B::output(&mut saved_inv_std),
                relu_mask: keeps_mask.then(|| B::output(&mut mask)),
                running,
                workspace,
            })
            .map_err(of_forward)?;
    }
    drop(y_view);
    if is_backward {
        // Waits for the forward pass, so that its fault is not taken for the backward one's.
        backend.download(&count).map_err(of_forward)?;
    }
    if matches!(op, Op::Train | Op::Infer) {
        outputs.insert("y", values(backend, &y)?.split_off(start));
        outputs.insert("saved_mean", values(backend, &saved_mean)?);
        outputs.insert("saved_inv_std", values(backend, &saved_inv_std)?);
        outputs.insert("running_mean", values(backend, &running_mean)?);
        outputs.insert("running_var", values(backend, &running_var)?);
        let count = backend.download(&count)?;
        outputs.insert("num_batches_tracked", count.iter().map(|&count| count as f64).collect());
        return Ok(outputs);
    }

    let dy = &behind(dy)?;
    let dy = &B::slice(dy, start);
    let (mut dx_buf, mut dz_buf, mut dgamma, mut dbeta) = (data()?, data()?, channels()?, channels()?);
    let (mut dx, mut dz) = (B::slice_mut(&mut dx_buf, start), B::slice_mut(&mut dz_buf, start));
    let gradients = Gradients {
        dx: B::view_output(&mut dx),
        dgamma: Some(B::output(&mut dgamma)),
        dbeta: Some(B::output(&mut dbeta)),
    };
    let epilogue = case.epilogue.map(|()| B::view_output(&mut dz));
    let relu_mask = keeps_mask.then(|| B::input(&mask));
    let (x, dy) = (B::view_input(x), B::view_input(dy));
    if op == Op::Backward {
        let (saved_mean, saved_inv_std) = (B::input(&saved_mean), B::input(&saved_inv_std));
        backend.backward(BackwardArgs::<B, T> {
            shape,
            x,
            dy,
            epilogue,
            gamma: case.affine.then(|| B::input(gamma)),
            beta: case.affine.then(|| B::input(beta)),
            saved_mean,
            saved_inv_std,
            relu_mask,
            gradients,
            workspace,
        })?;
    } else {
        let (running_mean, running_var) = (B::input(&running_mean), B::input(&running_var));
        backend.backward_frozen(BackwardFrozenArgs::<B, T> {
            shape,
            eps: EPS,
            x,
            dy,
            epilogue,
            gamma: case.affine.then(|| B::input(gamma)),
            beta: case.affine.then(|| B::input(beta)),
            running_mean,
            running_var,
            relu_mask,
            gradients,
            workspace,
        })?;
    }
    drop((dx, dz));
    outputs.insert("dx", values(backend, &dx_buf)?.split_off(start));
    outputs.insert("dgamma", values(backend, &dgamma)?);
    outputs.insert("dbeta", values(backend, &dbeta)?);
    outputs.insert("dz", values(backend, &dz_buf)?.split_off(start));
    Ok(outputs)
}

fn values<B: Backend, T: Element + Stored>(backend: &B, buf: &B::Buf<T>) -> Result<Vec<f64>> {
    Ok(backend.download(buf)?.into_iter().map(|value| value.to_f64()).collect())
}

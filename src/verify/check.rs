//! THE way through the table: cases on one backend or several, journalled, with the oracle asked once a case.

use std::time::Instant;

use super::compare::compare_written;
use super::oracle::Oracle;
use super::report::{Report, plan_text};
use super::run::{Data, Written, run_on};
use super::tolerance::Arithmetic;
use super::{Case, Failure, Group, Inputs, Journal};
#[cfg(feature = "cuda")]
use crate::Problem;
use crate::offset::Offset;
#[cfg(feature = "cuda")]
use crate::with_device_element;
use crate::{Compute, Cpu, Dtype, Element, Plan, Result, with_element};

/// A backend that the table can check.
pub trait Verified: Offset {
    /// The arithmetic that it computes data of this dtype in.
    fn arithmetic(dtype: Dtype) -> Arithmetic;

    /// The name of the strategy that it plans by, where one is forced.
    fn strategy_name(&self) -> &'static str {
        AUTO
    }

    /// The plan of a case whose data begins so many elements behind the start of its memory; `None` of a backend that plans
    /// nothing.
    ///
    /// # Errors
    /// A forced strategy cannot hold it.
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
    fn arithmetic(dtype: Dtype) -> Arithmetic {
        match dtype {
            Dtype::F16 | Dtype::Bf16 => Arithmetic::Mixed,
            Dtype::F32 | Dtype::F64 => Arithmetic::F64,
        }
    }

    fn check_all(backends: &[Self], cases: &[Case], start: usize, journal: &Journal) -> Option<Vec<Report>> {
        let of_group = |cases: &[Case]| with_element!(cases[0].group.dtype, T => check_group::<Self, T>(backends, cases, start, journal));
        Some(groups_of(cases).flat_map(of_group).collect())
    }
}

#[cfg(feature = "cuda")]
impl Verified for crate::Cuda {
    fn arithmetic(_: Dtype) -> Arithmetic {
        Arithmetic::F32
    }

    fn strategy_name(&self) -> &'static str {
        self.strategy().map_or(AUTO, crate::Strategy::name)
    }

    fn plan_of(&self, case: &Case, start: usize) -> Result<Option<Plan>> {
        let Case { group: Group { shape, dtype, input }, op, epilogue, tracking, .. } = *case;
        let problem = Problem::new(op, shape, dtype, epilogue, input.eps(), tracking)?;
        self.plan(&problem.with_offset(start)).map(Some)
    }

    fn check_all(backends: &[Self], cases: &[Case], start: usize, journal: &Journal) -> Option<Vec<Report>> {
        let of_group = |cases: &[Case]| {
            let dtype = cases[0].group.dtype;
            with_device_element!(dtype, T => Some(check_group::<Self, T>(backends, cases, start, journal)), f64 => None)
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
    let report = |case: &Case, backend: &B, plan, result| Report {
        case: *case,
        strategy: backend.strategy_name(),
        plan,
        result,
    };
    let not_reached = |case: &Case| {
        let report = |backend| report(case, backend, None, Err(Failure::NotReached));
        backends.iter().map(report).collect::<Vec<_>>()
    };
    if journal.is_over() {
        return cases.iter().flat_map(not_reached).collect();
    }
    let inputs = Inputs::<T>::new(&cases[0].group);
    let oracle = Oracle::new(&cases[0].group, &inputs, B::arithmetic(T::DTYPE));
    // Made on a backend with its first case, whose error a failure would be.
    let mut data: Vec<Option<Data<B, T>>> = backends.iter().map(|_| None).collect();
    let but_for_tracking = |case: &Case| Case { tracking: None, ..*case };
    for alike in cases.chunk_by(|a, b| but_for_tracking(a) == but_for_tracking(b)) {
        let dy = oracle.dy_of(&alike[0]);
        let mut expected = Vec::new();
        for case in alike {
            if journal.is_over() {
                reports.extend(not_reached(case));
                continue;
            }
            if expected.is_empty() {
                expected = oracle.expected(case, &dy);
            } else {
                oracle.track(case, &mut expected);
            }
            for (backend, data) in backends.iter().zip(&mut data) {
                let plan = match backend.plan_of(case, start) {
                    Ok(plan) => plan,
                    Err(error) => {
                        reports.push(report(case, backend, None, Err(Failure::Refused(error))));
                        continue;
                    }
                };
                let call = || {
                    let data = match data {
                        Some(data) => data,
                        None => data.insert(Data::new(backend, &inputs, start)?),
                    };
                    run_on(backend, case, &inputs, data, &dy)
                };
                let lost = |outputs: &core::result::Result<Written<T>, Failure>| {
                    outputs.as_ref().err().filter(|failure| failure.is_device_lost()).map(ToString::to_string)
                };
                let (strategy, plan_text, what) = (backend.strategy_name(), plan_text(plan.as_ref()), case.to_string());
                let result = match journal.run(strategy, &plan_text, &what, call, lost) {
                    Some(outputs) => outputs.and_then(|outputs| compare_written(case, &expected, &outputs)),
                    None => Err(Failure::NotReached),
                };
                let report = report(case, backend, plan, result);
                if report.is_failure() && !report.is_lost() {
                    journal.failed(strategy, &plan_text, &what, &report.why());
                }
                reports.push(report);
            }
        }
    }
    reports
}

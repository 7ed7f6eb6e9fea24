//! The measurement of a device's plans.

use std::time::Instant;

use batchnorm::bench::Work;
use batchnorm::op::Problem;
use batchnorm::plan::{Measure, Plan, PlanTable};
use batchnorm::verify::{Case, Group, Input, Journal, Verified};
use batchnorm::{Compute, Cpu, Cuda, Element, with_device_element};
use indicatif::{ProgressBar, ProgressStyle};

use super::Args;
use super::report::{Report, Tried, Tuned};
use crate::bench::{Bench, NO_F64, Ours, Subject, Summary, Task, Turns, way_of};
use crate::device::counted_bytes;
use crate::failure::Failure;
use crate::output::{self, Renewed};

/// Measures these problems and writes the table. Whether every candidate gave what the reference gives, and the device was not lost.
pub(super) fn run(args: &Args, number: usize, tasks: &[Task], began: Instant) -> Result<bool, Failure> {
    let out = Renewed::new(&args.out)?;
    let json = args.json.as_deref().map(Renewed::new).transpose()?;
    let bench = Bench::new(number, &[], false)?;
    // The journal is opened behind all that may be refused, since it is empty from then on.
    let journal = match &args.journal {
        Some(path) => Journal::new(began).into_file(path).map_err(|error| Failure::new(format!("--journal: {error}"))),
        None => Ok(Journal::new(began)),
    }?;
    let measure = if bench.is_timed() { Measure::Nanoseconds } else { Measure::CountedBytes };
    let mut table = bench.cuda.plan_table(measure)?;
    let mut report = Report::new(args, table.origin().device.clone(), measure);
    let keep = |report: &Report| json.as_ref().map_or(Ok(()), |json| json.write(&report.to_json()));
    keep(&report)?;

    let tuner = Tuner { args, bench: &bench, journal: &journal, measure };
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}").unwrap_or(ProgressStyle::default_bar());
    let progress = ProgressBar::new(tasks.len() as u64).with_style(style);
    for task in tasks {
        progress.set_message(task.name());
        let problem = task.operation.problem(&task.row)?;
        let tuned = match tuner.reason_to_leave_out(task, began) {
            _ if table.plan_of(&problem).is_some() => None, // another name of a problem that was measured
            Some(reason) => Some(Tuned::left_out(task, reason)),
            None => {
                let tried = with_device_element!(task.row.dtype, T => tuner.tried::<T>(task, &problem), f64 => Err(NO_F64.into()));
                Some(tried.map_or_else(|reason| Tuned::left_out(task, reason), |tried| Tuned::new(task, tried)))
            }
        };
        if let Some(tuned) = tuned {
            // A measurement of a lost device is not to be trusted.
            if let Some(best) = tuned.best().filter(|_| journal.lost().is_none()) {
                let candidates = tuned.tried().iter().map(Tried::candidate).collect();
                table.insert(&problem, best.plan, candidates)?;
            }
            // The reader of the lines may be gone; the files are not.
            progress.suspend(|| tuned.say(measure));
            report.push(tuned);
            // A disk that is full now may have room at the end.
            let _ = keep(&report);
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    report.finish(journal.lost().cloned());
    let kept = keep(&report);
    if table.rows().is_empty() {
        let reason = report.first_reason().unwrap_or_else(|| "no reason".into());
        return Err(Failure::new(format!(
            "{}: expected a problem that could be measured, got none: {reason}",
            args.out.display()
        )));
    }
    out.write(&table.to_json())?;
    output::print(&report.to_text(&table, &args.out))?;
    kept?;
    match journal.broken() {
        Some(error) => Err(Failure::new(format!("--journal: lines are missing: {error}"))),
        None => Ok(journal.lost().is_none() && !report.is_wrong()),
    }
}

/// A device, and how its plans are measured.
struct Tuner<'a> {
    args: &'a Args,
    bench: &'a Bench,
    journal: &'a Journal,
    measure: Measure,
}

impl Tuner<'_> {
    fn reason_to_leave_out(&self, task: &Task, began: Instant) -> Option<String> {
        if self.journal.lost().is_some() {
            return Some("not reached: the device was lost".into());
        }
        let (bytes, limit) = (task.row.bytes(), self.args.limit_bytes.unwrap_or(self.bench.default_limit()));
        if bytes > limit && !Args::is_given(&task.row) {
            return Some(format!("x has {bytes} bytes, more than --limit-bytes {limit}"));
        }
        let within = self.args.within.filter(|&within| began.elapsed().as_secs() >= within);
        within.map(|within| format!("not reached --within {within} seconds"))
    }

    /// The candidates of a problem, of least predicted time first, each held against the reference and measured.
    fn tried<T: Element<Param = f32> + cudarc::driver::DeviceRepr>(
        &self,
        task: &Task,
        problem: &Problem,
    ) -> Result<Vec<Tried>, String>
    where
        Cuda: Compute<T>,
        Cpu: Compute<T>,
    {
        let told = |error: batchnorm::Error| error.to_string();
        let plans = Plan::shortlist(problem, &self.bench.cuda.limits(), self.args.most as usize);
        let backends = plans.iter().map(|plan| self.planning(problem, plan)).collect::<batchnorm::Result<Vec<_>>>();
        let backends = backends.map_err(told)?;
        let mut tried: Vec<Tried> = plans.iter().map(|&plan| Tried::new(plan)).collect();
        if task.row.shape.len() <= self.args.oracle_values {
            self.hold(task, &backends, &mut tried)?;
        }
        if self.bench.is_timed() {
            self.time::<T>(task, &backends, &mut tried)?;
        } else {
            for (cuda, tried) in backends.iter().zip(&mut tried).filter(|(_, tried)| tried.outcome.is_ok()) {
                tried.outcome = self.count::<T>(task, cuda, &tried.plan).map(Some);
            }
        }
        Ok(tried)
    }

    /// The device with this plan for the problem, and the planner's for all others.
    fn planning(&self, problem: &Problem, plan: &Plan) -> batchnorm::Result<Cuda> {
        let mut table: PlanTable = self.bench.cuda.plan_table(self.measure)?;
        table.insert(problem, *plan, Vec::new())?;
        self.bench.cuda.clone().with_plans(table)
    }

    /// Holds candidates against the f64 oracle, as `verify` does, all of them on the same data.
    fn hold(&self, task: &Task, backends: &[Cuda], tried: &mut [Tried]) -> Result<(), String> {
        let group = Group { shape: task.row.shape, dtype: task.row.dtype, input: Input::Normal };
        let is_asked = |case: &Case| {
            let parameters = case.affine && case.tracking.is_some() == case.op.tracks();
            (case.op, case.epilogue) == (task.operation.op, task.operation.epilogue) && parameters
        };
        let case = group.cases().into_iter().find(is_asked).ok_or("expected a case of the operation, got none")?;
        let reports = Cuda::check_all(backends, &[case], task.row.offset, self.journal).ok_or(NO_F64)?;
        for (report, tried) in reports.iter().zip(tried) {
            if report.result.is_err() {
                tried.outcome = Err(report.why());
            }
        }
        Ok(())
    }

    /// Times the candidates that are right, in turns.
    fn time<T: Element<Param = f32> + cudarc::driver::DeviceRepr>(
        &self,
        task: &Task,
        backends: &[Cuda],
        tried: &mut [Tried],
    ) -> Result<(), String>
    where
        Cuda: Compute<T>,
        Cpu: Compute<T>,
    {
        let mut right: Vec<(&Cuda, &mut Tried)> =
            backends.iter().zip(tried).filter(|(_, tried)| tried.outcome.is_ok()).collect();
        let sets = self.bench.sets(task, Work::<Cuda, T>::set_bytes(&task.row), right.len())?;
        let subject = |cuda: &Cuda| {
            Box::new(Ours::<T>::new(cuda.clone(), task, self.bench.timer.clone(), sets)) as Box<dyn Subject>
        };
        let mut subjects: Vec<_> = right.iter().map(|(cuda, _)| subject(cuda)).collect();
        let (what, is_lost) = (task.name(), || self.bench.is_lost());
        let turns = Turns { journal: self.journal, what: &what, is_timed: true, is_lost: &is_lost };
        let outcomes = turns.measure(&mut subjects, self.args.seconds);
        let samples: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.samples.as_ref().ok()).collect();
        let way = way_of(&samples);
        for (outcome, (_, tried)) in outcomes.into_iter().zip(&mut right) {
            tried.outcome = match &outcome.samples {
                Ok(samples) => {
                    let summary = way.and_then(|way| Summary::of(samples.get(&way)?));
                    // Tenths of a nanosecond, which is more than a clock tells.
                    let ns = summary.map(|summary| (summary.median * 1e10).round() / 10.0);
                    ns.map(Some).ok_or_else(|| "no time was measured".into())
                }
                Err(reason) => Err(reason.text().into()),
            };
            tried.samples = outcome.samples.ok();
        }
        Ok(())
    }

    /// The bytes that a plan moves on an emulated device, which has no time.
    fn count<T: Element<Param = f32>>(&self, task: &Task, cuda: &Cuda, plan: &Plan) -> Result<f64, String>
    where
        Cuda: Compute<T>,
        Cpu: Compute<T>,
    {
        let told = |error: batchnorm::Error| error.to_string();
        let Task { row, operation } = task;
        let call = || {
            let mut work = Work::<Cuda, T>::new(cuda, row.shape, row.offset, 1).map_err(told)?;
            work.check(*operation)?;
            work.prepare(*operation).map_err(told)?;
            counted_bytes();
            work.run(*operation).and_then(|()| cuda.synchronize()).map_err(told)?;
            counted_bytes().map(|bytes| bytes as f64).ok_or_else(|| "expected a device that counts bytes".into())
        };
        let lost = |counted: &Result<f64, String>| counted.as_ref().err().filter(|_| self.bench.is_lost()).cloned();
        let counted = self.journal.run("auto", &plan.to_string(), &task.name(), call, lost);
        counted.unwrap_or_else(|| Err("not reached: the device was lost".into()))
    }
}

#[cfg(all(test, feature = "emulate"))]
mod tests {
    use batchnorm::bench::{Pass, Row};
    use batchnorm::{Dtype, Epilogue, Op, Shape};

    use super::*;

    /// A driver call that fails leaves out the candidate that made it, with the reason, and no other one.
    #[test]
    fn a_candidate_that_fails_is_left_out_and_named() {
        let bench = Bench::new(0, &[], false).unwrap();
        let journal = Journal::new(Instant::now());
        let args = crate::args::parsed(&["tune", "--shape", "6x12x5x5", "--most", "5", "--out", "plans.json"]);
        let Ok(crate::args::Command::Tune(args)) = args else { panic!("{args:?}") };
        let tuner = Tuner { args: &args, bench: &bench, journal: &journal, measure: Measure::CountedBytes };
        let shape = Shape::nchw(6, 12, 5, 5).unwrap();
        let row = Row { suite: "s".into(), name: "r".into(), count: 1, shape, dtype: Dtype::F32, offset: 0 };
        let task = Task { row, operation: Pass { op: Op::Train, epilogue: Epilogue::RELU } };
        let problem = task.operation.problem(&task.row).unwrap();
        let tried = || tuner.tried::<f32>(&task, &problem);
        let best = Tuned::new(&task, tried().unwrap()).best().unwrap().plan;
        // The candidates' calls come one candidate after the other: some of them are the best one's.
        let failing = (40..4_000).step_by(11).find_map(|call| {
            cuda_emulator::fail_call(call, 1);
            let tried = tried();
            cuda_emulator::clear_faults();
            tried.ok().filter(|tried| tried.iter().any(|tried| tried.plan == best && tried.outcome.is_err()))
        });
        let tuned = Tuned::new(&task, failing.unwrap());
        let left_out: Vec<_> = tuned.tried().iter().filter(|tried| tried.outcome.is_err()).collect();
        assert_eq!((left_out.len(), left_out[0].plan), (1, best));
        let why = left_out[0].outcome.as_ref().unwrap_err();
        assert!(why.contains("expected success, got CUDA "), "{why}");
        let second = tuned.best().unwrap().plan;
        assert_ne!(second, best);
        let mut table = bench.cuda.plan_table(Measure::CountedBytes).unwrap();
        table.insert(&problem, second, tuned.tried().iter().map(Tried::candidate).collect()).unwrap();
        assert_eq!(table.plan_of(&problem), Some(second));
        assert!(table.to_json().contains(&serde_json::json!(why).to_string()), "{}", table.to_json());
        assert!(journal.lost().is_none());
        // Nothing has changed for the next one.
        assert_eq!(Tuned::new(&task, tried().unwrap()).best().unwrap().plan, best);
    }
}

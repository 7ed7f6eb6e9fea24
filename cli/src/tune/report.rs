//! The measurements, in lines and as JSON.
//!
//! The JSON is whole after each problem; the table itself is another file, written once.
//!
//! ```text
//! {
//!   "command", "version", "device", "model": text
//!   "measured": "nanoseconds" or, on an emulated device, "counted_bytes"
//!   "seconds": asked for each plan; "most": plans asked for each problem
//!   "complete": false in a file that was left before the end
//!   "lost": null, or {"strategy", "plan", "what", "why"}, as in the JSON of `bench`
//!   "rows": [{
//!     "name", "suite", "row", "dims", "layout", "dtype", "offset", "operation"
//!     "left_out": null, or why there are no candidates
//!     "chosen": null, or the number of the candidate that is the table's plan
//!     "candidates": [{"plan": PLAN, "measured": number, "seconds": TIMES} or {"plan": PLAN, "left_out": why}]
//!   }]
//! }
//! ```
//!
//! PLAN and TIMES are those of `bench` (src/bench/report.rs). The first candidate is the one that the planner would choose.

use std::io::{self, Write};
use std::path::Path;

use batchnorm::plan::{Candidate, Measure, Plan, PlanTable};
use batchnorm::verify::Lost;
use serde_json::{Value, json};

use super::Args;
use crate::bench::{Samples, Task, samples_json};
use crate::device::Device;
use crate::failure::one_line;
use crate::output;
use crate::plan_json::plan_json;

/// A plan that was tried.
pub(super) struct Tried {
    pub(super) plan: Plan,
    /// The measured value, `None` before there is one; or why the plan is left out.
    pub(super) outcome: Result<Option<f64>, String>,
    /// The samples behind a time.
    pub(super) samples: Option<Samples>,
}

impl Tried {
    pub(super) fn new(plan: Plan) -> Self {
        Self { plan, outcome: Ok(None), samples: None }
    }

    fn measured(&self) -> Option<f64> {
        self.outcome.as_ref().ok().copied().flatten()
    }

    /// The candidate as the table has it.
    pub(super) fn candidate(&self) -> Candidate {
        const MOST: usize = 500; // characters that a table takes, and more than a reason has
        let outcome = match &self.outcome {
            Ok(Some(measured)) => Ok(*measured),
            Ok(None) => Err("not measured".into()),
            Err(why) => Err(why.chars().take(MOST).collect()),
        };
        Candidate { plan: self.plan, outcome }
    }

    fn to_json(&self) -> Value {
        let mut json = json!({ "plan": plan_json(&self.plan) });
        match self.candidate().outcome {
            Ok(measured) => json["measured"] = json!(measured),
            Err(why) => json["left_out"] = json!(why),
        }
        if let Some(samples) = &self.samples {
            json["seconds"] = samples_json(samples);
        }
        json
    }
}

/// A problem, and what was tried for it or why nothing was.
pub(super) struct Tuned {
    name: String,
    /// The row and the operation, whatever was measured.
    facts: Value,
    tried: Result<Vec<Tried>, String>,
}

impl Tuned {
    pub(super) fn new(task: &Task, tried: Vec<Tried>) -> Self {
        Self { tried: Ok(tried), ..Self::left_out(task, String::new()) }
    }

    pub(super) fn left_out(task: &Task, reason: String) -> Self {
        let row = &task.row;
        let facts = json!({
            "name": task.name(),
            "suite": row.suite,
            "row": row.name,
            "dims": row.shape.dims(),
            "layout": row.shape.layout().to_string(),
            "dtype": row.dtype.to_string(),
            "offset": row.offset,
            "operation": task.operation.name(),
        });
        Self { name: task.name(), facts, tried: Err(reason) }
    }

    pub(super) fn tried(&self) -> &[Tried] {
        self.tried.as_deref().unwrap_or_default()
    }

    /// The number of the candidate of which the least was measured; the one of less predicted time where they are equal.
    fn chosen(&self) -> Option<usize> {
        let measured = self.tried().iter().enumerate().filter_map(|(i, tried)| Some((i, tried.measured()?)));
        measured.reduce(|best, next| if next.1 < best.1 { next } else { best }).map(|(i, _)| i)
    }

    /// That candidate.
    pub(super) fn best(&self) -> Option<&Tried> {
        self.tried().get(self.chosen()?)
    }

    /// Says what was chosen on stdout, and what was left out on stderr.
    pub(super) fn say(&self, measure: Measure) {
        let Self { name, .. } = self;
        for tried in self.tried() {
            if let Err(why) = &tried.outcome {
                let _ = writeln!(io::stderr(), "left out: {name}: {}: {}", tried.plan, one_line(why));
            }
        }
        let text = match (&self.tried, self.best()) {
            (Err(reason), _) => format!("{name}: left out: {}", one_line(reason)),
            (Ok(_), None) => format!("{name}: left out: no candidate could be measured"),
            (Ok(tried), Some(best)) => {
                let told = |tried: &Tried| {
                    tried.measured().map_or_else(|| "left out".into(), |measured| in_words(measure, measured))
                };
                let planned = if tried[0].plan == best.plan {
                    "as planned".into()
                } else {
                    format!("planned {}", told(&tried[0]))
                };
                let (count, of) = (told(best), tried.len());
                format!("{name}: {count}, {planned}, best of {of}: {}", best.plan)
            }
        };
        let _ = output::print(&format!("{text}\n"));
    }

    fn to_json(&self) -> Value {
        let mut json = self.facts.clone();
        json["left_out"] = json!(self.tried.as_ref().err());
        json["chosen"] = json!(self.chosen());
        json["candidates"] = self.tried().iter().map(Tried::to_json).collect();
        json
    }
}

fn in_words(measure: Measure, measured: f64) -> String {
    match measure {
        Measure::Nanoseconds => format!("{:.2} us", measured / 1e3),
        Measure::CountedBytes => format!("{measured} bytes counted"),
    }
}

/// All of a run.
pub(super) struct Report {
    device: Device,
    model: String,
    measure: Measure,
    seconds: f64,
    most: u32,
    is_complete: bool,
    lost: Option<Lost>,
    rows: Vec<Tuned>,
}

impl Report {
    pub(super) fn new(args: &Args, model: String, measure: Measure) -> Self {
        let Args { device, seconds, most, .. } = *args;
        Self { device, model, measure, seconds, most, is_complete: false, lost: None, rows: Vec::new() }
    }

    pub(super) fn push(&mut self, tuned: Tuned) {
        self.rows.push(tuned);
    }

    pub(super) fn finish(&mut self, lost: Option<Lost>) {
        (self.lost, self.is_complete) = (lost, true);
    }

    /// Whether a candidate failed or gave another result than the reference.
    pub(super) fn is_wrong(&self) -> bool {
        self.rows.iter().flat_map(Tuned::tried).any(|tried| tried.outcome.is_err())
    }

    /// The reason why the first problem is not in the table.
    pub(super) fn first_reason(&self) -> Option<String> {
        let reason = |tuned: &Tuned| match &tuned.tried {
            Err(reason) => Some(reason.clone()),
            Ok(tried) => tried.iter().find_map(|tried| tried.outcome.as_ref().err().cloned()),
        };
        self.rows.iter().find_map(reason)
    }

    /// The lines behind those of the problems.
    pub(super) fn to_text(&self, table: &PlanTable, out: &Path) -> String {
        let Self { device, model, rows, measure, .. } = self;
        let left_out = rows.iter().filter(|tuned| tuned.best().is_none()).count();
        let others = rows.iter().filter(|tuned| tuned.chosen().is_some_and(|chosen| chosen > 0)).count();
        let by = match measure {
            Measure::Nanoseconds => "medians of nanoseconds",
            Measure::CountedBytes => "bytes that an emulated device counts, which has no time",
        };
        let lost = self.lost.as_ref().map(|lost| format!("{lost}\n")).unwrap_or_default();
        format!(
            "{}: {} rows of {device} ({model}), by {by}; {others} of them are not as planned, {left_out} problems were left \
             out\nCuda::with_plans takes it, or BATCHNORM_PLANS in the environment\n{lost}",
            out.display(),
            table.rows().len(),
        )
    }

    /// The file of the schema above.
    pub(super) fn to_json(&self) -> String {
        let lost = self.lost.as_ref().map(
            |Lost { strategy, plan, what, why }| json!({ "strategy": strategy, "plan": plan, "what": what, "why": why }),
        );
        let head = json!({
            "command": std::env::args().collect::<Vec<_>>().join(" "),
            "version": env!("CARGO_PKG_VERSION"),
            "device": self.device.to_string(),
            "model": self.model,
            "measured": self.measure.name(),
            "seconds": self.seconds,
            "most": self.most,
            "complete": self.is_complete,
            "lost": lost,
        });
        let fields = head.as_object().into_iter().flatten();
        let fields: String = fields.map(|(name, value)| format!("{}: {value},\n", json!(name))).collect();
        let rows: Vec<String> = self.rows.iter().map(|row| row.to_json().to_string()).collect();
        format!("{{\n{fields}\"rows\": [\n{}\n]\n}}\n", rows.join(",\n"))
    }
}

#[cfg(test)]
mod tests {
    use batchnorm::bench::{Pass, Row};
    use batchnorm::plan::DeviceLimits;
    use batchnorm::{Dtype, Epilogue, Op, Shape};

    use super::*;

    fn tuned(outcomes: &[Result<Option<f64>, String>]) -> Tuned {
        let shape = Shape::nchw(32, 64, 14, 14).unwrap();
        let row = Row { suite: "s".into(), name: "r".into(), count: 1, shape, dtype: Dtype::F16, offset: 0 };
        let task = Task { row, operation: Pass { op: Op::Train, epilogue: Epilogue::RELU } };
        let problem = task.operation.problem(&task.row).unwrap();
        let plans = Plan::shortlist(&problem, &DeviceLimits::KNOWN[1].1, outcomes.len());
        let tried = |(plan, outcome): (&Plan, &Result<Option<f64>, String>)| Tried {
            outcome: outcome.clone(),
            ..Tried::new(*plan)
        };
        Tuned::new(&task, plans.iter().zip(outcomes).map(tried).collect())
    }

    #[test]
    fn the_least_that_was_measured_is_chosen() {
        let wrong = || Err("y[3] at (n, c, s) = (0, 0, 3): got 1e0, want 2e0 within 1e-3".to_owned());
        for (outcomes, chosen) in [
            (vec![Ok(Some(3.0)), Ok(Some(2.0)), Ok(Some(2.0)), Ok(Some(4.0)), Ok(None)], Some(1)),
            (vec![wrong(), Ok(Some(2.0)), wrong(), Ok(Some(1.0)), Ok(Some(1.0))], Some(3)),
            (vec![wrong(), wrong(), Ok(None), wrong(), wrong()], None),
        ] {
            let tuned = tuned(&outcomes);
            assert_eq!(tuned.chosen(), chosen);
            let json = tuned.to_json();
            assert_eq!(json["chosen"], json!(chosen));
            for (tried, candidate) in outcomes.iter().zip(json["candidates"].as_array().unwrap()) {
                match tried {
                    Ok(Some(measured)) => assert_eq!(candidate["measured"], json!(measured)),
                    Ok(None) => assert_eq!(candidate["left_out"], "not measured"),
                    Err(why) => assert_eq!(candidate["left_out"], json!(why)),
                }
            }
        }
    }
}

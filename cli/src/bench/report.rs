//! The measurements, as a table and as JSON.
//!
//! The JSON is whole after each task. Times are seconds an operation; each sample is there, rounded to a tenth of a nanosecond.
//!
//! ```text
//! {
//!   "command", "version", "built", "device", "model": text    built: of the bundle; null elsewhere
//!   "threads": of the CPU
//!   "seconds": asked for each subject and row
//!   "timed": whether times are kept; false on an emulated device, where no SAMPLES has any value
//!   "complete": false in a file that was left before the end
//!   "limits": null on the CPU, or every field of DeviceLimits by its name; clusters as
//!             {"one_cta_per_sm": {"2": N, "4": N, "8": N, "16": N}, "two_ctas_per_sm": the same}
//!   "peers": what the process of the peers said of itself, or {"reason"}
//!   "probes": null on the CPU, or {"reason"}, or
//!             {"bytes": of each buffer, "measured": [{"probe": PROBE, "cold", "seconds": TIMES} or {.., "reason"}]}
//!             PROBE its "kind" and parameters by name; "cold" whether L2 answers nothing, null where nothing is moved
//!   "lost": null, or {"strategy", "plan", "what", "why"}: whose turn was the first after which the device was lost
//!   "resnet50_step_ms": [{"n", "layout", "dtype", "way": WAY, "by_subject": {NAME: milliseconds}}]
//!   "rows": [{
//!     "name", "suite", "row", "count", "dims", "layout", "dtype", "offset", "operation",
//!     "least_bytes": those of each tensor once
//!     "left_out": null, or why there are no subjects
//!     "clocks": [before, after]: nvidia-smi's, or why there are none; null on the CPU
//!     "subjects": [{"name", "plan": PLAN, "seconds": TIMES} or {"name", "plan": PLAN, "reason"}]
//!   }]
//! }
//! WAY    "graph" | "eager" | "host" on a GPU, "call" on the CPU
//! TIMES  {WAY: {"median", "min", "max", "samples": SAMPLES}}
//! SAMPLES [seconds, ...] in the order in which they were taken, the rounds one after the other
//! PLAN   null of what is not ours or does not fit, or {"strategy", "form": text; "threads", "strips", "splits", "teams", "held_steps",
//!        "steps", "rows", "row_vectors", "width", "chunk", "strip_channels", "shared_bytes", "workspace_bytes", "predicted_ns"}
//! ```
//!
//! Names of subjects: "batchnorm" is planned as a user's call would be, "batchnorm, STRATEGY" by that strategy, "floor" reads and
//! writes each tensor once, all others are peers.

use std::collections::BTreeMap;

use batchnorm::Cpu;
use batchnorm::verify::Lost;
use serde_json::{Map, Value, json};

use super::machine;
use super::measured::{FORCED, Measured, OURS, Total, totals};
use super::subject::{Outcome, Reason, Samples, Summary};
use crate::device::Device;
use crate::output;
use crate::plan_json::plan_json;

const HEAD: [&str; 8] = ["row", "way", "us", "GB/s", "of floor", "best peer", "its us", "ratio"];

/// All of a run.
pub(super) struct Report {
    device: Device,
    seconds: f64,
    model: String,
    /// Whether times are kept.
    pub(super) is_timed: bool,
    pub(super) is_complete: bool,
    /// The device's limits.
    pub(super) limits: Value,
    /// The words of the peers in Python of themselves, or why there are none.
    pub(super) peers: Value,
    /// The findings of a GPU's probes.
    pub(super) probes: Value,
    pub(super) lost: Option<Lost>,
    /// Characters of the longest name of a row.
    pub(super) width: usize,
    measured: Vec<Measured>,
    /// Each of `measured` as JSON: made once, since the file is written again and again.
    rows: Vec<String>,
}

impl Report {
    pub(super) fn new(device: Device, model: String, seconds: f64) -> Self {
        Self {
            device,
            seconds,
            model,
            is_timed: true,
            is_complete: false,
            limits: Value::Null,
            peers: Value::Null,
            probes: Value::Null,
            lost: None,
            width: 0,
            measured: Vec::new(),
            rows: Vec::new(),
        }
    }

    pub(super) fn device(&self) -> Device {
        self.device
    }

    pub(super) fn model(&self) -> &str {
        &self.model
    }

    pub(super) fn measured(&self) -> &[Measured] {
        &self.measured
    }

    pub(super) fn push(&mut self, measured: Measured) {
        self.rows.push(row_json(&measured).to_string());
        self.measured.push(measured);
    }

    /// Whether something of ours differs from the CPU path.
    pub(super) fn is_wrong(&self) -> bool {
        let ours = |outcome: &&Outcome| outcome.name == OURS || outcome.name.starts_with(FORCED);
        let mut ours = self.measured.iter().flat_map(Measured::outcomes).filter(ours);
        ours.any(|outcome| matches!(outcome.samples, Err(Reason::Wrong(_))))
    }

    /// The line above the lines of the rows.
    pub(super) fn head(&self) -> String {
        self.padded(HEAD.map(String::from))
    }

    /// The line of a row, for who reads along; nothing of one that was left out, since there may be thousands.
    pub(super) fn line(&self, measured: &Measured) -> String {
        let line = || self.padded(cells(measured)) + &remarks(measured);
        measured.outcomes.as_ref().map_or_else(|_| String::new(), |_| line())
    }

    fn padded(&self, [name, way, us, rate, floor, peer, its, ratio]: [String; 8]) -> String {
        let width = self.width;
        format!("{name:<width$}  {way:<5}  {us:>9}  {rate:>7}  {floor:>8}  {peer:<16}  {its:>9}  {ratio:>6}")
            .trim_end()
            .to_owned()
            + "\n"
    }

    pub(super) fn to_text(&self) -> String {
        let mut rows = vec![HEAD.map(String::from).to_vec()];
        let mut left_out = Vec::new();
        for measured in &self.measured {
            match &measured.outcomes {
                Err(reason) => left_out.push(format!("left out: {}: {reason}\n", measured.name)),
                Ok(_) => {
                    rows.push(cells(measured).to_vec());
                    left_out.extend(Some(remarks(measured)).filter(|text| !text.is_empty()));
                }
            }
        }
        let left_out = shortened(&left_out);
        let table = output::table(&rows, &[0, 1, 5]);
        format!("{table}{left_out}{}{}", self.totals_text(), self.footnotes())
    }

    fn totals_text(&self) -> String {
        let of = |total: &Total| {
            let subjects = total.milliseconds.iter().map(|(name, ms)| format!("{name} {ms:.3}"));
            let Total { n, layout, dtype, way, .. } = total;
            format!(
                "ResNet-50 step, n={n} {layout} {dtype}, ms of batch norm by {}: {}\n",
                way.name(),
                subjects.collect::<Vec<_>>().join(", ")
            )
        };
        totals(&self.measured).iter().map(of).collect()
    }

    fn footnotes(&self) -> String {
        let Self { device, model, .. } = self;
        let mut notes = match self.is_timed {
            true => format!(
                "medians on {device} ({model}); GB/s count each tensor once; floor and peers as they were measured in the \
                 same way; ratio: the best peer's time over ours\n"
            ),
            false => format!(
                "{device} ({model}) is never timed: what has no reason here ran, and what is ours agrees with the CPU\n"
            ),
        };
        let mut includes = BTreeMap::new();
        for outcome in self.measured.iter().flat_map(Measured::outcomes) {
            let includes: &mut Option<String> = includes.entry(outcome.name.clone()).or_default();
            match &outcome.samples {
                Ok(_) => *includes = Some(format!("includes {}", outcome.includes)),
                // The JSON has the reason of a subject that was measured on other rows.
                Err(reason) if includes.is_none() => *includes = Some(format!("not measured: {}", reason.text())),
                Err(_) => {}
            }
        }
        let texts = includes.into_iter().filter_map(|(name, text)| Some(format!("{name}: {}\n", text?)));
        notes.extend(texts);
        if let Some(reason) = self.peers["reason"].as_str() {
            notes += &format!("no peers in Python: {reason}\n");
        }
        notes.extend(self.lost.as_ref().map(|lost| format!("{lost}\n")));
        notes
    }

    /// The file of the schema above: a line each of its fields, and of its rows.
    pub(super) fn to_json(&self) -> String {
        let totals = totals(&self.measured);
        let lost = self.lost.as_ref().map(
            |Lost { strategy, plan, what, why }| json!({ "strategy": strategy, "plan": plan, "what": what, "why": why }),
        );
        let head = json!({
            "command": std::env::args().collect::<Vec<_>>().join(" "),
            "version": env!("CARGO_PKG_VERSION"),
            "built": machine::built(),
            "device": self.device.to_string(),
            "model": self.model,
            "threads": Cpu::threads(),
            "seconds": self.seconds,
            "timed": self.is_timed,
            "complete": self.is_complete,
            "limits": self.limits,
            "peers": self.peers,
            "probes": self.probes,
            "lost": lost,
            "resnet50_step_ms": totals.iter().map(Total::to_json).collect::<Vec<_>>(),
        });
        let fields = head.as_object().into_iter().flatten();
        let fields: String = fields.map(|(name, value)| format!("{}: {value},\n", json!(name))).collect();
        format!("{{\n{fields}\"rows\": [\n{}\n]\n}}\n", self.rows.join(",\n"))
    }
}

fn cells(measured: &Measured) -> [String; 8] {
    let ours = measured.ours().map(|summary| summary.median);
    let cell = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let peer = measured.best_peer();
    [
        measured.name.clone(),
        cell(measured.way().map(|way| way.name().into())),
        cell(ours.map(|ours| format!("{:.1}", ours * 1e6))),
        cell(ours.map(|ours| format!("{:.1}", measured.bytes() / ours / 1e9))),
        cell(ours.zip(measured.floor()).map(|(ours, floor)| format!("{:.0}%", floor / ours * 100.0))),
        cell(peer.map(|(name, _)| name.into())),
        cell(peer.map(|(_, time)| format!("{:.1}", time * 1e6))),
        cell(ours.zip(peer).map(|(ours, (_, time))| format!("{:.2}", time / ours))),
    ]
}

/// Wrong results of ours, under each strategy, and why what was planned as a user's call has no time.
fn remarks(measured: &Measured) -> String {
    let remark = |outcome: &Outcome| match &outcome.samples {
        Err(Reason::Wrong(reason)) => Some(format!("WRONG: {}: {}: {reason}\n", measured.name, outcome.name)),
        Err(Reason::Failed(reason)) if outcome.name == OURS => Some(format!("failed: {}: {reason}\n", measured.name)),
        Ok(_) | Err(Reason::Failed(_)) => None,
    };
    measured.outcomes().iter().filter_map(remark).collect()
}

/// The samples of each way, with their summary.
pub(crate) fn samples_json(samples: &Samples) -> Value {
    let rounded: fn(&f64) -> f64 = |seconds| (seconds * 1e10).round() / 1e10;
    let of_way = |samples: &Vec<f64>| {
        let mut json = json!({ "samples": samples.iter().map(rounded).collect::<Vec<_>>() });
        if let Some(Summary { median, min, max, .. }) = Summary::of(samples) {
            for (name, value) in [("median", median), ("min", min), ("max", max)] {
                json[name] = json!(rounded(&value));
            }
        }
        json
    };
    samples.iter().map(|(way, samples)| (way.name().to_owned(), of_way(samples))).collect::<Map<_, _>>().into()
}

fn row_json(measured: &Measured) -> Value {
    let Measured { row, operation, name, clocks, .. } = measured;
    let outcome = |outcome: &Outcome| {
        let mut json = json!({ "name": outcome.name, "plan": outcome.plan.as_ref().map(plan_json) });
        match &outcome.samples {
            Ok(samples) => json["seconds"] = samples_json(samples),
            Err(reason) => json["reason"] = json!(reason.text()),
        }
        json
    };
    json!({
        "name": name,
        "suite": row.suite,
        "row": row.name,
        "count": row.count,
        "dims": row.shape.dims(),
        "layout": row.shape.layout().to_string(),
        "dtype": row.dtype.to_string(),
        "offset": row.offset,
        "operation": operation.name(),
        "least_bytes": operation.bytes(row),
        "subjects": measured.outcomes().iter().map(outcome).collect::<Vec<_>>(),
        "left_out": measured.outcomes.as_ref().err(),
        "clocks": clocks,
    })
}

/// The first few of many lines, and how many more there are.
fn shortened(lines: &[String]) -> String {
    const SHOWN: usize = 8;
    let more = lines.len().saturating_sub(SHOWN);
    let rest = if more > 0 { format!("and {more} more, all of them in the JSON\n") } else { String::new() };
    lines.iter().take(SHOWN).cloned().collect::<String>() + &rest
}

//! The findings of `verify` so far, as a table and as JSON.

use std::collections::BTreeMap;

use batchnorm::verify::{Journal, Report};
use serde_json::{Value, json};

use crate::device::Device;
use crate::failure::one_line;
use crate::plan_json::plan_json;

/// Number of failures that are printed, at most.
const SHOWN: usize = 10;
/// Number of failures in the JSON, at most, since it is written again and again. The journal has all.
const KEPT: usize = 1000;

/// Cases that ran, and the largest error of those that passed, as a share of what is allowed.
#[derive(Default)]
struct Row {
    cases: usize,
    failed: usize,
    worst: f64,
}

impl Row {
    fn add(&mut self, report: &Report) {
        self.cases += 1;
        match report.result {
            Ok(worst) => self.worst = self.worst.max(worst),
            Err(_) => self.failed += 1,
        }
    }

    fn to_json(&self) -> Value {
        json!({ "cases": self.cases, "failed": self.failed, "largest_share": self.worst })
    }
}

/// All of a run so far.
pub(super) struct Tally {
    device: Device,
    model: String,
    every: usize,
    groups: usize,
    groups_done: usize,
    total: Row,
    not_reached: usize,
    /// Rows by operation and dtype.
    rows: BTreeMap<(&'static str, String), Row>,
    strategies: Vec<(&'static str, Row)>,
    failures: Vec<Report>,
}

impl Tally {
    /// The empty tally of a run over so many groups. `model` is empty for the CPU.
    pub(super) fn new(
        device: Device,
        model: String,
        strategies: Vec<&'static str>,
        every: usize,
        groups: usize,
    ) -> Self {
        let strategies = strategies.into_iter().map(|name| (name, Row::default())).collect();
        let (rows, failures, total) = (BTreeMap::new(), Vec::new(), Row::default());
        Self { device, model, every, groups, groups_done: 0, total, not_reached: 0, rows, strategies, failures }
    }

    pub(super) fn failed(&self) -> usize {
        self.total.failed
    }

    /// Adds what a group gave. What a forced strategy has no room for does not count.
    pub(super) fn add(&mut self, reports: Vec<Report>) {
        self.groups_done += usize::from(!reports.iter().any(Report::is_unreached));
        for report in reports {
            if report.is_unreached() {
                self.not_reached += 1;
            }
            if report.is_unreached() || report.is_left_out() {
                continue;
            }
            let key = (report.case.operation(), report.case.group.dtype.to_string());
            let of_strategy = self.strategies.iter_mut().filter(|(name, _)| *name == report.strategy);
            of_strategy.for_each(|(_, row)| row.add(&report));
            self.rows.entry(key).or_default().add(&report);
            self.total.add(&report);
            // The loss of the device comes first, whatever else fails on other threads meanwhile.
            if report.is_lost() {
                self.failures.insert(0, report);
            } else if report.is_failure() && self.failures.len() < KEPT {
                self.failures.push(report);
            }
        }
    }

    /// The device, what of the table was gone through and by which strategies; empty where there is nothing to say.
    fn note(&self) -> String {
        let mut parts = Vec::new();
        if !self.model.is_empty() {
            let names: Vec<&str> = self.strategies.iter().map(|(name, _)| *name).collect();
            parts.push(format!("{}; strategies {}", self.model, names.join(", ")));
        }
        if self.every > 1 {
            parts.push(format!("one group of cases in {}, and of the large ones one in sixteen of these", self.every));
        }
        parts.join("; ")
    }

    /// The groups that were left when the time was over or the device was lost.
    fn missing(&self, journal: &Journal) -> Option<String> {
        let reason = if journal.lost().is_some() { "since the device was lost" } else { "within the time" };
        (self.not_reached > 0).then(|| {
            let Self { not_reached, groups, groups_done, .. } = self;
            format!("NOT REACHED {reason}: {not_reached} cases; {groups_done} of {groups} groups are complete")
        })
    }

    pub(super) fn to_text(&self, journal: &Journal) -> String {
        let head = ["operation", "dtype", "cases", "failed", "largest error / allowed"];
        let mut text = format!("{:<16} {:<6} {:>7} {:>7}  {}\n", head[0], head[1], head[2], head[3], head[4]);
        for ((op, dtype), Row { cases, failed, worst }) in &self.rows {
            text += &format!("{op:<16} {dtype:<6} {cases:>7} {failed:>7}  {worst:.3}\n");
        }
        for report in self.failures.iter().take(SHOWN) {
            let Report { case, strategy, .. } = report;
            let place = format!("strategy {strategy}, {}", report.plan_text());
            text += &format!("FAILED {place}: {case}\n       {}\n", one_line(&report.why()));
        }
        if self.failed() > SHOWN {
            text += &format!("and {} more failures\n", self.failed() - SHOWN);
        }
        let lost = journal.lost().map(ToString::to_string);
        let note = Some(self.note()).filter(|note| !note.is_empty());
        for line in lost.into_iter().chain(note).chain(self.missing(journal)) {
            text += &format!("{}\n", one_line(&line));
        }
        let Row { cases, failed, .. } = self.total;
        text + &format!("{cases} cases on {} against the f64 oracle: {failed} failed\n", self.device)
    }

    pub(super) fn to_json(&self, journal: &Journal) -> Value {
        let row = |((op, dtype), row): (&(&str, String), &Row)| {
            let mut row = row.to_json();
            row["op"] = json!(op);
            row["dtype"] = json!(dtype);
            row
        };
        let failure = |report: &Report| {
            json!({
                "strategy": report.strategy,
                "plan": report.plan.as_ref().map(plan_json),
                "case": report.case.to_string(),
                "failure": report.why(),
            })
        };
        let strategies = self.strategies.iter().map(|(name, row)| ((*name).to_owned(), row.to_json()));
        json!({
            "device": self.device.to_string(),
            "model": self.model,
            "note": self.note(),
            "version": env!("CARGO_PKG_VERSION"),
            "every": self.every,
            "groups": self.groups,
            "groups_complete": self.groups_done,
            "cases": self.total.cases,
            "failed": self.failed(),
            "not_reached": self.not_reached,
            "missing": self.missing(journal),
            "lost": journal.lost().map(|lost| json!({
                "strategy": lost.strategy,
                "plan": lost.plan,
                "case": lost.what,
                "failure": lost.why,
            })),
            "seconds": journal.began().elapsed().as_secs_f64(),
            "strategies": strategies.collect::<serde_json::Map<_, _>>(),
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "failures": self.failures.iter().map(failure).collect::<Vec<_>>(),
        })
    }
}

//! The results of a task: every subject's samples, and what follows from them.

use std::collections::BTreeMap;

use batchnorm::bench::{Pass, Row};
use serde_json::{Value, json};

use super::Task;
#[cfg(feature = "cuda")]
use super::subject::Samples;
use super::subject::{Outcome, Summary, Way};

/// The subject that is ours, planned as a user's would be.
pub(super) const OURS: &str = "batchnorm";
/// The beginning of the names of those that are ours under a forced strategy.
pub(super) const FORCED: &str = "batchnorm, ";
/// The subject that says what is possible.
pub(super) const FLOOR: &str = "floor";

/// One task's outcomes, or why it was left out.
pub(super) struct Measured {
    pub(super) row: Row,
    pub(super) operation: Pass,
    pub(super) name: String,
    pub(super) outcomes: Result<Vec<Outcome>, String>,
    pub(super) clocks: [Value; 2],
}

impl Measured {
    pub(super) fn new(task: &Task, outcomes: Result<Vec<Outcome>, String>, clocks: [Value; 2]) -> Self {
        Self { row: task.row.clone(), operation: task.operation, name: task.name(), outcomes, clocks }
    }

    pub(super) fn left_out(task: &Task, reason: String) -> Self {
        Self::new(task, Err(reason), [Value::Null, Value::Null])
    }

    /// Bytes that must be moved.
    pub(super) fn bytes(&self) -> f64 {
        self.operation.bytes(&self.row) as f64
    }

    pub(super) fn outcomes(&self) -> &[Outcome] {
        self.outcomes.as_deref().unwrap_or_default()
    }

    /// The way that counts: the first of [`WAYS`] in which ours was measured. Nothing is compared with what was measured in
    /// another.
    pub(super) fn way(&self) -> Option<Way> {
        WAYS.into_iter().find(|&way| self.of(OURS, way).is_some())
    }

    /// The summary of a subject's samples in one way.
    pub(super) fn of(&self, name: &str, way: Way) -> Option<Summary> {
        self.outcomes().iter().find(|outcome| outcome.name == name).and_then(|outcome| summary(outcome, way))
    }

    /// Ours, in the way that counts.
    pub(super) fn ours(&self) -> Option<Summary> {
        self.of(OURS, self.way()?)
    }

    /// The median of the floor, in the way that counts.
    pub(super) fn floor(&self) -> Option<f64> {
        self.of(FLOOR, self.way()?).map(|summary| summary.median)
    }

    /// Name and median of every peer that has one in the way that counts.
    pub(super) fn peers(&self) -> impl Iterator<Item = (&str, f64)> {
        let is_peer =
            |outcome: &&Outcome| outcome.name != FLOOR && outcome.name != OURS && !outcome.name.starts_with(FORCED);
        let way = self.way();
        let of = move |outcome: &Outcome| summary(outcome, way?).map(|summary| summary.median);
        let outcomes = self.outcomes().iter().filter(is_peer);
        outcomes.filter_map(move |outcome| Some((outcome.name.as_str(), of(outcome)?)))
    }

    pub(super) fn best_peer(&self) -> Option<(&str, f64)> {
        self.peers().min_by(|a, b| a.1.total_cmp(&b.1))
    }
}

/// Ways that tell how long an operation takes, the one that counts first: graph replays on a GPU, calls on the CPU; launches
/// back to back where nothing could be captured.
pub(super) const WAYS: [Way; 3] = [Way::Graph, Way::Call, Way::Eager];

/// The first of these in which all of these samples were taken.
#[cfg(feature = "cuda")]
pub(crate) fn way_of(all: &[&Samples]) -> Option<Way> {
    WAYS.into_iter().find(|way| all.iter().all(|samples| samples.get(way).is_some_and(|samples| !samples.is_empty())))
}

fn summary(outcome: &Outcome, way: Way) -> Option<Summary> {
    Summary::of(outcome.samples.as_ref().ok()?.get(&way)?)
}

/// Milliseconds of the 53 batch norms in a training step of ResNet-50, forward and backward, by batch, layout, dtype and way.
pub(super) fn totals(measured: &[Measured]) -> Vec<Total> {
    let mut totals = BTreeMap::<(usize, String, String), Vec<&Measured>>::new();
    let plain = |op: &Pass| ["train", "backward"].contains(&op.name().as_str());
    for measured in measured.iter().filter(|it| it.row.suite == "resnet50" && plain(&it.operation)) {
        let shape = measured.row.shape;
        totals
            .entry((shape.n(), shape.layout().to_string(), measured.row.dtype.to_string()))
            .or_default()
            .push(measured);
    }
    let mut found = Vec::new();
    for ((n, layout, dtype), parts) in totals {
        found.extend(WAYS.into_iter().filter_map(|way| Total::of(n, layout.clone(), dtype.clone(), way, &parts)));
    }
    found
}

/// Milliseconds of batch norm in a step, by subject.
pub(super) struct Total {
    pub(super) n: usize,
    pub(super) layout: String,
    pub(super) dtype: String,
    /// The way in which all of it was measured.
    pub(super) way: Way,
    pub(super) milliseconds: Vec<(String, f64)>,
}

impl Total {
    /// `None` unless somebody was measured on all 53 layers in both directions. Who lacks a row has no total.
    fn of(n: usize, layout: String, dtype: String, way: Way, parts: &[&Measured]) -> Option<Self> {
        if parts.iter().map(|part| part.row.count).sum::<u32>() != 2 * 53 {
            return None;
        }
        let names: Vec<String> = parts[0].outcomes().iter().map(|outcome| outcome.name.clone()).collect();
        let total = |name: String| {
            let times = parts.iter().map(|part| Some(f64::from(part.row.count) * part.of(&name, way)?.median * 1e3));
            let sum: Option<f64> = times.sum();
            sum.map(|sum| (name, sum))
        };
        let milliseconds: Vec<(String, f64)> = names.into_iter().filter_map(total).collect();
        (!milliseconds.is_empty()).then_some(Self { n, layout, dtype, way, milliseconds })
    }

    pub(super) fn to_json(&self) -> Value {
        let Self { n, layout, dtype, way, milliseconds } = self;
        let by_subject: serde_json::Map<String, Value> =
            milliseconds.iter().map(|(name, ms)| (name.clone(), json!(ms))).collect();
        json!({ "n": n, "layout": layout, "dtype": dtype, "way": way.name(), "by_subject": by_subject })
    }
}

//! What was measured, as a table and as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::machine;
use super::measured::{Measured, OURS, Total, totals};
use super::subject::{Outcome, Spread, Way};
use crate::device::Device;
use crate::failure::Failure;
use crate::output;

/// All of a run.
pub(super) struct Report {
    device: Device,
    seconds: f64,
    model: String,
    /// What the peers in Python said of themselves, or why there are none.
    pub(super) peers: Value,
    /// What the probes of a GPU found.
    pub(super) probes: Value,
    measured: Vec<Measured>,
}

impl Report {
    pub(super) fn new(device: Device, seconds: f64) -> Result<Self, Failure> {
        let model = match device {
            Device::Cpu => machine::processor(),
            #[cfg(feature = "cuda")]
            Device::Cuda(number) => crate::device::cuda(number)?.name()?,
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => return Err(device.not_built()),
        };
        Ok(Self { device, seconds, model, peers: Value::Null, probes: Value::Null, measured: Vec::new() })
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
        self.measured.push(measured);
    }

    pub(super) fn to_text(&self) -> String {
        let mut rows =
            vec![["row", "us", "GB/s", "of floor", "best peer", "its us", "ratio"].map(String::from).to_vec()];
        let mut left_out = Vec::new();
        for measured in &self.measured {
            match &measured.outcomes {
                Err(reason) => left_out.push(format!("left out: {}: {reason}\n", measured.name)),
                Ok(outcomes) => {
                    rows.push(line(measured));
                    let failed = outcomes.iter().filter(|outcome| outcome.name == OURS);
                    let failed = failed.filter_map(|outcome| outcome.samples.as_ref().err());
                    left_out.extend(failed.map(|reason| format!("failed: {}: {reason}\n", measured.name)));
                }
            }
        }
        let left_out = shortened(&left_out);
        format!("{}{left_out}{}{}", output::table(&rows, &[0, 4]), self.totals_text(), self.footnotes())
    }

    fn totals_text(&self) -> String {
        let of = |total: &Total| {
            let subjects = total.milliseconds.iter().map(|(name, ms)| format!("{name} {ms:.3}"));
            let Total { n, layout, dtype, .. } = total;
            format!(
                "ResNet-50 step, n={n} {layout} {dtype}, ms of batch norm: {}\n",
                subjects.collect::<Vec<_>>().join(", ")
            )
        };
        totals(&self.measured).iter().map(of).collect()
    }

    fn footnotes(&self) -> String {
        let mut notes = format!(
            "medians on {} ({}); GB/s count each tensor once; ratio: the best peer's time over ours\n",
            self.device, self.model
        );
        let mut includes = BTreeMap::new();
        for outcome in self.measured.iter().flat_map(Measured::outcomes) {
            let includes: &mut Option<String> = includes.entry(outcome.name.clone()).or_default();
            match &outcome.samples {
                Ok(_) => *includes = Some(format!("includes {}", outcome.includes)),
                // Of a subject that was measured on other rows, the JSON has the reason.
                Err(reason) if includes.is_none() => *includes = Some(format!("not measured: {reason}")),
                Err(_) => {}
            }
        }
        let texts = includes.into_iter().filter_map(|(name, text)| Some(format!("{name}: {}\n", text?)));
        notes.extend(texts);
        if let Some(reason) = self.peers["reason"].as_str() {
            notes += &format!("no peers in Python: {reason}\n");
        }
        notes
    }

    pub(super) fn to_json(&self) -> Value {
        let totals = totals(&self.measured);
        json!({
            "command": std::env::args().collect::<Vec<_>>().join(" "),
            "version": env!("CARGO_PKG_VERSION"),
            "built": machine::built(),
            "device": self.device.to_string(),
            "model": self.model,
            "threads": rayon::current_num_threads(),
            "seconds": self.seconds,
            "peers": self.peers,
            "probes": self.probes,
            "rows": self.measured.iter().map(to_json).collect::<Vec<_>>(),
            "resnet50_step_ms": totals.iter().map(Total::to_json).collect::<Vec<_>>(),
        })
    }
}

fn line(measured: &Measured) -> Vec<String> {
    let ours = measured.of(OURS).map(|spread| spread.median);
    let cell = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let peer = measured.best_peer();
    vec![
        measured.name.clone(),
        cell(ours.map(|ours| format!("{:.1}", ours * 1e6))),
        cell(ours.map(|ours| format!("{:.1}", measured.bytes() / ours / 1e9))),
        cell(ours.zip(measured.floor()).map(|(ours, floor)| format!("{:.0}%", floor / ours * 100.0))),
        cell(peer.map(|(name, _)| name.into())),
        cell(peer.map(|(_, time)| format!("{:.1}", time * 1e6))),
        cell(ours.zip(peer).map(|(ours, (_, time))| format!("{:.2}", time / ours))),
    ]
}

fn to_json(measured: &Measured) -> Value {
    let Measured { row, operation, name, clocks, .. } = measured;
    let outcome = |outcome: &Outcome| {
        let ways = outcome.samples.as_ref().map(|samples| {
            let of_way = |(way, samples): (&Way, &Vec<f64>)| {
                let Spread { median, min, max, samples } = Spread::of(samples)?;
                Some((way.name().into(), json!({ "median": median, "min": min, "max": max, "samples": samples })))
            };
            samples.iter().filter_map(of_way).collect::<serde_json::Map<_, _>>()
        });
        match ways {
            Ok(ways) => json!({ "name": outcome.name, "seconds": ways }),
            Err(reason) => json!({ "name": outcome.name, "reason": reason }),
        }
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

/// Of many lines the first few, and how many more there are.
fn shortened(lines: &[String]) -> String {
    const SHOWN: usize = 8;
    let more = lines.len().saturating_sub(SHOWN);
    let rest = if more > 0 { format!("and {more} more, all of them in the JSON\n") } else { String::new() };
    lines.iter().take(SHOWN).cloned().collect::<String>() + &rest
}

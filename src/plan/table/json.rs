//! A table as JSON, a line each of its rows, and back.
//!
//! ```text
//! {
//!   "format": 1
//!   "version", "kernels", "device": text
//!   "limits": every field of DeviceLimits by its name; clusters as
//!             {"one_cta_per_sm": {"2": N, "4": N, "8": N, "16": N}, "two_ctas_per_sm": the same}
//!   "driver": 13000 of CUDA 13.0
//!   "measured": "nanoseconds" or, on an emulated device, "counted_bytes"
//!   "rows": [{
//!     "op", "dtype", "layout", "n", "c", "s", "epilogue"
//!     "alignment": 16, or the bytes of one element
//!     "plan": PLAN
//!     "candidates": [{"plan": PLAN, "measured": number} or {"plan": PLAN, "left_out": why}]
//!   }]
//! }
//! PLAN   {"strategy", "access": text; "threads", "width", "chunk", "splits", "teams", "smem_iters"}
//! ```
//!
//! Nothing is taken that is not as this says: an unknown field, a key that occurs twice, a plan that the planner has not.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::key::Key;
use super::limits::{limits, limits_json};
use super::object::{Object, refused};
use super::{Candidate, MOST_CANDIDATES, MOST_ROWS, Measure, Origin, PlanTable};
use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::json::repeated_key;
use crate::memory;
use crate::op::{Epilogue, Op};
use crate::plan::Plan;
use crate::shape::Layout;
use crate::tensors::WholeFile;

/// The format's number.
const FORMAT: u64 = 1;
/// Bytes of a text at most.
const MOST_BYTES: usize = 1 << 25;
/// Bytes that a byte of text takes when it is parsed, about.
const OF_A_BYTE: usize = 16;

impl PlanTable {
    /// The table of a file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::PlanFile`] with the file's name and what [`PlanTable::parse`] says.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let told = |source| Error::Io { path: path.display().to_string(), source };
        let mut bytes = Vec::new();
        let most = MOST_BYTES as u64 + 1;
        File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)).map_err(told)?;
        let text = String::from_utf8(bytes).map_err(|error| refused("text", "UTF-8", error.utf8_error()));
        let table = text.and_then(|text| Self::parse(&text));
        table.map_err(|source| Error::PlanFile { path: path.display().to_string(), source: Box::new(source) })
    }

    /// Writes the table into a file, whole or not at all.
    ///
    /// # Errors
    /// Those of [`WholeFile::create`] and [`WholeFile::keep`]; [`Error::PlanTable`] for a table of more text than
    /// [`PlanTable::parse`] takes.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let text = self.to_json();
        if text.len() > MOST_BYTES {
            return Err(refused("text", &format!("at most {MOST_BYTES} bytes"), text.len()));
        }
        let mut file = WholeFile::create(path)?;
        let told = |source| Error::Io { path: path.display().to_string(), source };
        file.write_all(text.as_bytes()).map_err(told)?;
        file.keep()
    }

    /// The text of a file.
    pub fn to_json(&self) -> String {
        let Origin { version, kernels, device, limits, driver } = &self.origin;
        let head = [
            ("format", json!(FORMAT)),
            ("version", json!(version)),
            ("kernels", json!(kernels)),
            ("device", json!(device)),
            ("limits", limits_json(limits)),
            ("driver", json!(driver)),
            ("measured", json!(self.measure.name())),
        ];
        let head: String = head.iter().map(|(name, value)| format!("{}: {value},\n", json!(name))).collect();
        let candidate = |candidate: &Candidate| match &candidate.outcome {
            Ok(measured) => json!({ "plan": plan_json(&candidate.plan), "measured": measured }),
            Err(why) => json!({ "plan": plan_json(&candidate.plan), "left_out": why }),
        };
        let rows = self.rows.iter().map(|row| {
            let Key { op, dtype, layout, n, c, s, epilogue, alignment } = row.key;
            let row = json!({
                "op": op.name(),
                "dtype": dtype.name(),
                "layout": layout.to_string(),
                "n": n,
                "c": c,
                "s": s,
                "epilogue": epilogue.name(),
                "alignment": alignment,
                "plan": plan_json(&row.plan),
                "candidates": row.candidates.iter().map(candidate).collect::<Vec<_>>(),
            });
            row.to_string()
        });
        format!("{{\n{head}\"rows\": [\n{}\n]\n}}\n", rows.collect::<Vec<_>>().join(",\n"))
    }

    /// The table of a text that [`PlanTable::to_json`] made.
    ///
    /// # Errors
    /// [`Error::PlanTable`] with the place, what was expected there and what was found: for a text that is no such table, and for a
    /// row that [`PlanTable::insert`] refuses. [`Error::OutOfMemory`].
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > MOST_BYTES {
            return Err(refused("text", &format!("at most {MOST_BYTES} bytes"), "more"));
        }
        memory::expect_room(text.len().saturating_mul(OF_A_BYTE))?;
        let misread = |error: serde_json::Error| refused("text", "JSON", error);
        if let Some(key) = repeated_key(text).map_err(misread)? {
            return Err(refused("text", "each key once in an object", format!("\"{key}\" twice in one")));
        }
        let value: Value = serde_json::from_str(text).map_err(misread)?;
        let table = Object::new("table", &value)?;
        // The format comes first, since what follows is that of one format alone.
        let format: u64 = table.number("format")?;
        if format != FORMAT {
            return Err(refused("format", &FORMAT.to_string(), format));
        }
        table.expect(&["format", "version", "kernels", "device", "limits", "driver", "measured", "rows"])?;
        let origin = Origin {
            version: table.text("version")?.into(),
            kernels: table.text("kernels")?.into(),
            device: table.text("device")?.into(),
            limits: limits(&table.object("limits")?)?,
            driver: table.number("driver")?,
        };
        let mut parsed = Self::new(origin, table.named("measured", Measure::named, Measure::ALL, Measure::name)?);
        for (i, row) in table.list("rows", MOST_ROWS)?.iter().enumerate() {
            parsed.parse_row(&Object::new(&format!("row {}", i + 1), row)?)?;
        }
        Ok(parsed)
    }

    fn parse_row(&mut self, row: &Object<'_>) -> Result<()> {
        row.expect(&["op", "dtype", "layout", "n", "c", "s", "epilogue", "alignment", "plan", "candidates"])?;
        const LAYOUTS: &[Layout] = &[Layout::ChannelsFirst, Layout::ChannelsLast];
        let layout = |name: &str| LAYOUTS.iter().copied().find(|layout| layout.to_string() == name);
        let given = Key {
            op: row.named("op", Op::named, Op::ALL, Op::name)?,
            dtype: row.named("dtype", Dtype::named, Dtype::ON_CUDA, Dtype::name)?,
            layout: row.named("layout", layout, LAYOUTS, |layout| layout.to_string())?,
            n: row.number("n")?,
            c: row.number("c")?,
            s: row.number("s")?,
            epilogue: row.named("epilogue", Epilogue::named, Epilogue::ALL, |kind| kind.name())?,
            alignment: row.number("alignment")?,
        };
        let key = Key::of(&given.problem().map_err(|error| refused(&row.place, "a problem", error))?);
        if key != given {
            return Err(refused(&row.place, &key.to_string(), given));
        }
        let plans = self.plans(&key)?.into_values().map(|plan| (plan_json(&plan), plan)).collect::<Vec<_>>();
        let plan = |of: &Object<'_>| {
            let value = of.value("plan")?;
            let found = plans.iter().find(|(json, _)| json == value).map(|(_, plan)| *plan);
            found.ok_or_else(|| refused(&of.place, &format!("one of the {} plans of {key}", plans.len()), value))
        };
        let mut candidates = Vec::new();
        for (i, value) in row.list("candidates", MOST_CANDIDATES)?.iter().enumerate() {
            let candidate = Object::new(&format!("{}, candidate {}", row.place, i + 1), value)?;
            let outcome = if candidate.map.contains_key("left_out") {
                candidate.expect(&["plan", "left_out"])?;
                Err(candidate.text("left_out")?.into())
            } else {
                candidate.expect(&["plan", "measured"])?;
                Ok(candidate.float("measured")?)
            };
            candidates.push(Candidate { plan: plan(&candidate)?, outcome });
        }
        self.add(key, &row.place, plan(row)?, candidates)
    }
}

/// The choices that tell a plan from others, by names.
fn plan_json(plan: &Plan) -> Value {
    let t = &plan.tiling;
    json!({
        "strategy": plan.strategy.name(),
        "access": t.access.name(),
        "threads": t.threads,
        "width": t.width,
        "chunk": t.chunk,
        "splits": t.splits,
        "teams": t.teams,
        "smem_iters": t.smem_iters,
    })
}

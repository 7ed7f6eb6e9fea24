//! Tables of measured plans: which plan was best for a problem on one device, as `batchnorm tune` found it.
//!
//! A table chooses among [`Plan::all`] and makes no plan: whatever a file says, what is launched is one of the plans that the
//! planner has for the problem on that device. Same table, same plans, same bits.

mod json;
mod key;
mod limits;
mod object;

use core::fmt;
use std::collections::HashMap;

use super::shortlist::Identity;
use super::{DeviceLimits, Plan};
use crate::error::{Error, Result};
use crate::op::Problem;
use key::Key;

/// Rows of a table at most.
const MOST_ROWS: usize = 1 << 14;
/// Candidates of a row at most.
const MOST_CANDIDATES: usize = 1 << 9;
/// Characters of a text at most: a device's name, or why a candidate was left out.
const MOST_CHARACTERS: usize = 1 << 10;

/// The device and the build that a table's plans were measured on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The version of this crate.
    pub version: String,
    /// The hash of the kernels' sources.
    pub kernels: String,
    /// The name of the device.
    pub device: String,
    /// The limits that its plans were made for: all of the device's.
    pub limits: DeviceLimits,
    /// The CUDA version of the driver, as the driver gives it: 13000 is 13.0. For who reads the table: a table holds with other
    /// drivers too.
    pub driver: u32,
}

impl Origin {
    /// Refuses a table of another device, another version of the crate or other kernels.
    ///
    /// # Errors
    /// [`Error::ForeignPlanTable`].
    pub fn check(&self, table: &PlanTable) -> Result<()> {
        let refused = |what, expected: &dyn fmt::Debug, actual: &dyn fmt::Debug| {
            Err(Error::ForeignPlanTable { what, expected: format!("{expected:?}"), actual: format!("{actual:?}") })
        };
        let Self { version, kernels, device, limits: of_table, driver: _ } = &table.origin;
        if self.version != *version {
            return refused("version of this crate", &self.version, version);
        }
        if self.kernels != *kernels {
            return refused("hash of the kernels", &self.kernels, kernels);
        }
        if self.device != *device {
            return refused("device", &self.device, device);
        }
        match limits::difference(&self.limits, of_table) {
            Some([expected, actual]) => Err(Error::ForeignPlanTable { what: "limits of the device", expected, actual }),
            None => Ok(()),
        }
    }
}

/// The quantity by which plans were compared: the less the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The time of an operation.
    Nanoseconds,
    /// Bytes between the device's memory and its threads: of an emulated device, which has no time.
    CountedBytes,
}

crate::named::named! {
    Measure {
        Nanoseconds => "nanoseconds",
        CountedBytes => "counted_bytes",
    }
}

/// A plan that was measured for a problem, or was left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The plan.
    pub plan: Plan,
    /// The measured value, by the table's [`Measure`]; or in words why the plan was left out: it failed, or gave another result
    /// than the reference.
    pub outcome: Result<f64, String>,
}

/// A problem, its plan, and what that was chosen from.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanRow {
    key: Key,
    plan: Plan,
    candidates: Vec<Candidate>,
}

impl PlanRow {
    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The plans that were tried. None in a row that was not measured.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }
}

/// The problem in words.
impl fmt::Display for PlanRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.fmt(f)
    }
}

/// Plans by problems, of one device.
#[derive(Clone, PartialEq)]
pub struct PlanTable {
    origin: Origin,
    measure: Measure,
    rows: Vec<PlanRow>,
    /// The row of each problem.
    places: HashMap<Key, usize>,
}

impl PlanTable {
    /// A table without rows.
    pub fn new(origin: Origin, measure: Measure) -> Self {
        Self { origin, measure, rows: Vec::new(), places: HashMap::new() }
    }

    /// The device and the build that it is of.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The quantity that was measured.
    pub fn measure(&self) -> Measure {
        self.measure
    }

    /// Its rows, in the order in which they came.
    pub fn rows(&self) -> &[PlanRow] {
        &self.rows
    }

    /// The plan of a problem, where the table has one.
    pub fn plan_of(&self, problem: &Problem) -> Option<Plan> {
        let place = *self.places.get(&Key::of(problem))?;
        Some(self.rows.get(place)?.plan)
    }

    /// Adds a row: this plan for the problem, chosen from these candidates. Where there are any, the plan is one of those that were
    /// measured.
    ///
    /// # Errors
    /// [`Error::PlanTable`] for a problem that the table has already, that no device computes or that has no values; for what is none
    /// of the problem's plans on this device, comes twice, or was measured as no number of at least 0; for more than 16384 rows or
    /// 512 candidates.
    pub fn insert(&mut self, problem: &Problem, plan: Plan, candidates: Vec<Candidate>) -> Result<()> {
        let key = Key::of(problem);
        let place = format!("row {}", self.rows.len() + 1);
        let refused =
            |expected: String, actual: String| Err(Error::PlanTable { place: place.clone(), expected, actual });
        let all = self.plans(&key)?;
        // The planner's own, whatever else is in the caller's: the fields of a plan are anyone's to set.
        let known = |plan: &Plan| match all.get(&Identity::of(plan)) {
            Some(known) => Ok(*known),
            None => refused(format!("one of the {} plans of {key}", all.len()), Identity::of(plan).to_string()),
        };
        let known_candidate = |Candidate { plan, outcome }| Ok(Candidate { plan: known(&plan)?, outcome });
        let candidates = candidates.into_iter().map(known_candidate).collect::<Result<Vec<_>>>()?;
        self.add(key, &place, known(&plan)?, candidates)
    }

    /// Every plan of a problem on the table's device.
    fn plans(&self, key: &Key) -> Result<HashMap<Identity, Plan>> {
        let plans = Plan::all(&key.problem()?, &self.origin.limits);
        Ok(plans.into_iter().map(|plan| (Identity::of(&plan), plan)).collect())
    }

    /// Adds a row whose plans are known to be the problem's.
    fn add(&mut self, key: Key, place: &str, plan: Plan, candidates: Vec<Candidate>) -> Result<()> {
        let refused =
            |expected: String, actual: String| Err(Error::PlanTable { place: place.into(), expected, actual });
        if !key.dtype.is_on_cuda() {
            return refused("a dtype that CUDA devices compute".into(), key.dtype.to_string());
        }
        if self.rows.len() >= MOST_ROWS {
            return refused(format!("at most {MOST_ROWS} rows"), "more".into());
        }
        if let Some(before) = self.places.get(&key) {
            return refused(
                "a problem that the table has not yet".into(),
                format!("{key}, that of row {}", before + 1),
            );
        }
        if candidates.len() > MOST_CANDIDATES {
            return refused(format!("at most {MOST_CANDIDATES} candidates"), candidates.len().to_string());
        }
        let mut seen = HashMap::new();
        for Candidate { plan, outcome } in &candidates {
            match outcome {
                Ok(measured) if !(measured.is_finite() && *measured >= 0.0) => {
                    return refused(format!("{} of at least 0", self.measure.name()), measured.to_string());
                }
                Err(words) if words.chars().count() > MOST_CHARACTERS => {
                    return refused(format!("at most {MOST_CHARACTERS} characters of a reason"), "more".into());
                }
                Ok(_) | Err(_) => {}
            }
            if seen.insert(Identity::of(plan), outcome.is_ok()).is_some() {
                return refused("each candidate once".into(), format!("{} twice", Identity::of(plan)));
            }
        }
        if !candidates.is_empty() && seen.get(&Identity::of(&plan)) != Some(&true) {
            return refused("a plan that is a measured candidate".into(), Identity::of(&plan).to_string());
        }
        self.places.insert(key, self.rows.len());
        self.rows.push(PlanRow { key, plan, candidates });
        Ok(())
    }
}

/// The origin and the number of rows.
impl fmt::Debug for PlanTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, measure, rows, .. } = self;
        f.debug_struct("PlanTable")
            .field("origin", origin)
            .field("measure", measure)
            .field("rows", &rows.len())
            .finish_non_exhaustive()
    }
}

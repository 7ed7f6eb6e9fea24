//! The result of a case.

use core::fmt;
use core::result::Result;

use super::{Case, Failure};
use crate::Plan;

/// The result of a case on one backend.
#[derive(Debug)]
pub struct Report {
    /// The case.
    pub case: Case,
    /// The strategy that was forced, or `auto`.
    pub strategy: &'static str,
    /// The plan that was launched, where the backend plans.
    pub plan: Option<Plan>,
    /// The largest error as a share of what is allowed, or what failed.
    pub result: Result<f64, Failure>,
}

impl Report {
    /// Whether the forced strategy has no room for the case, or the device does not have it: then nothing was to be checked.
    pub fn is_left_out(&self) -> bool {
        self.result.as_ref().err().is_some_and(Failure::is_left_out)
    }

    /// Whether the journal was over before its turn came.
    pub fn is_unreached(&self) -> bool {
        matches!(self.result, Err(Failure::NotReached))
    }

    /// Whether it ran and is wrong, or was refused where it should not be.
    pub fn is_failure(&self) -> bool {
        self.result.is_err() && !self.is_left_out() && !self.is_unreached()
    }

    /// Whether the device was lost in it.
    pub fn is_lost(&self) -> bool {
        self.result.as_ref().err().is_some_and(Failure::is_device_lost)
    }

    /// The failure in words; empty where nothing failed.
    pub fn why(&self) -> String {
        self.result.as_ref().err().map(ToString::to_string).unwrap_or_default()
    }

    /// The plan as one line.
    pub fn plan_text(&self) -> String {
        plan_text(self.plan.as_ref())
    }
}

/// Strategy, plan and case, and what failed where something did.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case, strategy, .. } = self;
        write!(f, "strategy {strategy}, {}: {case}", self.plan_text())?;
        if self.result.is_err() { write!(f, ": {}", self.why()) } else { Ok(()) }
    }
}

pub(super) fn plan_text(plan: Option<&Plan>) -> String {
    plan.map_or_else(|| "no plan".into(), ToString::to_string)
}

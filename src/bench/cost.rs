//! The planner's model of time, open to who fits its constants to what was measured. No promise: it follows the planner.

use crate::op::Problem;
pub use crate::plan::cost::{Constants, Phase};
use crate::plan::{DeviceLimits, Plan, Strategy};

/// Every plan that a strategy has for a problem, with its time by these constants.
pub fn plans(constants: &Constants, problem: &Problem, limits: &DeviceLimits, strategy: Strategy) -> Vec<Plan> {
    Plan::all_of(constants, problem, limits, strategy)
}

/// The time of a plan by these constants, in nanoseconds.
pub fn nanoseconds(constants: &Constants, problem: &Problem, limits: &DeviceLimits, plan: &Plan) -> f64 {
    crate::plan::prediction::nanoseconds(constants, problem, limits, plan.strategy, &plan.tiling)
}

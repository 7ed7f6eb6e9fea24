//! The planner: how the CUDA backend cuts a problem, and what it would do on a device that is not at hand. **No part of the promise of
//! versions: any release may change names, fields and numbers here**, as kernels are tuned.
//!
//! It is the one place that chooses: a checked [`Problem`] on a device becomes a [`Plan`]: strategy, geometry, workspace. Pure: no
//! driver, no pointer. Whatever runs after a `Plan` follows it and chooses nothing.

// The files import each other one way: strategy, kernels, traffic <- limits, access <- tile <- residency, cost <- prediction <- this one
// <- shortlist <- table.
mod access;
#[cfg_attr(not(feature = "bench"), allow(unreachable_pub, reason = "who fits the constants has that feature"))]
pub(crate) mod cost;
mod kernels;
mod limits;
pub(crate) mod prediction;
mod residency;
mod shortlist;
mod strategy;
mod table;
mod tile;
mod traffic;

use core::fmt;

use crate::error::{Error, Result};
use crate::op::Problem;
pub use access::Access;
use cost::Constants;
pub use limits::DeviceLimits;
pub use strategy::Strategy;
pub use table::{Candidate, Measure, Origin, PlanRow, PlanTable};
pub use tile::Tiling;
use traffic::partial_passes;

/// The launch of a problem: strategy, tiling, workspace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// The memory in which a channel's values stay between their two uses.
    pub strategy: Strategy,
    /// The cut of the tensors.
    pub tiling: Tiling,
    /// Scratch memory that the launches need, in bytes.
    pub workspace_bytes: usize,
    /// The time that the cost model predicts, in nanoseconds: for comparing plans with each other. Its constants are
    /// estimates, not measurements.
    pub predicted_ns: f64,
}

/// One line for journals and messages, by the names of the fields.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tiling { access, threads, tiles, splits, teams, smem_iters, shared_bytes, .. } = self.tiling;
        let (strategy, iterations) = (self.strategy, self.tiling.iterations());
        write!(
            f,
            "{strategy} {access:?} threads={threads} tiles={tiles} splits={splits} teams={teams} \
             smem_iters={smem_iters}/{iterations} shared_bytes={shared_bytes}"
        )
    }
}

impl Plan {
    /// Threads per CTA at most. The kernels are compiled for it.
    pub const MAX_THREADS: u32 = kernels::MAX_THREADS;
    /// CTAs of [`Plan::MAX_THREADS`] threads that every kernel's registers leave room for on an SM.
    pub const MIN_CTAS: u32 = kernels::MIN_CTAS;
    /// Bytes of a vector, the unit of every load and store but those of single elements.
    pub const VECTOR_BYTES: u32 = kernels::VECTOR_BYTES;
    /// The sizes of clusters that exist, smallest first.
    pub const CLUSTER_SIZES: [u32; 4] = kernels::CLUSTER_SIZES;
    /// Exchanges of a team in one launch at most.
    pub const MAX_EXCHANGES: u32 = kernels::MAX_EXCHANGES;
    /// Bytes of the tickets, which come first in a workspace, and of the counter of exchanges behind them.
    pub const COUNTER_BYTES: usize = kernels::COUNTER_BYTES;
    /// Bytes before the partials in a workspace, whatever the plan: plans of all kinds use one after the other.
    pub const HEAD_BYTES: usize = kernels::HEAD_BYTES;
    /// Bytes of one partial: four floats.
    pub const PARTIAL_BYTES: usize = kernels::PARTIAL_BYTES;
    /// Partials of threads in shared memory at most, while a CTA reduces them with strided access.
    pub const MAX_SLOTS: u32 = kernels::MAX_SLOTS;
    /// Partials of one pass or exchange at most, which bounds every workspace, whatever the batch: a mebibyte. Not
    /// measured.
    pub const MAX_PARTIALS: usize = kernels::MAX_PARTIALS;

    /// The plan of least predicted time, or the best one of a forced strategy. For an empty problem nothing is planned.
    ///
    /// A forced strategy concerns operations with the batch's statistics: the others need every value once.
    ///
    /// # Errors
    /// [`Error::Strategy`] where the forced strategy cannot hold the problem on this device, [`Error::NoStrategy`] where
    /// the device does not have what it takes.
    pub fn new(problem: &Problem, limits: &DeviceLimits, forced: Option<Strategy>) -> Result<Self> {
        let limits = &limits.countable();
        let plans = |strategy| Self::best_of(problem, limits, strategy);
        let best = match forced {
            Some(strategy) if Self::has_choice(problem) => plans(strategy),
            _ => Self::best_of_each(problem, limits).into_iter().reduce(|best, plan| {
                // The earlier one where they are equal.
                if plan.predicted_ns < best.predicted_ns { plan } else { best }
            }),
        };
        best.ok_or_else(|| Self::refused(problem, limits, forced.unwrap_or(Strategy::TwoPass)))
    }

    /// The best plan of each strategy that can hold the problem, in the order of [`Strategy::ALL`]. For an empty problem the
    /// one that does nothing.
    pub fn candidates(problem: &Problem, limits: &DeviceLimits) -> Vec<Self> {
        Self::best_of_each(problem, &limits.countable())
    }

    fn best_of_each(problem: &Problem, limits: &DeviceLimits) -> Vec<Self> {
        Self::strategies(problem).iter().filter_map(|&strategy| Self::best_of(problem, limits, strategy)).collect()
    }

    /// The strategies that there are for a problem.
    fn strategies(problem: &Problem) -> &'static [Strategy] {
        if Self::has_choice(problem) { Strategy::ALL } else { &[Strategy::TwoPass] }
    }

    fn best_of(problem: &Problem, limits: &DeviceLimits, strategy: Strategy) -> Option<Self> {
        if problem.shape().is_empty() {
            return Some(Self::with(problem, strategy, Tiling::EMPTY, 0.0));
        }
        let plans = Self::all_of(&Constants::PLANNED_BY, problem, limits, strategy);
        plans.into_iter().reduce(|best, next| if next.predicted_ns < best.predicted_ns { next } else { best })
    }

    /// Every plan of a strategy, priced by these constants; none for an empty problem.
    pub(crate) fn all_of(
        constants: &Constants,
        problem: &Problem,
        limits: &DeviceLimits,
        strategy: Strategy,
    ) -> Vec<Self> {
        let tilings =
            if problem.shape().is_empty() { Vec::new() } else { residency::candidates(problem, limits, strategy) };
        let priced = |tiling: Tiling| {
            let ns = prediction::nanoseconds(constants, problem, limits, strategy, &tiling);
            Self::with(problem, strategy, tiling, ns)
        };
        tilings.into_iter().map(priced).collect()
    }

    fn refused(problem: &Problem, limits: &DeviceLimits, strategy: Strategy) -> Error {
        let ctas = match strategy {
            Strategy::Cluster => limits.largest_cluster(),
            Strategy::Grid if !limits.cooperative => 0,
            Strategy::Grid => limits.sms,
            Strategy::Block | Strategy::TwoPass => 1,
        };
        if ctas == 0 {
            return Error::NoStrategy { strategy };
        }
        let limit = ctas as usize * limits.shared_per_cta as usize;
        Error::Strategy { strategy, limit, actual: tile::least_tile_bytes(problem) }
    }

    /// The scratch memory that is enough for this problem and for any smaller batch of it, in bytes.
    ///
    /// A smaller batch may need more than a larger one: its plan may split tiles that the other's keeps on chip.
    pub fn most_workspace_bytes(problem: &Problem, limits: &DeviceLimits, forced: Option<Strategy>) -> usize {
        if problem.shape().is_empty() {
            return Self::HEAD_BYTES;
        }
        let limits = &limits.countable();
        let forced = forced.filter(|_| Self::has_choice(problem));
        let partials = |strategy| match strategy {
            Strategy::Block | Strategy::Cluster => 0,
            Strategy::Grid => residency::most_grid_partials(problem, limits),
            Strategy::TwoPass => partial_passes(problem) * residency::most_pass_partials(problem, limits),
        };
        let most =
            Strategy::ALL.iter().copied().filter(|&s| forced.is_none_or(|forced| forced == s)).map(partials).max();
        Self::HEAD_BYTES + most.unwrap_or(0) * Self::PARTIAL_BYTES
    }

    /// Whether there is more than one strategy: where every value is needed once and nothing has to be reduced, or there is
    /// no value, there is not.
    fn has_choice(problem: &Problem) -> bool {
        problem.op().needs_batch_statistics() && !problem.shape().is_empty()
    }

    fn with(problem: &Problem, strategy: Strategy, tiling: Tiling, predicted_ns: f64) -> Self {
        let partials = match strategy {
            Strategy::Block | Strategy::Cluster => 0,
            Strategy::Grid => residency::grid_partials(tiling.splits, tiling.teams, tiling.tile_channels),
            Strategy::TwoPass => partial_passes(problem) * tiling.splits as usize * problem.shape().c(),
        };
        let workspace_bytes = Self::HEAD_BYTES + partials * Self::PARTIAL_BYTES;
        Self { strategy, tiling, workspace_bytes, predicted_ns }
    }
}

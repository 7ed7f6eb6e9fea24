//! The one place that chooses: a checked problem on a device becomes a [`Plan`]: strategy, geometry, workspace.
//!
//! Pure: no driver, no pointer. Whatever runs after a `Plan` follows it and chooses nothing.

#[cfg_attr(not(feature = "bench"), allow(unreachable_pub, reason = "who fits the constants has that feature"))]
pub(crate) mod cost;
mod forms;
mod limits;
mod teams;
mod tiling;

use core::fmt;

use crate::error::{Error, Result};
use crate::op::{Op, Problem, StatisticsKind};
use cost::Constants;
pub use forms::Form;
pub use limits::DeviceLimits;
pub use tiling::Tiling;

/// Where a channel's values are between the two times that an operation needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// In the shared memory of one CTA: the data is read once.
    Block,
    /// In the shared memory of a thread-block cluster, which takes compute capability 9.0: the data is read once.
    Cluster,
    /// In the shared memory of a team of CTAs of a cooperative grid, as far as it fits: that much is read once.
    Grid,
    /// Nowhere: the data is read twice, the second time from the end, which is still in L2.
    TwoRead,
}

impl Strategy {
    /// Every strategy.
    pub const ALL: [Self; 4] = [Self::Block, Self::Cluster, Self::Grid, Self::TwoRead];

    /// The name on the command line and in error messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Cluster => "cluster",
            Self::Grid => "grid",
            Self::TwoRead => "two-read",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is to be launched for a problem.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Where a channel's values are in between.
    pub strategy: Strategy,
    /// How the tensors are cut.
    pub tiling: Tiling,
    /// Scratch memory that the launches need, in bytes.
    pub workspace_bytes: usize,
    /// The time that the cost model predicts, in nanoseconds: for comparing plans with each other. Its constants are
    /// estimates, not measurements.
    pub predicted_ns: f64,
}

/// On one line, by the names of its fields: what goes into journals and messages.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tiling { form, threads, strips, splits, teams, held_steps, shared_bytes, .. } = self.tiling;
        let (strategy, steps) = (self.strategy, self.tiling.steps());
        write!(
            f,
            "{strategy} {form:?} threads={threads} strips={strips} splits={splits} teams={teams} \
             held_steps={held_steps}/{steps} shared_bytes={shared_bytes}"
        )
    }
}

impl Plan {
    /// The most threads of a CTA. The kernels are compiled for it.
    pub const MAX_THREADS: u32 = 256;
    /// CTAs of [`Plan::MAX_THREADS`] threads that every kernel's registers leave room for on an SM.
    pub const MIN_CTAS: u32 = 2;
    /// Teams of a cooperative grid at most: each has a counter in the workspace.
    pub const MAX_TEAMS: u32 = 128;
    /// What lies between two of these counters.
    pub const COUNTER_BYTES: usize = 64;
    /// Where the counters begin: the ticket comes first, alone in its cache line.
    pub const TICKET_BYTES: usize = 256;
    /// What comes before the partials in a workspace, whatever the plan: plans of all kinds use one after the other.
    pub const HEAD_BYTES: usize = Self::TICKET_BYTES + Self::MAX_TEAMS as usize * Self::COUNTER_BYTES;
    /// One partial: four floats.
    pub const PARTIAL_BYTES: usize = 16;
    /// Partials of one pass or exchange at most, which bounds every workspace, whatever the batch: a mebibyte. Not
    /// measured.
    pub const MAX_PARTIALS: usize = 1 << 16;

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
        best.ok_or_else(|| Self::refused(problem, limits, forced.unwrap_or(Strategy::TwoRead)))
    }

    /// The best plan of each strategy that can hold the problem, in the order of [`Strategy::ALL`]. For an empty problem the
    /// one that does nothing.
    pub fn candidates(problem: &Problem, limits: &DeviceLimits) -> Vec<Self> {
        Self::best_of_each(problem, &limits.countable())
    }

    fn best_of_each(problem: &Problem, limits: &DeviceLimits) -> Vec<Self> {
        let strategies = if Self::has_choice(problem) { &Strategy::ALL[..] } else { &[Strategy::TwoRead] };
        strategies.iter().filter_map(|&strategy| Self::best_of(problem, limits, strategy)).collect()
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
            if problem.shape().is_empty() { Vec::new() } else { tiling::candidates(problem, limits, strategy) };
        let priced = |tiling: Tiling| {
            let ns = cost::nanoseconds(constants, problem, limits, strategy, &tiling);
            Self::with(problem, strategy, tiling, ns)
        };
        tilings.into_iter().map(priced).collect()
    }

    fn refused(problem: &Problem, limits: &DeviceLimits, strategy: Strategy) -> Error {
        let ctas = match strategy {
            Strategy::Cluster => limits.largest_cluster(),
            Strategy::Grid if !limits.cooperative => 0,
            Strategy::Grid => limits.sms,
            Strategy::Block | Strategy::TwoRead => 1,
        };
        if ctas == 0 {
            return Error::NoStrategy { strategy };
        }
        let limit = ctas as usize * limits.shared_per_cta as usize;
        Error::Strategy { strategy, limit, actual: tiling::least_strip_bytes(problem) }
    }

    /// The scratch memory that is enough for this problem and for any smaller batch of it, in bytes.
    ///
    /// A smaller batch may need more than a larger one: its plan may split strips that the other's holds on chip.
    pub fn most_workspace_bytes(problem: &Problem, limits: &DeviceLimits, forced: Option<Strategy>) -> usize {
        if problem.shape().is_empty() {
            return Self::HEAD_BYTES;
        }
        let limits = &limits.countable();
        let forced = forced.filter(|_| Self::has_choice(problem));
        let partials = |strategy| match strategy {
            Strategy::Block | Strategy::Cluster => 0,
            Strategy::Grid => tiling::most_grid_partials(problem, limits),
            Strategy::TwoRead => Self::partial_passes(problem) * tiling::most_partials(problem, limits),
        };
        let most = Strategy::ALL.into_iter().filter(|&s| forced.is_none_or(|forced| forced == s)).map(partials).max();
        Self::HEAD_BYTES + most.unwrap_or(0) * Self::PARTIAL_BYTES
    }

    /// Whether there is more than one strategy: where every value is needed once and nothing has to be merged, or there is
    /// no value, there is not.
    fn has_choice(problem: &Problem) -> bool {
        let merges = match problem.op() {
            Op::Moments | Op::Train | Op::Backward(StatisticsKind::Batch) => true,
            Op::Infer | Op::Backward(StatisticsKind::Running) => false,
        };
        merges && !problem.shape().is_empty()
    }

    fn with(problem: &Problem, strategy: Strategy, tiling: Tiling, predicted_ns: f64) -> Self {
        let partials = match strategy {
            Strategy::Block | Strategy::Cluster => 0,
            Strategy::Grid => teams::partials(tiling.splits, tiling.teams, tiling.strip_channels),
            Strategy::TwoRead => Self::partial_passes(problem) * tiling.splits as usize * problem.shape().c(),
        };
        let workspace_bytes = Self::HEAD_BYTES + partials * Self::PARTIAL_BYTES;
        Self { strategy, tiling, workspace_bytes, predicted_ns }
    }

    /// The passes of a two_read that leave partials.
    fn partial_passes(problem: &Problem) -> usize {
        match problem.op() {
            Op::Infer => 0,
            // The means have to be known before the mask that is computed from them.
            Op::Backward(StatisticsKind::Batch) if problem.epilogue().recomputes_v() => 2,
            Op::Moments | Op::Train | Op::Backward(_) => 1,
        }
    }
}

//! The one place that chooses: a checked problem on a device becomes a [`Plan`]: strategy, geometry, workspace.
//!
//! Pure: no driver, no pointer. Whatever runs after a `Plan` follows it and chooses nothing.

mod cost;
mod forms;
mod tiling;

use core::fmt;

use crate::{Epilogue, Error, Op, Problem, Result};
pub use forms::Form;
pub use tiling::Tiling;

/// Where a channel's values are between the two times that an operation needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// In the shared memory of one CTA: the data is read once.
    Block,
    /// Nowhere: the data is read twice, the second time from the end, which is still in L2.
    TwoRead,
}

impl Strategy {
    /// Every strategy.
    pub const ALL: [Self; 2] = [Self::Block, Self::TwoRead];

    /// The name on the command line and in error messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::TwoRead => "two-read",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a device has of each thing that a plan must fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Major and minor compute capability.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors that a plan may fill.
    pub sms: u32,
    /// Shared memory of an SM, in bytes.
    pub shared_per_sm: u32,
    /// The most shared memory that one CTA may ask for, in bytes.
    pub shared_per_cta: u32,
    /// Shared memory that the system takes of each CTA, in bytes.
    pub shared_reserved: u32,
    /// Threads that an SM holds.
    pub threads_per_sm: u32,
    /// CTAs that an SM holds.
    pub ctas_per_sm: u32,
    /// The L2 cache, in bytes.
    pub l2_bytes: u64,
    /// Whether a grid may be launched cooperatively.
    pub cooperative: bool,
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
}

impl Plan {
    /// The most threads of a CTA. The kernels are compiled for it.
    pub const MAX_THREADS: u32 = 256;
    /// CTAs of [`Plan::MAX_THREADS`] threads that every kernel's registers leave room for on an SM.
    pub const MIN_CTAS: u32 = 2;
    /// What comes before the partials in a workspace: the ticket, alone in its cache line.
    pub const TICKET_BYTES: usize = 256;
    /// One partial: four floats.
    pub const PARTIAL_BYTES: usize = 16;

    /// The plan of least predicted time, or the best one of a forced strategy. For an empty problem nothing is planned.
    ///
    /// A forced strategy concerns training and its backward pass: the other operations need every value once.
    ///
    /// # Errors
    /// [`Error::Strategy`] where the forced strategy cannot hold the problem on this device.
    pub fn new(problem: &Problem, limits: &DeviceLimits, forced: Option<Strategy>) -> Result<Self> {
        if problem.shape().is_empty() {
            return Ok(Self::with(problem, Strategy::TwoRead, Tiling::EMPTY));
        }
        let holds = Self::holds_strips(problem);
        let strategies = match forced {
            Some(strategy) if holds => &[strategy][..],
            _ if holds => &Strategy::ALL[..],
            _ => &[Strategy::TwoRead],
        };
        let mut best: Option<(f64, Self)> = None;
        for &strategy in strategies {
            for tiling in tiling::candidates(problem, limits, strategy) {
                let cost = cost::nanoseconds(problem, limits, strategy, &tiling);
                if best.is_none_or(|(least, _)| cost < least) {
                    best = Some((cost, Self::with(problem, strategy, tiling)));
                }
            }
        }
        best.map(|(_, plan)| plan).ok_or_else(|| {
            let actual = tiling::least_strip_bytes(problem);
            Error::Strategy { strategy: Strategy::Block, limit: limits.shared_per_cta as usize, actual }
        })
    }

    /// The scratch memory that is enough for this problem and for any smaller batch of it, in bytes.
    ///
    /// A smaller batch may need more than a larger one: its plan may split strips that the other's holds on chip.
    pub fn most_workspace_bytes(problem: &Problem, limits: &DeviceLimits, forced: Option<Strategy>) -> usize {
        let strategy =
            if Self::holds_strips(problem) { forced.unwrap_or(Strategy::TwoRead) } else { Strategy::TwoRead };
        let passes = Self::partial_passes(problem, strategy);
        Self::TICKET_BYTES + passes * tiling::most_partials(problem, limits) * Self::PARTIAL_BYTES
    }

    /// Only training and its backward pass hold strips: the other operations need every value once, in any strategy.
    fn holds_strips(problem: &Problem) -> bool {
        matches!(problem.op(), Op::Train | Op::Backward)
    }

    fn with(problem: &Problem, strategy: Strategy, tiling: Tiling) -> Self {
        let partials = Self::partial_passes(problem, strategy) * tiling.splits as usize * problem.shape().c();
        Self { strategy, tiling, workspace_bytes: Self::TICKET_BYTES + partials * Self::PARTIAL_BYTES }
    }

    /// The passes that leave partials.
    fn partial_passes(problem: &Problem, strategy: Strategy) -> usize {
        match (strategy, problem.op(), problem.epilogue()) {
            (Strategy::Block, ..) | (_, Op::Infer, _) => 0,
            // The means have to be known before the mask that is computed from them.
            (Strategy::TwoRead, Op::Backward, Epilogue::Relu) => 2,
            (Strategy::TwoRead, ..) => 1,
        }
    }
}

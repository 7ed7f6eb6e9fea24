//! What a plan should cost: a model of its time, to compare plans by, and THE table of its constants.

use super::forms::Form;
use super::tiling::packs_mask;
use super::{DeviceLimits, Plan, Strategy, Tiling};
use crate::op::{Op, Problem, StatisticsKind};

/// Vectors of data that a thread keeps in flight, in every kernel that moves data.
const IN_FLIGHT: f64 = 8.0;

/// THE constants of the model. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constants {
    /// The share of its peak bandwidth at which memory can be read and written in turn.
    pub dram_efficiency: f64,
    /// Bytes that one SM can load and store in a nanosecond.
    pub sm_bytes_per_ns: f64,
    /// How long a load takes under load.
    pub latency: f64,
    /// How much faster L2 answers than DRAM.
    pub l2_speed: f64,
    /// The share of L2 in which the end of a pass is found again.
    pub l2_kept: f64,
    /// The share of a transaction that is used where rows have 64 bytes or more, and less than 128.
    pub stride_64: f64,
    /// The same from 32 bytes on.
    pub stride_32: f64,
    /// Below 32 bytes the share is that of these bytes.
    pub burst_bytes: f64,
    /// A launch in a busy stream.
    pub launch: f64,
    /// What a cooperative launch takes on top.
    pub cooperative: f64,
    /// From the last value loaded to the first one stored: the merges within a CTA.
    pub merge: f64,
    /// The exchange between the CTAs of a cluster.
    pub cluster_exchange: f64,
    /// A meeting of the CTAs of a team through global memory.
    pub grid_meeting: f64,
    /// The share of these three that shows where an SM holds strips in different phases.
    pub hidden_shows: f64,
}

impl Constants {
    /// The ones that plans are made by. `examples/fit_cost_model` fits them to what `batchnorm bench` measured.
    pub const PLANNED_BY: Self = Self {
        // Not measured.
        dram_efficiency: 0.92,
        // Not measured: 64 a clock at the most, of which some two thirds.
        sm_bytes_per_ns: 70.0,
        // Not measured.
        latency: 700.0,
        // Not measured.
        l2_speed: 2.5,
        // Not measured.
        l2_kept: 0.5,
        // Not measured: some loss of order up to 128 bytes.
        stride_64: 0.85,
        // Not measured.
        stride_32: 0.6,
        // Not measured: bursts of DRAM.
        burst_bytes: 64.0,
        // Not measured.
        launch: 2500.0,
        // Not measured.
        cooperative: 1000.0,
        // Not measured.
        merge: 1000.0,
        // Not measured.
        cluster_exchange: 700.0,
        // Not measured.
        grid_meeting: 1500.0,
        // Not measured.
        hidden_shows: 0.3,
    };

    /// The share of a transaction that is used where rows have this many bytes.
    pub fn stride_efficiency(&self, row_bytes: f64) -> f64 {
        match row_bytes {
            b if b >= 128.0 => 1.0,
            b if b >= 64.0 => self.stride_64,
            b if b >= 32.0 => self.stride_32,
            b => b / self.burst_bytes,
        }
    }

    /// Bytes in a nanosecond that this many CTAs move, each with as many bytes in flight: as fast as DRAM is, as their SMs
    /// can draw, and as what they have in flight allows.
    pub fn rate(&self, limits: &DeviceLimits, ctas: f64, in_flight: f64) -> f64 {
        let dram = self.dram_efficiency * f64::from(limits.memory_gb_per_s); // GB/s are bytes a nanosecond
        let busy = ctas.min(f64::from(limits.sms));
        dram.min(self.sm_bytes_per_ns * busy).min(ctas * in_flight / self.latency)
    }
}

/// Tensors of the size of x that an operation reads once, reads again in a second pass, and writes.
fn traffic(problem: &Problem) -> (f64, f64, f64) {
    let extra = if problem.epilogue().residual().is_some() { 1.0 } else { 0.0 };
    match problem.op() {
        Op::Moments => (1.0, 0.0, 0.0),
        Op::Train => (1.0, 1.0, 1.0 + 2.0 * extra),
        Op::Infer => (1.0, 0.0, 1.0 + 2.0 * extra),
        Op::Backward(StatisticsKind::Batch) => (2.0, 2.0, 1.0 + extra),
        Op::Backward(StatisticsKind::Running) => (2.0, 0.0, 1.0 + extra),
    }
}

/// Launches beyond the first.
fn more_launches(problem: &Problem, strategy: Strategy) -> f64 {
    match (strategy, problem.op()) {
        (Strategy::Block | Strategy::Cluster | Strategy::Grid, _) | (_, Op::Infer) => 0.0,
        (Strategy::TwoRead, Op::Backward(StatisticsKind::Batch)) if problem.epilogue().recomputes_v() => 2.0,
        (Strategy::TwoRead, _) => 1.0,
    }
}

/// What an operation moves in all, in bytes of DRAM: what L2 answers counts by its speed.
fn moved_bytes(
    constants: &Constants,
    problem: &Problem,
    limits: &DeviceLimits,
    strategy: Strategy,
    tiling: &Tiling,
) -> f64 {
    let x_bytes = problem.shape().len() as f64 * f64::from(problem.dtype().bytes());
    let (once, again, written) = traffic(problem);
    let packed = if packs_mask(problem, tiling) { 1.0 } else { 0.0 };
    // What was read last is still in L2 when it is read again: of the whole tensor, or of the strips of one turn.
    let held = if strategy == Strategy::TwoRead { 0.0 } else { f64::from(tiling.held_steps) / tiling.steps() as f64 };
    let again = again * x_bytes * (1.0 - held.min(1.0));
    let turns = if strategy == Strategy::TwoRead { 1.0 } else { f64::from(tiling.strips.div_ceil(tiling.teams)) };
    let from_l2 = again.min(turns * constants.l2_kept * limits.l2_bytes as f64);
    // Every CTA of a second pass reads the partials of all splits of its strip.
    let splits = f64::from(tiling.splits);
    let merged = more_launches(problem, strategy) * splits * splits * problem.shape().c() as f64;
    let partials = merged * Plan::PARTIAL_BYTES as f64;
    (once + written + packed) * x_bytes + (again - from_l2) + (from_l2 + partials) / constants.l2_speed
}

/// Teams that run at once.
fn teams_at_once(limits: &DeviceLimits, strategy: Strategy, tiling: &Tiling) -> u32 {
    let resident = resident(limits, tiling).max(1);
    let most = match strategy {
        Strategy::Block => resident * limits.sms,
        // Of CTAs so small that more than two share an SM no more than that is known.
        Strategy::Cluster => limits.clusters_of(tiling.splits, resident),
        Strategy::Grid => tiling.teams,
        Strategy::TwoRead => (resident * limits.sms).div_ceil(tiling.splits),
    };
    most.clamp(1, tiling.strips)
}

/// What lies between reading a strip and writing it, where nothing hides it.
fn turn(constants: &Constants, strategy: Strategy, tiling: &Tiling) -> f64 {
    let Constants { merge, cluster_exchange, grid_meeting, .. } = *constants;
    match strategy {
        Strategy::Block => merge,
        Strategy::Cluster => merge + cluster_exchange,
        Strategy::Grid if tiling.splits == 1 => merge,
        Strategy::Grid if tiling.strip_channels == 1 => merge + grid_meeting,
        Strategy::Grid => merge + 2.0 * grid_meeting,
        Strategy::TwoRead => 0.0,
    }
}

/// The predicted time of a plan, in nanoseconds.
pub(crate) fn nanoseconds(
    constants: &Constants,
    problem: &Problem,
    limits: &DeviceLimits,
    strategy: Strategy,
    tiling: &Tiling,
) -> f64 {
    let vector_bytes = f64::from(tiling.vector_len(problem.dtype()) * problem.dtype().bytes());
    let (strips, splits) = (f64::from(tiling.strips), tiling.busy_splits() as f64);
    let cta_bytes = moved_bytes(constants, problem, limits, strategy, tiling) / (strips * splits);
    let at_once = f64::from(teams_at_once(limits, strategy, tiling));

    let sms = f64::from(limits.sms);
    let in_flight = f64::from(tiling.threads) * IN_FLIGHT * vector_bytes;
    let time_of = |ctas: f64| ctas * cta_bytes / constants.rate(limits, ctas, in_flight);
    let turns = (strips / at_once).floor();
    let rest = strips - turns * at_once;
    let streamed = turns * time_of(at_once * splits) + if rest > 0.0 { time_of(rest * splits) } else { 0.0 };

    let phases = f64::from(resident(limits, tiling)).min(at_once * splits / sms).min(at_once);
    let shows = if phases >= 2.0 { constants.hidden_shows } else { 1.0 };
    let between = (strips / at_once).ceil() * turn(constants, strategy, tiling) * shows;
    let cooperative = if strategy == Strategy::Grid { constants.cooperative } else { 0.0 };
    streamed * idle(tiling) / constants.stride_efficiency(tiling.width as f64 * vector_bytes)
        + between
        + constants.launch
            * (1.0 + more_launches(problem, strategy) + if packs_mask(problem, tiling) { 1.0 } else { 0.0 })
        + cooperative
}

/// CTAs that an SM holds at once.
pub(super) fn resident(limits: &DeviceLimits, tiling: &Tiling) -> u32 {
    let by_shared = limits.shared_per_sm / (tiling.shared_bytes + limits.shared_reserved).max(1);
    let by_registers = Plan::MIN_CTAS * Plan::MAX_THREADS / tiling.threads;
    let by_threads = limits.threads_per_sm / tiling.threads;
    by_shared.min(by_registers).min(by_threads).min(limits.ctas_per_sm)
}

/// The share of steps that threads spend on nothing, as a factor on time: mild, since memory is the limit.
fn idle(tiling: &Tiling) -> f64 {
    let taken = tiling.steps() as f64 * f64::from(tiling.threads);
    let useful = match tiling.form {
        Form::Rows | Form::ScalarRows => tiling.chunk as f64,
        Form::Columns | Form::ScalarColumns => (tiling.chunk * tiling.width) as f64,
    };
    1.0 + 0.1 * (taken / useful - 1.0).clamp(0.0, 8.0)
}

//! The cost model: the predicted time of a plan, to compare plans by, and THE table of its constants.
//!
//! ```text
//! time = bytes / rate * idle / stride_efficiency + exchanges that nothing hides + launches
//! ```

use super::access::Access;
use super::kernels::PARTIAL_BYTES;
use super::limits::DeviceLimits;
use super::strategy::Strategy;
use super::tile::Tiling;
use super::traffic::{partial_passes, tensors, writes_mask};
use crate::op::Problem;

/// Vectors of data that a thread keeps in flight, in every kernel that moves data.
const IN_FLIGHT: f64 = 8.0;

/// THE constants of the model. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constants {
    /// The share of its peak bandwidth at which memory can be read and written in turn.
    pub dram_efficiency: f64,
    /// Bytes that one SM can load and store in a nanosecond.
    pub sm_bytes_per_ns: f64,
    /// The latency of a load under load.
    pub latency: f64,
    /// The bandwidth of L2 as a multiple of DRAM's.
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
    /// A cooperative launch, on top of `launch`.
    pub cooperative: f64,
    /// The reductions within a CTA: from its last load to its first store.
    pub merge: f64,
    /// A reduction across the CTAs of a cluster.
    pub cluster_exchange: f64,
    /// A barrier of a team's CTAs through global memory.
    pub grid_barrier: f64,
    /// The share of these three that stays visible where an SM holds tiles in different phases.
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
        grid_barrier: 1500.0,
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

    /// Bytes in a nanosecond that this many CTAs move, each with this many bytes in flight: the least of DRAM's bandwidth, their
    /// SMs' bandwidth, and bytes in flight over latency.
    pub fn rate(&self, limits: &DeviceLimits, ctas: f64, in_flight: f64) -> f64 {
        let dram = self.dram_efficiency * f64::from(limits.memory_gb_per_s); // GB/s are bytes a nanosecond
        let busy = ctas.min(f64::from(limits.sms));
        dram.min(self.sm_bytes_per_ns * busy).min(ctas * in_flight / self.latency)
    }
}

/// Launches beyond the first, but for the one that packs a mask.
fn more_launches(problem: &Problem, strategy: Strategy) -> f64 {
    match strategy {
        Strategy::Block | Strategy::Cluster | Strategy::Grid => 0.0,
        Strategy::TwoPass => partial_passes(problem) as f64,
    }
}

/// Whether a pass over y follows to pack its relu mask.
fn packs_mask(problem: &Problem, tiling: &Tiling) -> bool {
    writes_mask(problem) && !tiling.mask_in_place
}

/// Bytes of DRAM that an operation moves in all: bytes that L2 answers count by its speed.
fn moved_bytes(
    constants: &Constants,
    problem: &Problem,
    limits: &DeviceLimits,
    strategy: Strategy,
    tiling: &Tiling,
) -> f64 {
    let x_bytes = problem.shape().len() as f64 * f64::from(problem.dtype().bytes());
    let (once, again) = tensors(problem);
    let packed = if packs_mask(problem, tiling) { 1.0 } else { 0.0 };
    // The values that were read last are still in L2 when they are read again: of the whole tensor, or of the tiles of a wave.
    let (kept, waves) = match strategy {
        Strategy::Block | Strategy::Cluster | Strategy::Grid => {
            (f64::from(tiling.smem_iters) / tiling.iterations() as f64, f64::from(tiling.tiles.div_ceil(tiling.teams)))
        }
        Strategy::TwoPass => (0.0, 1.0),
    };
    let again = again * x_bytes * (1.0 - kept.min(1.0));
    let from_l2 = again.min(waves * constants.l2_kept * limits.l2_bytes as f64);
    // Every CTA of a second pass reads the partials of all splits of its tile.
    let splits = f64::from(tiling.splits);
    let reduced = more_launches(problem, strategy) * splits * splits * problem.shape().c() as f64;
    let partials = reduced * PARTIAL_BYTES as f64;
    (once + packed) * x_bytes + (again - from_l2) + (from_l2 + partials) / constants.l2_speed
}

/// CTAs of a tiling that an SM holds at once.
fn resident(limits: &DeviceLimits, tiling: &Tiling) -> u32 {
    limits.resident_ctas(tiling.threads, tiling.shared_bytes)
}

/// Teams that run at once.
fn teams_at_once(limits: &DeviceLimits, strategy: Strategy, tiling: &Tiling) -> u32 {
    let resident = resident(limits, tiling).max(1);
    let most = match strategy {
        Strategy::Block => resident * limits.sms,
        // Two CTAs an SM are taken for those so small that more would fit: no more is known.
        Strategy::Cluster => limits.clusters_of(tiling.splits, resident),
        Strategy::Grid => tiling.teams,
        Strategy::TwoPass => (resident * limits.sms).div_ceil(tiling.splits),
    };
    most.clamp(1, tiling.tiles)
}

/// The time between reading a tile and writing it, where nothing hides it.
fn exchange(constants: &Constants, strategy: Strategy, tiling: &Tiling) -> f64 {
    let Constants { merge, cluster_exchange, grid_barrier, .. } = *constants;
    match strategy {
        Strategy::Block => merge,
        Strategy::Cluster => merge + cluster_exchange,
        Strategy::Grid if tiling.splits == 1 => merge,
        Strategy::Grid if tiling.tile_channels == 1 => merge + grid_barrier,
        Strategy::Grid => merge + 2.0 * grid_barrier,
        Strategy::TwoPass => 0.0,
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
    let (tiles, splits) = (f64::from(tiling.tiles), tiling.busy_splits() as f64);
    let cta_bytes = moved_bytes(constants, problem, limits, strategy, tiling) / (tiles * splits);
    let at_once = f64::from(teams_at_once(limits, strategy, tiling));

    let sms = f64::from(limits.sms);
    let in_flight = f64::from(tiling.threads) * IN_FLIGHT * vector_bytes;
    let time_of = |ctas: f64| ctas * cta_bytes / constants.rate(limits, ctas, in_flight);
    let full_waves = (tiles / at_once).floor();
    let left = tiles - full_waves * at_once;
    let streamed = full_waves * time_of(at_once * splits) + if left > 0.0 { time_of(left * splits) } else { 0.0 };

    let phases = f64::from(resident(limits, tiling)).min(at_once * splits / sms).min(at_once);
    let shows = if phases >= 2.0 { constants.hidden_shows } else { 1.0 };
    let exchanges = (tiles / at_once).ceil() * exchange(constants, strategy, tiling) * shows;
    let cooperative = match strategy {
        Strategy::Grid => constants.cooperative,
        Strategy::Block | Strategy::Cluster | Strategy::TwoPass => 0.0,
    };
    let launches = 1.0 + more_launches(problem, strategy) + if packs_mask(problem, tiling) { 1.0 } else { 0.0 };
    streamed * idle(tiling) / constants.stride_efficiency(tiling.width as f64 * vector_bytes)
        + exchanges
        + constants.launch * launches
        + cooperative
}

/// The share of iterations that threads idle, as a factor on time: mild, since memory is the limit.
fn idle(tiling: &Tiling) -> f64 {
    let taken = tiling.iterations() as f64 * f64::from(tiling.threads);
    let useful = match tiling.access {
        Access::Contiguous | Access::ScalarContiguous => tiling.chunk as f64,
        Access::Strided | Access::ScalarStrided => (tiling.chunk * tiling.width) as f64,
    };
    1.0 + 0.1 * (taken / useful - 1.0).clamp(0.0, 8.0)
}

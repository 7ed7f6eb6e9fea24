//! THE table of the cost model's constants, and the time that a phase takes by them. prediction.rs has the model.

use super::limits::DeviceLimits;

/// THE constants of the model. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constants {
    /// The share of its peak bandwidth at which memory can be read and written in turn.
    pub dram_efficiency: f64,
    /// The share of that at which passes move data whose CTAs keep nothing.
    pub pass_efficiency: f64,
    /// The share of DRAM's bandwidth that is left where a tile's rows have 64 bytes or more, and less than 128.
    pub stride_64: f64,
    /// The same below 64 bytes.
    pub stride_32: f64,
    /// The bandwidth of L2 as a multiple of DRAM's.
    pub l2_speed: f64,
    /// The share of L2 in which the end of a pass is found again.
    pub l2_kept: f64,
    /// Bytes of a transaction between L2 and an SM, which shorter rows use in part.
    pub sector_bytes: f64,
    /// Bytes that one SM can load and store in a nanosecond.
    pub sm_bytes_per_ns: f64,
    /// The latency of a load under load.
    pub latency: f64,
    /// The latency of a load that L2 answers.
    pub l2_latency: f64,
    /// An instruction of a warp that has no loads in flight, beside the other warps of its SM.
    pub instruction: f64,
    /// A launch in a busy stream.
    pub launch: f64,
    /// A launch of clusters, on top of `launch`.
    pub clustered: f64,
    /// A cooperative launch, on top of `launch`.
    pub cooperative: f64,
    /// A CTA's time for a tile beside its loads and stores: its start, the reduction within it, its parameters, its end.
    pub merge: f64,
    /// The same with strided access, where the reduction goes through shared memory.
    pub strided_merge: f64,
    /// A reduction across the CTAs of a cluster, but for the merge of their partials.
    pub cluster_exchange: f64,
    /// The merge of one partial there.
    pub cluster_partial: f64,
    /// A partial's way through global memory from each CTA of a team to each other.
    pub grid_exchange: f64,
    /// The reduction of one channel's partials there.
    pub grid_merge: f64,
    /// The share of a turn by which CTAs that started together come apart in it.
    pub drift: f64,
}

impl Constants {
    /// The ones that plans are made by. `examples/fit_cost_model` fits them to what `batchnorm bench` measured.
    pub const PLANNED_BY: Self = Self {
        // Not measured: the 4.3 TB/s that copies are said to reach on an H200.
        dram_efficiency: 0.9,
        // Not measured.
        pass_efficiency: 0.83,
        // Not measured. Neighbouring tiles are moved at about the same time, so that L2 has the rest of a burst.
        stride_64: 0.9,
        // Not measured.
        stride_32: 0.9,
        // Not measured: the 5.5 TB/s that L2 is said to reach on an H200.
        l2_speed: 1.28,
        // Not measured.
        l2_kept: 0.5,
        // Not measured: the sector of NVIDIA's documents.
        sector_bytes: 32.0,
        // Not measured: 64 a clock at the most, of which some two thirds.
        sm_bytes_per_ns: 70.0,
        // Not measured.
        latency: 750.0,
        // Not measured.
        l2_latency: 350.0,
        // Not measured: one and a half cycles.
        instruction: 0.8,
        // Not measured.
        launch: 2000.0,
        // Not measured.
        clustered: 400.0,
        // Not measured.
        cooperative: 800.0,
        // Not measured.
        merge: 2300.0,
        // Not measured.
        strided_merge: 2300.0,
        // Not measured.
        cluster_exchange: 800.0,
        // Not measured.
        cluster_partial: 1.0,
        // Not measured.
        grid_exchange: 1100.0,
        // Not measured.
        grid_merge: 100.0,
        // Not measured.
        drift: 0.3,
    };

    /// The shares of DRAM's bandwidth and of L2's that are left where a tile's rows have this many bytes.
    pub fn stride_efficiency(&self, row_bytes: f64) -> [f64; 2] {
        let dram = match row_bytes {
            b if b >= 128.0 => 1.0,
            b if b >= 64.0 => self.stride_64,
            _ => self.stride_32,
        };
        [dram, (row_bytes / self.sector_bytes).min(1.0)]
    }

    /// The time of a phase.
    pub fn time(&self, limits: &DeviceLimits, phase: &Phase) -> f64 {
        let Phase { dram_bytes, moved_bytes, ctas, row_bytes, walk } = *phase;
        let [of_dram, of_l2] = self.stride_efficiency(row_bytes);
        let dram = self.dram_efficiency * f64::from(limits.memory_gb_per_s); // GB/s are bytes a nanosecond
        let busy_sms = ctas.min(f64::from(limits.sms));
        let l2 = (self.l2_speed * dram).min(self.sm_bytes_per_ns * busy_sms);
        (dram_bytes / (dram * of_dram)).max(moved_bytes / (l2 * of_l2)).max(walk)
    }
}

/// The work of CTAs that all load, or all store.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    /// Bytes that DRAM moves.
    pub dram_bytes: f64,
    /// Bytes that SMs load and store, whether L2 has them or not.
    pub moved_bytes: f64,
    /// CTAs that run at once.
    pub ctas: f64,
    /// Bytes side by side in a row of a tile.
    pub row_bytes: f64,
    /// The time of a CTA that has DRAM and L2 to itself.
    pub walk: f64,
}

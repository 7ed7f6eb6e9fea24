//! The limits of a device that plans must fit or are priced by.

use super::kernels::{CLUSTER_SIZES, MAX_THREADS, MIN_CTAS};

/// The resources of a device that a plan must fit or is priced by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Major and minor compute capability.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors that a plan may fill.
    pub sms: u32,
    /// Shared memory of an SM, in bytes.
    pub shared_per_sm: u32,
    /// Shared memory that one CTA may ask for at most, in bytes.
    pub shared_per_cta: u32,
    /// Shared memory that the system takes of each CTA, in bytes.
    pub shared_reserved: u32,
    /// Threads that an SM holds.
    pub threads_per_sm: u32,
    /// CTAs that an SM holds.
    pub ctas_per_sm: u32,
    /// The L2 cache, in bytes.
    pub l2_bytes: u64,
    /// The peak bandwidth of its memory, in GB/s.
    pub memory_gb_per_s: u32,
    /// Whether a grid may be launched cooperatively.
    pub cooperative: bool,
    /// Clusters of 2, 4, 8 and 16 CTAs that the device holds at once: where each CTA has an SM to itself, and where two share
    /// one. 0 for a size that it does not have.
    pub clusters: [[u32; 4]; 2],
}

impl DeviceLimits {
    /// GPUs by the names that the command line takes, for plans where none is at hand: from data sheets and the tables of
    /// the CUDA programming guide. The clusters are an estimate, since how SMs are spread over the GPCs differs from one
    /// board to the next (an H100 is taken to have GPCs of 18, 18, 18, 16, 16, 16, 16 and 14); a device at hand is asked.
    pub const KNOWN: &'static [(&'static str, Self)] =
        &[("a100", A100), ("h100", H100), ("h200", H200), ("b200", B200), ("rtx4090", RTX4090), ("rtx5090", RTX5090)];

    /// These limits, as far as a plan can count with them: at least one SM, and no numbers that no device has, whose
    /// products would not fit. The fields are anyone's to set.
    pub(super) fn countable(&self) -> Self {
        const MOST_SMS: u32 = 1 << 16;
        const MOST_BYTES: u32 = 1 << 28;
        Self {
            sms: self.sms.clamp(1, MOST_SMS),
            shared_per_sm: self.shared_per_sm.min(MOST_BYTES),
            shared_per_cta: self.shared_per_cta.min(MOST_BYTES),
            shared_reserved: self.shared_reserved.min(MOST_BYTES),
            ..*self
        }
    }

    /// CTAs of this many threads and bytes of shared memory that an SM holds at once.
    pub(super) fn resident_ctas(&self, threads: u32, shared_bytes: u32) -> u32 {
        let by_shared = self.shared_per_sm / shared_bytes.saturating_add(self.shared_reserved).max(1);
        let by_registers = MIN_CTAS * MAX_THREADS / threads;
        let by_threads = self.threads_per_sm / threads;
        by_shared.min(by_registers).min(by_threads).min(self.ctas_per_sm)
    }

    /// Clusters of `size` CTAs that the device holds at once, with `ctas_per_sm` CTAs on an SM.
    pub(crate) fn clusters_of(&self, size: u32, ctas_per_sm: u32) -> u32 {
        let of_share = &self.clusters[usize::from(ctas_per_sm > 1)];
        let known = CLUSTER_SIZES.iter().zip(of_share).find(|&(&known, _)| known == size);
        known.map_or(0, |(_, &clusters)| clusters)
    }

    /// CTAs of the largest cluster with an SM for each.
    pub(crate) fn largest_cluster(&self) -> u32 {
        CLUSTER_SIZES.into_iter().filter(|&size| self.clusters_of(size, 1) > 0).max().unwrap_or(0)
    }
}

const H100: DeviceLimits = DeviceLimits {
    compute_capability: (9, 0),
    sms: 132,
    shared_per_sm: 233_472,
    shared_per_cta: 232_448,
    shared_reserved: 1024,
    threads_per_sm: 2048,
    ctas_per_sm: 32,
    l2_bytes: 50 << 20,
    memory_gb_per_s: 3352,
    cooperative: true,
    clusters: [[66, 31, 15, 7], [132, 66, 31, 15]],
};
const H200: DeviceLimits = DeviceLimits { memory_gb_per_s: 4800, ..H100 };
const B200: DeviceLimits = DeviceLimits {
    compute_capability: (10, 0),
    sms: 148,
    l2_bytes: 126 << 20,
    memory_gb_per_s: 8000,
    clusters: [[74, 36, 16, 8], [148, 72, 32, 16]],
    ..H100
};
const A100: DeviceLimits = DeviceLimits {
    compute_capability: (8, 0),
    sms: 108,
    shared_per_sm: 167_936,
    shared_per_cta: 166_912,
    l2_bytes: 40 << 20,
    memory_gb_per_s: 2039,
    clusters: [[0; 4]; 2],
    ..H100
};
const RTX4090: DeviceLimits = DeviceLimits {
    compute_capability: (8, 9),
    sms: 128,
    shared_per_sm: 102_400,
    shared_per_cta: 101_376,
    threads_per_sm: 1536,
    ctas_per_sm: 24,
    l2_bytes: 72 << 20,
    memory_gb_per_s: 1008,
    clusters: [[0; 4]; 2],
    ..H100
};
const RTX5090: DeviceLimits = DeviceLimits {
    compute_capability: (12, 0),
    sms: 170,
    l2_bytes: 96 << 20,
    memory_gb_per_s: 1792,
    clusters: [[85, 40, 20, 0], [170, 80, 40, 0]],
    ..RTX4090
};

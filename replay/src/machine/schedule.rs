//! Draws from the seed.
//!
//! - *Turns*: fair, in a drawn order each round; or unfair, so that a CTA waits until those before it can do no more.
//! - *Interruptions*: a thread goes on as far as it can, or for some thousand instructions, or for some hundred.
//! - *Deliveries*: an st.async arrives soon, or only when nothing else can go on.

use fastrand::Rng;

use crate::launch::Launch;

/// Clusters of several CTAs, and CTAs without clusters, that are resident, at most, of a grid that is not cooperative.
const MOST_CLUSTERS: usize = 3;
const MOST_CTAS: usize = 6;

pub(super) struct Schedule {
    rng: Rng,
    pub(super) is_unfair: bool,
    pub(super) is_late: bool,
    slice: Slice,
    /// Seed 0: nothing is shuffled.
    is_plain: bool,
}

#[derive(Clone, Copy)]
enum Slice {
    Whole,
    Long,
    Short,
}

/// The most CTAs of a launch that are resident together.
pub(super) fn most_resident(launch: &Launch) -> u32 {
    let clusters = if launch.cluster > 1 { MOST_CLUSTERS } else { MOST_CTAS };
    if launch.cooperative { launch.ctas() } else { launch.ctas().min(clusters as u32 * launch.cluster) }
}

impl Schedule {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        if seed == 0 {
            return Self { rng, is_unfair: false, is_late: false, slice: Slice::Whole, is_plain: true };
        }
        let slice = [Slice::Whole, Slice::Long, Slice::Short][rng.usize(..3)];
        Self { is_unfair: rng.usize(..3) == 0, is_late: rng.bool(), rng, slice, is_plain: false }
    }

    /// The number of instructions for which a thread goes on.
    pub(super) fn slice(&mut self) -> u64 {
        match self.slice {
            Slice::Whole => u64::MAX,
            Slice::Long => self.rng.u64(20..2000),
            Slice::Short => self.rng.u64(1..200),
        }
    }

    /// The clusters that are resident together of a grid that is not cooperative.
    pub(super) fn resident(&mut self, cluster: u32) -> usize {
        if self.is_plain { 1 } else { self.rng.usize(1..=if cluster > 1 { MOST_CLUSTERS } else { MOST_CTAS }) }
    }

    /// True once in so many times.
    pub(super) fn once_in(&mut self, n: u32) -> bool {
        self.rng.u32(..n) == 0
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        self.rng.usize(..n)
    }

    pub(super) fn priority(&mut self) -> u64 {
        self.rng.u64(1..)
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        if !self.is_plain {
            self.rng.shuffle(items);
        }
    }

    /// Contents of memory that nobody has written.
    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        self.rng.fill(bytes);
    }

    /// Contents of registers that nobody has written, cut to their widths.
    pub(super) fn registers(&mut self, masks: &[u64], threads: u32) -> Vec<u64> {
        let mut registers = Vec::with_capacity(masks.len() * threads as usize);
        for _ in 0..threads {
            registers.extend(masks.iter().map(|mask| self.rng.u64(..) & mask));
        }
        registers
    }
}

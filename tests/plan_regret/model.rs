//! A model of an H200, finer than the planner's and too slow for it. **Its constants are guesses, no measurement.** CTAs go from
//! phase to phase; those that load or store share the issue slots of their SM, and all SMs share DRAM and the fabric to L2.
//!
//! ```text
//! start -> load -> merge, exchange, finish -> store -> end        a team, tile by tile, in steps of `STEP`
//! ```
//!
//! Every 16-byte vector of half data is taken alike, but that the fabric moves whole sectors. Narrow rows cost nothing beyond.

use batchnorm::Strategy;
use batchnorm::op::Problem;
use batchnorm::plan::{Access, DeviceLimits, Plan};

/// Bytes of DRAM in a microsecond, in KB; so are all rates here.
const DRAM: f64 = 4300.0;
/// The fabric between the SMs and L2.
const FABRIC: f64 = 5500.0;
/// L2 that still has what was read last, in KB.
const L2_KEPT: f64 = 25_000.0;
/// Microseconds of a step.
const STEP: f64 = 0.02;

/// Times of the kernels, in microseconds.
#[derive(Clone, Copy)]
pub(crate) struct Kernels {
    /// From the start of a CTA to its first load.
    pub(crate) start: f64,
    /// The loads of a backward CTA before those of x and dy.
    pub(crate) backward_start: f64,
    /// The reduction within a CTA with contiguous access, forward and backward.
    pub(crate) merge: [f64; 2],
    /// The same with strided access.
    pub(crate) strided_merge: [f64; 2],
    /// From the exchange to the first store, forward and backward.
    pub(crate) finish: [f64; 2],
    /// The end of a forward CTA behind its last store.
    pub(crate) end: f64,
    /// The exchange of a cluster: without its CTAs, and for each of them.
    pub(crate) cluster: [f64; 2],
    /// The exchange of a grid of tiles of one channel.
    pub(crate) grid: f64,
    /// The same with several channels: without merges, and for each round of them.
    pub(crate) grid_of_channels: [f64; 2],
    /// Partials that the second of two passes has in flight at once.
    pub(crate) partials_in_flight: f64,
    /// Bytes of a transaction of the fabric, all of which is moved for a row that is shorter.
    pub(crate) sector_bytes: f64,
}

/// The kernels as they were when the model was made: late loads, tickets, bank conflicts, grids with fences and atomics.
pub(crate) const FORMER: Kernels = Kernels {
    start: 0.6,
    backward_start: 0.8,
    merge: [0.65, 0.4],
    strided_merge: [1.3, 0.8],
    finish: [1.3, 0.7],
    end: 0.7,
    cluster: [0.55, 0.055],
    grid: 3.3,
    grid_of_channels: [5.2, 1.0],
    partials_in_flight: 1.0,
    sector_bytes: 32.0,
};

/// The kernels without these: a grid's exchange is that of partials with a tag.
pub(crate) const TODAY: Kernels = Kernels {
    start: 0.35,
    merge: [0.65, 0.4],
    strided_merge: [0.55, 0.4],
    finish: [0.3, 0.3],
    end: 0.0,
    cluster: [0.8, 0.0],
    grid: 1.3,
    grid_of_channels: [2.2, 0.0],
    partials_in_flight: 4.0,
    ..FORMER
};

/// The same, where the fabric moves short rows as well as any.
pub(crate) const AS_SKETCHED: Kernels = Kernels { sector_bytes: 1.0, ..TODAY };

/// The time of a plan of a training pass on half data, forward or backward, in microseconds.
pub(crate) fn microseconds(kernels: &Kernels, limits: &DeviceLimits, problem: &Problem, plan: &Plan) -> f64 {
    let is_backward = problem.op().is_backward();
    let x_kb = problem.shape().len() as f64 * f64::from(problem.dtype().bytes()) / 1e3;
    let read = if is_backward { 2.0 } else { 1.0 };
    if plan.strategy == Strategy::TwoPass {
        return two_pass(kernels, plan, x_kb, read, used(kernels, problem, plan));
    }
    let used = used(kernels, problem, plan);
    Held { used, ..Held::new(kernels, limits, plan, x_kb, read, is_backward) }.microseconds()
}

fn is_strided(plan: &Plan) -> bool {
    matches!(plan.tiling.access, Access::Strided | Access::ScalarStrided)
}

/// The share of what the fabric moves that is used: rows of a tile that is the whole row follow each other.
fn used(kernels: &Kernels, problem: &Problem, plan: &Plan) -> f64 {
    let t = &plan.tiling;
    let row_bytes = t.width * i64::from(t.vector_len(problem.dtype()) * problem.dtype().bytes());
    if t.width == t.row_vectors { 1.0 } else { (row_bytes as f64 / kernels.sector_bytes).min(1.0) }
}

/// Two launches at 87% of DRAM, and the reduction of partials in front of the second.
fn two_pass(kernels: &Kernels, plan: &Plan, x_kb: f64, read: f64, used: f64) -> f64 {
    let t = &plan.tiling;
    let from_l2 = 0.6 * (x_kb * read).min(L2_KEPT);
    let partials = if is_strided(plan) {
        let threads = t.threads / t.tile_channels.next_power_of_two();
        let rounds = f64::from(t.splits.div_ceil(threads.max(1)));
        1.3 + 0.35 * (rounds / kernels.partials_in_flight).ceil()
    } else {
        0.6
    };
    2.0 * 1.9 + 1.5 + partials + 1.0 + (2.0 * x_kb * read - from_l2 + x_kb) / DRAM.min(FABRIC * used) / 0.87
}

/// A plan that holds its tiles.
struct Held {
    tiles: u32,
    splits: f64,
    /// Teams that run at once.
    teams: u32,
    is_grid: bool,
    /// KB that a CTA loads and stores of a tile; what it reads again counts as stored, as far as L2 does not answer.
    load: f64,
    store: f64,
    /// KB in a microsecond of one CTA with an SM to itself, and of a full SM as far as it can issue.
    load_rate: [f64; 2],
    store_rate: [f64; 2],
    /// The share of what is loaded that makes DRAM write a line back.
    dirty: f64,
    used: f64,
    sms: f64,
    launch: f64,
    start: f64,
    next_start: f64,
    between: f64,
    end: f64,
}

enum Phase {
    Start,
    Load,
    Between,
    Store,
    End,
}

struct Team {
    phase: Phase,
    /// KB or microseconds of the phase that are left.
    left: f64,
    speed: f64,
}

impl Held {
    fn new(kernels: &Kernels, limits: &DeviceLimits, plan: &Plan, x_kb: f64, read: f64, is_backward: bool) -> Self {
        let t = &plan.tiling;
        let pass = usize::from(is_backward);
        let strided = is_strided(plan);
        let resident = (limits.shared_per_sm / (t.shared_bytes + limits.shared_reserved)).min(512 / t.threads);
        let at_once = match plan.strategy {
            Strategy::Grid => t.teams,
            Strategy::Cluster => {
                let size = (t.splits.ilog2() - 1) as usize;
                resident / 2 * limits.clusters[1][size] + resident % 2 * limits.clusters[0][size]
            }
            Strategy::Block | Strategy::TwoPass => resident * limits.sms,
        };
        let splits = f64::from(t.splits);
        let cta_kb = x_kb / (f64::from(t.tiles) * splits);
        let again = cta_kb * read * (1.0 - f64::from(t.smem_iters) / t.iterations() as f64).max(0.0);
        let ctas = match plan.strategy {
            Strategy::Grid => t.teams * t.splits,
            Strategy::Block | Strategy::Cluster | Strategy::TwoPass => (resident * limits.sms).min(t.tiles * t.splits),
        };
        let from_l2 = again.min(L2_KEPT / f64::from(ctas));

        let exchange = match plan.strategy {
            Strategy::Cluster => kernels.cluster[0] + kernels.cluster[1] * splits,
            Strategy::Grid if t.splits == 1 => 0.0,
            Strategy::Grid if t.tile_channels == 1 => kernels.grid,
            Strategy::Grid => {
                let rounds = f64::from(t.tile_channels.div_ceil(t.splits));
                kernels.grid_of_channels[0] + kernels.grid_of_channels[1] * rounds
            }
            Strategy::Block | Strategy::TwoPass => 0.0,
        };
        let merge = if strided { kernels.strided_merge } else { kernels.merge }[pass];
        let threads_kb = f64::from(t.threads) / 1e3;
        // Instructions for each element that is loaded, and stored; backward loads two tensors.
        let instructions = match (is_backward, strided) {
            (false, false) => [11.8, 8.8],
            (false, true) => [9.0, 7.1],
            (true, false) => [7.0, 13.8],
            (true, true) => [6.0, 12.1],
        };
        let issued = instructions.map(|each| 32.0 * 2.0 * 4.0 * 1.85 * 0.85 / each);
        let computed = if is_backward { 0.45 } else { 0.65 };
        let stored = match (again > 0.0, is_backward) {
            (true, _) => 2.0 * 64.0 / 1.0,
            (false, false) => 64.0 / 0.25,
            (false, true) => 64.0 / 0.38,
        };
        let backward_start = if is_backward { kernels.backward_start } else { 0.0 };
        Self {
            tiles: t.tiles,
            splits,
            teams: at_once.min(t.tiles),
            is_grid: plan.strategy == Strategy::Grid,
            load: cta_kb * read,
            store: cta_kb + (again - from_l2) + 0.4 * from_l2,
            load_rate: [threads_kb * 128.0 / (0.75 + computed), issued[0]],
            store_rate: [threads_kb * stored, issued[1]],
            dirty: if is_backward { 1.0 / 3.0 } else { 0.5 },
            used: 1.0,
            sms: f64::from(limits.sms),
            launch: 2.5
                + match plan.strategy {
                    Strategy::Cluster => 0.4,
                    Strategy::Grid => 0.8,
                    Strategy::Block | Strategy::TwoPass => 0.0,
                },
            start: kernels.start + backward_start,
            next_start: 0.25 + backward_start,
            between: merge + exchange + kernels.finish[pass],
            end: if is_backward { 0.0 } else { kernels.end },
        }
    }

    fn microseconds(&self) -> f64 {
        let mut random = fastrand::Rng::with_seed(1);
        let mut begin = |spread: f64| Team {
            phase: Phase::Start,
            left: self.start + spread * random.f64(),
            speed: 1.0 + 0.06 * (random.f64() - 0.5),
        };
        let mut teams: Vec<Team> = (0..self.teams).map(|_| begin(0.5)).collect();
        let mut pending = self.tiles - self.teams;
        let mut steps = 0;
        while !teams.is_empty() {
            let (load, store) = self.rates(&teams);
            teams.retain_mut(|team| {
                team.left -= match team.phase {
                    Phase::Load => load * team.speed,
                    Phase::Store => store * team.speed,
                    Phase::Start | Phase::Between | Phase::End => 1.0,
                } * STEP;
                if team.left > 0.0 {
                    return true;
                }
                (team.phase, team.left) = match team.phase {
                    Phase::Start => (Phase::Load, self.load),
                    Phase::Load => (Phase::Between, self.between),
                    Phase::Between => (Phase::Store, self.store),
                    Phase::Store => (Phase::End, self.end),
                    Phase::End if pending == 0 => return false,
                    Phase::End => {
                        pending -= 1;
                        if self.is_grid {
                            (Phase::Start, self.next_start)
                        } else {
                            *team = begin(0.1);
                            return true;
                        }
                    }
                };
                true
            });
            steps += 1;
        }
        f64::from(steps) * STEP + self.launch
    }

    /// KB in a microsecond that each CTA loads, and stores, beside all others.
    fn rates(&self, teams: &[Team]) -> (f64, f64) {
        let ctas = |is_phase: fn(&Phase) -> bool| {
            teams.iter().filter(|team| is_phase(&team.phase)).count() as f64 * self.splits
        };
        let (loading, storing) =
            (ctas(|phase| matches!(phase, Phase::Load)), ctas(|phase| matches!(phase, Phase::Store)));
        let busy_sms = (teams.len() as f64 * self.splits).min(self.sms);
        let ([mut load, load_issue], [mut store, store_issue]) = (self.load_rate, self.store_rate);
        let issued = (loading * load / load_issue + storing * store / store_issue) / busy_sms;
        load /= issued.max(1.0);
        store /= issued.max(1.0);
        let (loaded, stored) = (loading * load, storing * store);
        let dram = (loaded * (1.0 + self.dirty) + stored * self.dirty) / DRAM;
        let shared = dram.max((loaded + stored) / (FABRIC * self.used)).max(1.0);
        (load / shared, store / shared)
    }
}

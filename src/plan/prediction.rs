//! The cost model: the predicted time of a plan, to compare plans by. cost.rs has its constants.
//!
//! ```text
//! block, cluster, grid:  time = launch + turns * (load + between + store)
//! two-pass:              time = launches + load + between + partials + store
//! ```
//!
//! 1. *A phase*, load or store, takes what the slowest of DRAM, L2 and the walk of a CTA takes. In a walk, loads and arithmetic take
//!    turns: while a warp computes, it has no loads in flight.
//! 2. *Between* the two a CTA reduces and exchanges, and moves nothing.
//! 3. *A turn* is as many tiles as run at once. Its CTAs start together, so they load together and store together. From turn to turn
//!    they come apart, until some load while others store.

use super::cost::{Constants, Phase};
use super::kernels::{INSTRUCTIONS, MOMENTS_UNROLL, PARTIALS_IN_FLIGHT, REAL_UNROLL, SCALAR_INSTRUCTIONS, UNROLL};
use super::limits::DeviceLimits;
use super::strategy::Strategy;
use super::tile::Tiling;
use super::traffic::{Tensors, partial_passes, tensors, writes_mask};
use crate::op::Problem;

/// The model of one plan.
struct Model<'a> {
    constants: &'a Constants,
    problem: &'a Problem,
    limits: &'a DeviceLimits,
    strategy: Strategy,
    tiling: &'a Tiling,
    tensors: Tensors,
    /// Bytes of a data tensor.
    x_bytes: f64,
}

/// The predicted time of a plan, in nanoseconds.
pub(crate) fn nanoseconds(
    constants: &Constants,
    problem: &Problem,
    limits: &DeviceLimits,
    strategy: Strategy,
    tiling: &Tiling,
) -> f64 {
    let x_bytes = problem.shape().len() as f64 * f64::from(problem.dtype().bytes());
    let model = Model { constants, problem, limits, strategy, tiling, tensors: tensors(problem), x_bytes };
    let moves = match strategy {
        Strategy::Block | Strategy::Cluster | Strategy::Grid => model.turns(),
        Strategy::TwoPass => model.passes(),
    };
    model.launches() + moves + model.mask_packing()
}

impl Model<'_> {
    fn launches(&self) -> f64 {
        let Constants { launch, clustered, cooperative, .. } = *self.constants;
        match self.strategy {
            Strategy::Block => launch,
            Strategy::Cluster => launch + clustered,
            Strategy::Grid => launch + cooperative,
            Strategy::TwoPass => (1 + partial_passes(self.problem)) as f64 * launch,
        }
    }

    /// A launch that reads y once more, where the relu mask is not made with it.
    fn mask_packing(&self) -> f64 {
        if !writes_mask(self.problem) || self.tiling.mask_in_place {
            return 0.0;
        }
        let (ctas, row_bytes) = (f64::from(self.limits.sms), f64::INFINITY);
        let phase = Phase { dram_bytes: self.x_bytes, moved_bytes: self.x_bytes, ctas, row_bytes, walk: 0.0 };
        self.constants.launch + self.constants.time(self.limits, &phase)
    }

    /// The tiles in turns, as many at once as there is room for.
    fn turns(&self) -> f64 {
        let tiles = f64::from(self.tiling.tiles);
        let at_once = f64::from(self.teams_at_once());
        let turns = tiles / at_once;
        let apart = (self.constants.drift * turns).min(1.0);
        let left = tiles - turns.floor() * at_once;
        let last = if left > 0.0 { self.turn(left, apart) } else { 0.0 };
        turns.floor() * self.turn(at_once, apart) + last
    }

    /// A turn of this many teams whose CTAs are that far apart: 0 together, 1 so far that they share all in equal parts.
    fn turn(&self, teams: f64, apart: f64) -> f64 {
        let Tensors { loaded, again, residual, stored } = self.tensors;
        let bytes = self.x_bytes * teams / f64::from(self.tiling.tiles);
        let lost = (self.tiling.iterations() - i64::from(self.tiling.smem_iters)).max(0);
        let again = again * bytes * lost as f64 / self.tiling.iterations() as f64;
        let (from_l2, residual) = (self.l2_hits(again), residual * bytes);
        let (loaded, stored) = (loaded * bytes, stored * bytes);
        // Loads put out of L2 what was stored before.
        let written_back = stored / (loaded + stored);
        let ctas = teams * self.tiling.busy_splits() as f64;
        let load = self.phase(ctas, loaded * (1.0 + written_back), loaded, self.load_walk());
        let store_bytes = again + residual + stored;
        let store_dram = again - from_l2 + residual + stored * written_back;
        let store = self.phase(ctas, store_dram, store_bytes, self.store_walk(lost));

        let time = |phase: &Phase| self.constants.time(self.limits, phase);
        let together = time(&load) + self.between() + time(&store);
        let without_dram = |phase| Phase { dram_bytes: 0.0, ..phase };
        let alone = time(&without_dram(load)) + self.between() + time(&without_dram(store));
        let dram_bytes = load.dram_bytes + store.dram_bytes;
        let shared = time(&self.phase(ctas, dram_bytes, loaded + store_bytes, 0.0));
        together + apart * (alone.max(shared) - together)
    }

    /// The passes of CTAs that keep nothing.
    fn passes(&self) -> f64 {
        let Tensors { loaded, again, residual, stored } = self.tensors;
        let t = self.tiling;
        let ctas = f64::from(t.tiles) * t.busy_splits() as f64;
        let at_once = ctas.min(f64::from(self.resident() * self.limits.sms));
        let pass = |dram: f64, moved: f64, walk: f64| {
            let dram = dram / self.constants.pass_efficiency;
            self.constants.time(self.limits, &self.phase(at_once, dram, moved, ctas / at_once * walk))
        };
        let x_bytes = self.x_bytes;
        if !self.problem.op().needs_batch_statistics() || stored == 0.0 {
            let moved = (loaded + residual + stored) * x_bytes;
            return self.between() + pass(moved, moved, self.load_walk().max(self.store_walk(t.iterations())));
        }
        let (loaded, again) = (loaded * x_bytes, again * x_bytes);
        let moved = again + (residual + stored) * x_bytes;
        pass(loaded, loaded, self.load_walk())
            + self.between()
            + self.partials()
            + pass(moved - self.l2_hits(again), moved, self.store_walk(t.iterations()))
    }

    fn phase(&self, ctas: f64, dram_bytes: f64, moved_bytes: f64, walk: f64) -> Phase {
        let t = self.tiling;
        let vector_bytes = t.vector_len(self.problem.dtype()) * self.problem.dtype().bytes();
        // Rows follow each other where a tile is the whole row.
        let row_bytes = if t.width == t.row_vectors { f64::INFINITY } else { t.width as f64 * f64::from(vector_bytes) };
        Phase { dram_bytes, moved_bytes, ctas, row_bytes, walk }
    }

    /// The bytes of these that L2 still has when they are read again: those that were read last.
    fn l2_hits(&self, again: f64) -> f64 {
        again.min(self.constants.l2_kept * self.limits.l2_bytes as f64)
    }

    /// The walk of a CTA through its chunk that reduces it.
    fn load_walk(&self) -> f64 {
        let unroll = if self.problem.op().is_backward() { self.unroll() } else { MOMENTS_UNROLL };
        let iterations = self.tiling.iterations() as f64;
        let [instructions, _] = self.instructions();
        (iterations / f64::from(unroll)).max(1.0) * self.constants.latency
            + iterations * self.tensors.loaded * instructions * self.constants.instruction
    }

    /// The walk of a CTA back through its chunk, with this many iterations that load.
    fn store_walk(&self, loading: i64) -> f64 {
        let [_, instructions] = self.instructions();
        loading as f64 / f64::from(self.unroll()) * self.constants.latency
            + self.tiling.iterations() as f64 * instructions * self.constants.instruction
    }

    /// Vectors of each tensor that a thread has in flight, but for moments.
    fn unroll(&self) -> u32 {
        let is_slow = self.problem.op().is_backward() && self.problem.epilogue().has_real_derivative();
        if is_slow { REAL_UNROLL } else { UNROLL }
    }

    /// Instructions of a thread for a vector that it loads, and for one that it stores.
    fn instructions(&self) -> [f64; 2] {
        let len = self.tiling.vector_len(self.problem.dtype());
        let each = if len == 1 { SCALAR_INSTRUCTIONS } else { INSTRUCTIONS };
        each[usize::from(self.problem.op().is_backward())].map(|each| f64::from(len * each))
    }

    /// The time of a tile beside its loads and stores.
    fn between(&self) -> f64 {
        let Constants { merge, strided_merge, .. } = *self.constants;
        let merge = if self.tiling.access.is_strided() { strided_merge } else { merge };
        merge + self.exchange()
    }

    /// The reduction across the CTAs of a team.
    fn exchange(&self) -> f64 {
        let Constants { cluster_exchange, cluster_partial, grid_exchange, grid_merge, .. } = *self.constants;
        let Tiling { splits, tile_channels, .. } = *self.tiling;
        match self.strategy {
            Strategy::Block | Strategy::TwoPass => 0.0,
            // Each CTA merges the partials of all, one after the other.
            Strategy::Cluster => cluster_exchange + f64::from(splits) * cluster_partial,
            Strategy::Grid if splits == 1 => 0.0,
            Strategy::Grid if tile_channels == 1 => grid_exchange + grid_merge,
            // Each CTA reduces some channels for all, and a second exchange sends the results to all.
            Strategy::Grid => 2.0 * grid_exchange + f64::from(tile_channels.div_ceil(splits)) * grid_merge,
        }
    }

    /// The reduction of partials in front of a second pass: the threads of a channel share its splits.
    fn partials(&self) -> f64 {
        let threads = self.tiling.threads / self.tiling.tile_channels.next_power_of_two();
        let loads = self.tiling.splits.div_ceil(threads.max(1)).div_ceil(PARTIALS_IN_FLIGHT);
        f64::from(loads) * self.constants.l2_latency
    }

    /// CTAs of the tiling that an SM holds at once.
    fn resident(&self) -> u32 {
        self.limits.resident_ctas(self.tiling.threads, self.tiling.shared_bytes).max(1)
    }

    /// Teams that run at once.
    fn teams_at_once(&self) -> u32 {
        let t = self.tiling;
        let clusters = |ctas_per_sm| self.limits.clusters_of(t.splits, ctas_per_sm);
        let most = match self.strategy {
            Strategy::Block => self.resident() * self.limits.sms,
            // Clusters with one and with two CTAs an SM are known. More of them share SMs as these do.
            Strategy::Cluster => {
                let (pairs, single) = (self.resident() / 2, self.resident() % 2);
                pairs.saturating_mul(clusters(2)).saturating_add(single.saturating_mul(clusters(1)))
            }
            Strategy::Grid | Strategy::TwoPass => t.teams,
        };
        most.clamp(1, t.tiles)
    }
}

//! Residency: how many CTAs share a tile, and how much of it they keep in shared memory.

use super::kernels::{CLUSTER_SIZES, MAX_CTAS, MAX_EXCHANGES, MAX_PARTIALS, MAX_THREADS, MIN_CTAS, PARTIAL_BYTES};
use super::limits::DeviceLimits;
use super::strategy::Strategy;
use super::tile::{Tiling, div_ceil, whole_tilings};
use super::traffic::smem_tensors;
use crate::op::Problem;

/// CTAs of a cooperative grid on an SM. Two have tiles in different phases: one loads while the other computes or stores.
const GRID_CTAS_PER_SM: [u32; 2] = [1, 2];
/// CTAs for each SM that a streaming pass is split into: two waves of the two that are sure to be resident, so that no
/// SM idles through the last one. Not measured.
const STREAM_CTAS_PER_SM: u32 = 4;
/// Vectors that a thread of a streaming pass has at least, so that its loads are worth its start. Not measured.
const MIN_ITERATIONS: i64 = 8;

/// Every tiling worth pricing, each within the limits.
pub(super) fn candidates(problem: &Problem, limits: &DeviceLimits, strategy: Strategy) -> Vec<Tiling> {
    let of_whole = |whole: Tiling| {
        let vector_bytes = whole.vector_len(problem.dtype()) * problem.dtype().bytes();
        let iteration_bytes = whole.threads * vector_bytes * smem_tensors(problem.op());
        match strategy {
            Strategy::Block => keeping_all(whole, iteration_bytes).into_iter().collect(),
            Strategy::Cluster => clusters(limits, whole, iteration_bytes),
            Strategy::Grid if limits.cooperative => {
                GRID_CTAS_PER_SM.iter().flat_map(|&ctas| grids(limits, whole, iteration_bytes, ctas)).collect()
            }
            Strategy::Grid => Vec::new(),
            Strategy::TwoPass => vec![split(whole, limits, problem.shape().c())],
        }
    };
    let mut tilings: Vec<_> = whole_tilings(problem).into_iter().flat_map(of_whole).collect();
    tilings.retain(|t| {
        let ctas = u64::from(t.tiles) * u64::from(t.splits);
        t.shared_bytes <= limits.shared_per_cta && ctas <= MAX_CTAS
    });
    tilings
}

/// The tiling with room for every iteration.
fn keeping_all(tiling: Tiling, iteration_bytes: u32) -> Option<Tiling> {
    let smem_iters = if iteration_bytes == 0 { 0 } else { u32::try_from(tiling.iterations()).ok()? };
    let shared_bytes = smem_iters.checked_mul(iteration_bytes)?.checked_add(tiling.shared_bytes)?;
    Some(Tiling { smem_iters, shared_bytes, ..tiling })
}

/// Tiles that are shared by clusters, one tiling for each size that the device has.
fn clusters(limits: &DeviceLimits, whole: Tiling, iteration_bytes: u32) -> Vec<Tiling> {
    let of_size = |size| {
        let mut tiling = whole.in_chunks(div_ceil(whole.chunk, i64::from(size)));
        if tiling.splits == 1 && size == CLUSTER_SIZES[0] {
            tiling.splits = size; // one iteration in all: the other CTA has nothing to do
        }
        // The receive buffer: two partials for each channel and CTA, and two mbarriers.
        tiling.shared_bytes += (2 * tiling.tile_channels * size + 1) * PARTIAL_BYTES as u32;
        let kept = keeping_all(tiling, iteration_bytes).filter(|kept| kept.splits == size)?;
        let resident = limits.resident_ctas(kept.threads, kept.shared_bytes);
        (limits.clusters_of(size, resident) > 0).then_some(kept)
    };
    CLUSTER_SIZES.into_iter().filter_map(of_size).collect()
}

/// Tiles that are shared by teams of a cooperative grid with this many CTAs per SM: the smallest teams that keep their tiles; or,
/// where the whole device does not keep one, all of it, and two halves.
fn grids(limits: &DeviceLimits, whole: Tiling, iteration_bytes: u32, ctas_per_sm: u32) -> Vec<Tiling> {
    let share_of_sm = (limits.shared_per_sm / ctas_per_sm).saturating_sub(limits.shared_reserved);
    let whole = Tiling { shared_bytes: whole.shared_bytes + PARTIAL_BYTES as u32, ..whole }; // the epoch of its exchanges
    let room = limits.shared_per_cta.min(share_of_sm).saturating_sub(whole.shared_bytes);
    let most_iters = room.checked_div(iteration_bytes).unwrap_or(u32::MAX);
    let ctas = ctas_per_sm * limits.sms;
    if most_iters == 0 || ctas_per_sm * whole.threads > MIN_CTAS * MAX_THREADS {
        return Vec::new();
    }
    let least = div_ceil(whole.iterations(), i64::from(most_iters));
    let teams = match u32::try_from(least) {
        Ok(least) if least <= ctas => vec![ctas / least],
        Ok(_) | Err(_) => vec![1, 2],
    };
    let with_teams = |teams: u32| {
        let teams = teams.min(whole.tiles);
        let tiling = whole.in_chunks(div_ceil(whole.chunk, i64::from((ctas / teams).max(1))));
        let smem_iters =
            if iteration_bytes == 0 { 0 } else { u32::try_from(tiling.iterations()).ok()?.min(most_iters) };
        let shared_bytes = tiling.shared_bytes + smem_iters * iteration_bytes;
        let partials = grid_partials(tiling.splits, teams, tiling.tile_channels);
        let tiling = Tiling { teams, smem_iters, shared_bytes, ..tiling };
        let is_in_reach = partials <= MAX_PARTIALS && tiling.exchanges() <= MAX_EXCHANGES;
        (tiling.iterations() < i64::from(i32::MAX) && is_in_reach).then_some(tiling)
    };
    teams.into_iter().filter_map(with_teams).collect()
}

/// Shares each tile of a streaming pass among enough CTAs to keep the device busy, even where there is only one tile.
fn split(whole: Tiling, limits: &DeviceLimits, channels: usize) -> Tiling {
    let wanted = most_splits(&whole, limits, u32::try_from(channels).unwrap_or(u32::MAX));
    let least = MIN_ITERATIONS * whole.iteration_len();
    // Few enough iterations to count in 31 bits.
    let most = i64::from(i32::MAX) / 2 / whole.iteration_len() * whole.iteration_len();
    whole.in_chunks(div_ceil(whole.chunk, i64::from(wanted)).clamp(least, most))
}

/// CTAs that share a tile of a streaming pass at most, however long it is.
fn most_splits(tiling: &Tiling, limits: &DeviceLimits, channels: u32) -> u32 {
    let busy = limits.sms.saturating_mul(STREAM_CTAS_PER_SM * MAX_THREADS / tiling.threads);
    busy.div_ceil(tiling.tiles).min((MAX_PARTIALS as u32 / channels).max(1))
}

/// Partials that the teams of a grid exchange: two stages per team, each with one of every CTA and channel, and the reduced ones.
pub(super) fn grid_partials(splits: u32, teams: u32, tile_channels: u32) -> usize {
    2 * (splits as usize + 1) * teams as usize * tile_channels as usize
}

/// Partials that a grid exchanges at most, for a problem like this one with any number of samples.
pub(super) fn most_grid_partials(problem: &Problem, limits: &DeviceLimits) -> usize {
    let ctas = GRID_CTAS_PER_SM.iter().max().unwrap_or(&1) * limits.sms;
    let of_tiling = |t: &Tiling| (2 * 2 * ctas as usize * t.tile_channels as usize).min(MAX_PARTIALS);
    // One tiling for each width and number of threads.
    candidates(problem, limits, Strategy::TwoPass).iter().map(of_tiling).max().unwrap_or(0)
}

/// Partials that one streaming pass leaves at most, for a problem like this one with any number of samples.
pub(super) fn most_pass_partials(problem: &Problem, limits: &DeviceLimits) -> usize {
    let c = problem.shape().c();
    let channels = u32::try_from(c).unwrap_or(u32::MAX);
    let splits = candidates(problem, limits, Strategy::TwoPass).iter().map(|t| most_splits(t, limits, channels)).max();
    splits.unwrap_or(1) as usize * c
}

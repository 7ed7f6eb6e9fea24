//! How the strips that are held on chip are shared among the CTAs of a team.

use super::cost::resident;
use super::tiling::{div_ceil, held};
use super::{DeviceLimits, Plan, Strategy, Tiling};
use crate::Problem;

/// The cluster sizes that exist, smallest first.
pub(super) const CLUSTER_SIZES: [u32; 4] = [2, 4, 8, 16];
/// CTAs of a cooperative grid on an SM. Two have strips in different phases: one loads while the other computes or stores.
const GRID_CTAS_PER_SM: [u32; 2] = [1, 2];

/// Of a tiling with whole strips, those that hold them by this strategy.
pub(super) fn candidates(problem: &Problem, limits: &DeviceLimits, strategy: Strategy, whole: Tiling) -> Vec<Tiling> {
    let vector_bytes = whole.vector_len(problem.dtype()) * problem.dtype().bytes();
    let step_bytes = whole.threads * vector_bytes * held(problem.op());
    match strategy {
        Strategy::Block => holding(whole, step_bytes).into_iter().collect(),
        Strategy::Cluster => CLUSTER_SIZES
            .into_iter()
            .filter_map(|size| {
                let mut tiling = whole.in_chunks(div_ceil(whole.chunk, i64::from(size)));
                if tiling.splits == 1 && size == CLUSTER_SIZES[0] {
                    tiling.splits = size; // one step in all: the other CTA has nothing to do
                }
                // Two partials for each channel and CTA, and the two barriers that count them.
                tiling.shared_bytes += (2 * tiling.strip_channels * size + 1) * Plan::PARTIAL_BYTES as u32;
                let held = holding(tiling, step_bytes).filter(|held| held.splits == size)?;
                (limits.clusters_of(size, resident(limits, &held)) > 0).then_some(held)
            })
            .collect(),
        Strategy::Grid if limits.cooperative => {
            GRID_CTAS_PER_SM.iter().flat_map(|&ctas| grid(limits, whole, step_bytes, ctas)).collect()
        }
        Strategy::Grid | Strategy::TwoRead => Vec::new(),
    }
}

/// With room for every step, where a CTA has as much.
fn holding(tiling: Tiling, step_bytes: u32) -> Option<Tiling> {
    let held_steps = if step_bytes == 0 { 0 } else { u32::try_from(tiling.steps()).ok()? };
    let shared_bytes = held_steps.checked_mul(step_bytes)?.checked_add(tiling.shared_bytes)?;
    Some(Tiling { held_steps, shared_bytes, ..tiling })
}

/// Teams of a cooperative grid with so many CTAs on each SM: the smallest that hold their strips; or, where all of the
/// device does not hold one, the whole of it, and two halves.
fn grid(limits: &DeviceLimits, whole: Tiling, step_bytes: u32, ctas_per_sm: u32) -> Vec<Tiling> {
    let of_an_sm = (limits.shared_per_sm / ctas_per_sm).saturating_sub(limits.shared_reserved);
    let room = limits.shared_per_cta.min(of_an_sm).saturating_sub(whole.shared_bytes);
    let most_steps = room.checked_div(step_bytes).unwrap_or(u32::MAX);
    let ctas = ctas_per_sm * limits.sms;
    if most_steps == 0 || ctas_per_sm * whole.threads > Plan::MIN_CTAS * Plan::MAX_THREADS {
        return Vec::new();
    }
    let least = div_ceil(whole.steps(), i64::from(most_steps));
    let teams = match u32::try_from(least) {
        Ok(least) if least <= ctas => vec![ctas / least],
        _ => vec![1, 2],
    };
    let with_teams = |teams: u32| {
        let teams = teams.min(whole.strips).min(Plan::MAX_TEAMS);
        let tiling = whole.in_chunks(div_ceil(whole.chunk, i64::from((ctas / teams).max(1))));
        let held_steps = if step_bytes == 0 { 0 } else { u32::try_from(tiling.steps()).ok()?.min(most_steps) };
        let shared_bytes = tiling.shared_bytes + held_steps * step_bytes;
        let partials = partials(tiling.splits, teams, tiling.strip_channels);
        let tiling = Tiling { teams, held_steps, shared_bytes, ..tiling };
        (tiling.steps() < i64::from(i32::MAX) && partials <= Plan::MAX_PARTIALS).then_some(tiling)
    };
    teams.into_iter().filter_map(with_teams).collect()
}

/// Partials that the teams of a grid exchange: two boxes a team, each with one of every CTA and channel, and the merged.
pub(super) fn partials(splits: u32, teams: u32, strip_channels: u32) -> usize {
    2 * (splits as usize + 1) * teams as usize * strip_channels as usize
}

/// The most partials of any grid on this device for tilings like this one.
pub(super) fn most_partials(limits: &DeviceLimits, tiling: &Tiling) -> usize {
    let ctas = GRID_CTAS_PER_SM.iter().max().unwrap_or(&1) * limits.sms;
    let teams = Plan::MAX_TEAMS.min(ctas);
    (2 * (ctas + teams) as usize * tiling.strip_channels as usize).min(Plan::MAX_PARTIALS)
}

//! How a problem can be cut: the sizes worth pricing, each within the limits.

use super::forms::{Form, View, forms, widths};
use super::{DeviceLimits, Plan, Strategy, teams};
use crate::element::Dtype;
use crate::op::{Op, Problem, StatisticsKind};

/// How the tensors are cut. A strip is a group of neighbouring channels: `rows` rows of `width` vectors each, from one
/// row to the next `row_vectors`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Who owns which element.
    pub form: Form,
    /// Rows of a strip.
    pub rows: i64,
    /// Vectors from one row to the next.
    pub row_vectors: i64,
    /// Vectors of a strip in a row.
    pub width: i64,
    /// What one CTA takes of its strip: vectors counted row by row (rows forms), or rows (columns forms).
    pub chunk: i64,
    /// Channels of a strip.
    pub strip_channels: u32,
    /// Elements of one channel side by side in a row, in the columns forms.
    pub span: u32,
    /// Strips of the tensor.
    pub strips: u32,
    /// CTAs that share a strip: its team.
    pub splits: u32,
    /// Teams that are launched. They take the strips in turn.
    pub teams: u32,
    /// Steps of each CTA's walk that it keeps in shared memory.
    pub held_steps: u32,
    /// Threads of a CTA.
    pub threads: u32,
    /// Dynamic shared memory of a CTA, in bytes.
    pub shared_bytes: u32,
    /// Whether vectors pair up to whole bytes of the relu mask.
    pub mask_in_place: bool,
}

/// One partial for each warp of the largest CTA.
const WARP_PARTIALS: u32 = Plan::MAX_THREADS / 32;
/// CTAs for each SM that a streaming pass is split into: two waves of the two that are sure to be resident, so that no
/// SM idles through the last one. Not measured.
const STREAM_CTAS_PER_SM: u32 = 4;
/// Vectors that a thread of a streaming pass has at least, so that its loads are worth its start. Not measured.
const MIN_STEPS: i64 = 8;

/// CTAs of a grid, in its first dimension.
const MAX_CTAS: u64 = (1 << 31) - 1;

impl Tiling {
    /// Of nothing.
    pub(super) const EMPTY: Self = Self {
        form: Form::ScalarRows,
        rows: 0,
        row_vectors: 0,
        width: 0,
        chunk: 0,
        strip_channels: 1,
        span: 1,
        strips: 0,
        splits: 0,
        teams: 0,
        held_steps: 0,
        threads: 32,
        shared_bytes: 0,
        mask_in_place: false,
    };

    /// Elements of a vector.
    pub fn vector_len(&self, dtype: Dtype) -> u32 {
        self.form.vector_len(dtype)
    }

    /// Rows that a CTA of a columns form takes in one step.
    pub(super) fn row_step(&self) -> i64 {
        i64::from(self.threads) / self.width.max(1)
    }

    /// What a CTA takes of its chunk in one step, in the chunk's units.
    pub(super) fn step_len(&self) -> i64 {
        if self.form.is_columns() { self.row_step() } else { i64::from(self.threads) }
    }

    /// With strips that are cut into chunks of this length, or of as many more as make whole steps: so only a strip's last
    /// step has idle threads, and vectors stay in pairs.
    pub(super) fn in_chunks(self, chunk: i64) -> Self {
        let chunk = div_ceil(chunk, self.step_len()) * self.step_len();
        let splits = u32::try_from(div_ceil(self.chunk, chunk).max(1)).unwrap_or(u32::MAX);
        Self { chunk: chunk.min(self.chunk), splits, ..self }
    }

    /// CTAs of a team that have something to do.
    pub(super) fn busy_splits(&self) -> i64 {
        let whole = if self.form.is_columns() { self.rows } else { self.rows * self.width };
        div_ceil(whole, self.chunk)
    }

    /// Steps that a CTA takes through its chunk.
    pub fn steps(&self) -> i64 {
        div_ceil(self.chunk, self.step_len().max(1))
    }
}

/// Every tiling worth pricing, each within the limits.
pub(super) fn candidates(problem: &Problem, limits: &DeviceLimits, strategy: Strategy) -> Vec<Tiling> {
    let view = View::new(problem);
    let mut tilings = Vec::new();
    for form in forms(problem, view) {
        for width in widths(form, problem.dtype(), view) {
            for threads in [64, 128, 256] {
                let Some(whole) = whole(problem, view, form, width, threads) else { continue };
                match strategy {
                    Strategy::Block | Strategy::Cluster | Strategy::Grid => {
                        tilings.extend(teams::candidates(problem, limits, strategy, whole));
                    }
                    Strategy::TwoRead => tilings.push(split(whole, limits, view.c)),
                }
            }
        }
    }
    tilings.retain(|t| {
        let ctas = u64::from(t.strips) * u64::from(t.splits);
        t.shared_bytes <= limits.shared_per_cta && ctas <= MAX_CTAS
    });
    tilings
}

/// The bytes of the smallest strip that a CTA would have to hold.
pub(super) fn least_strip_bytes(problem: &Problem) -> usize {
    let (view, bytes) = (View::new(problem), problem.dtype().bytes() as usize);
    let least =
        |form| widths(form, problem.dtype(), view).first().map(|&w| w * form.vector_len(problem.dtype()) as usize);
    let row = forms(problem, view).into_iter().filter_map(least).min().unwrap_or(view.span);
    row.saturating_mul(view.rows).saturating_mul(bytes * held(problem.op()) as usize)
}

/// Tensors of which a strip is held: moments need every value once.
pub(super) fn held(op: Op) -> u32 {
    match op {
        Op::Train => 1,
        Op::Backward(StatisticsKind::Batch) => 2,
        Op::Moments | Op::Infer | Op::Backward(StatisticsKind::Running) => 0,
    }
}

/// Of counts, which are not negative: `i64::div_ceil` is not stable.
pub(super) fn div_ceil(a: i64, b: i64) -> i64 {
    a / b + i64::from(a % b != 0)
}

/// A tiling with each strip in one CTA that keeps nothing, unless it exceeds a limit of the kernels.
fn whole(problem: &Problem, view: View, form: Form, width: usize, threads: u32) -> Option<Tiling> {
    let vector = form.vector_len(problem.dtype()) as usize;
    let strip_channels = if form.is_columns() { width * vector / view.span } else { 1 };
    let row_vectors = view.row_len() / vector;
    let too_narrow =
        form.is_columns() && (width > threads as usize || strip_channels.next_power_of_two() > threads as usize);
    if too_narrow || strip_channels == 0 {
        return None;
    }
    let chunk = if form.is_columns() { view.rows } else { view.rows.checked_mul(width)? };
    let strips = u32::try_from(row_vectors.div_ceil(width)).ok()?;
    let strip_channels = u32::try_from(strip_channels).ok()?;
    let slots = if form.is_columns() { vector as u32 * threads } else { 0 };
    Some(Tiling {
        form,
        rows: i64::try_from(view.rows).ok()?,
        row_vectors: i64::try_from(row_vectors).ok()?,
        width: i64::try_from(width).ok()?,
        chunk: i64::try_from(chunk).ok()?,
        strip_channels,
        span: u32::try_from(view.span).unwrap_or(u32::MAX), // beyond 32 bits only in the rows forms, which ignore it
        strips,
        splits: 1,
        teams: strips,
        held_steps: 0,
        threads,
        shared_bytes: (WARP_PARTIALS + strip_channels + slots) * Plan::PARTIAL_BYTES as u32,
        mask_in_place: mask_in_place(vector, width, row_vectors),
    })
}

/// Shares each strip among enough CTAs to keep the device busy, even where there is only one.
fn split(whole: Tiling, limits: &DeviceLimits, channels: usize) -> Tiling {
    let wanted = most_splits(&whole, limits, u32::try_from(channels).unwrap_or(u32::MAX));
    let least = MIN_STEPS * whole.step_len();
    // Few enough steps to count in 31 bits.
    let most = i64::from(i32::MAX) / 2 / whole.step_len() * whole.step_len();
    whole.in_chunks(div_ceil(whole.chunk, i64::from(wanted)).clamp(least, most))
}

/// The most CTAs that share a strip, however long it is.
fn most_splits(tiling: &Tiling, limits: &DeviceLimits, channels: u32) -> u32 {
    let busy = limits.sms.saturating_mul(STREAM_CTAS_PER_SM * Plan::MAX_THREADS / tiling.threads);
    busy.div_ceil(tiling.strips).min((Plan::MAX_PARTIALS as u32 / channels).max(1))
}

/// The most partials that a grid exchanges for a problem like this one with any number of samples.
pub(super) fn most_grid_partials(problem: &Problem, limits: &DeviceLimits) -> usize {
    let tilings = candidates(problem, limits, Strategy::TwoRead); // one for each form, width and number of threads
    tilings.iter().map(|tiling| teams::most_partials(limits, tiling)).max().unwrap_or(0)
}

/// The most partials that one pass leaves for a problem like this one with any number of samples.
pub(super) fn most_partials(problem: &Problem, limits: &DeviceLimits) -> usize {
    let c = problem.shape().c();
    let channels = u32::try_from(c).unwrap_or(u32::MAX);
    let splits = candidates(problem, limits, Strategy::TwoRead).iter().map(|t| most_splits(t, limits, channels)).max();
    splits.unwrap_or(1) as usize * c
}

/// Whether each byte of the relu mask is written by one thread, or by two neighbours of a warp.
fn mask_in_place(vector: usize, width: usize, row_vectors: usize) -> bool {
    match vector {
        8 => true,
        4 => width.is_multiple_of(2) && row_vectors.is_multiple_of(2),
        _ => false,
    }
}

/// Whether a pass over y follows to pack its relu mask.
pub(super) fn packs_mask(problem: &Problem, tiling: &Tiling) -> bool {
    problem.epilogue().keeps_mask() && matches!(problem.op(), Op::Train | Op::Infer) && !tiling.mask_in_place
}

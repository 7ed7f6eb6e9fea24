//! What a plan should cost: a model of its time, to compare plans by. Its constants are estimates, not measurements.

use super::forms::Form;
use super::tiling::packs_mask;
use super::{DeviceLimits, Plan, Strategy, Tiling};
use crate::{Epilogue, Op, Problem};

/// Bytes that DRAM moves for each SM in a nanosecond: between an A100 (19) and an H100 (25). Not measured here.
const BYTES_PER_SM_NS: f64 = 24.0;
/// How much more than its share one SM can draw while others are idle. Not measured.
const LONE_SM: f64 = 3.0;
/// Vectors of data that a thread keeps in flight, in every kernel that moves data.
const IN_FLIGHT: f64 = 8.0;
/// How long a load takes under load, in nanoseconds. Not measured.
const LATENCY: f64 = 700.0;
/// How much faster L2 answers than DRAM. Not measured.
const L2_SPEED: f64 = 2.5;
/// The share of L2 in which the end of a pass is found again. Not measured.
const L2_KEPT: f64 = 0.5;
/// One more launch in the same stream, in nanoseconds. Not measured.
const LAUNCH: f64 = 2500.0;
/// What it costs that an SM holds one CTA alone, whose loads wait for its arithmetic. Not measured.
const SERIAL: f64 = 1.5;

/// The share of a transaction that is used where rows have this many bytes. Not measured: DRAM bursts of 64 bytes, and
/// some loss of order up to 128.
fn stride_efficiency(row_bytes: f64) -> f64 {
    match row_bytes {
        b if b >= 128.0 => 1.0,
        b if b >= 64.0 => 0.85,
        b if b >= 32.0 => 0.6,
        b => b / 64.0,
    }
}

/// Tensors of the size of x that an operation reads once, reads again in a second pass, and writes.
fn traffic(problem: &Problem) -> (f64, f64, f64) {
    let residual = matches!(problem.epilogue(), Epilogue::Add(()) | Epilogue::AddRelu(()));
    let extra = if residual { 1.0 } else { 0.0 };
    match problem.op() {
        Op::Moments => (1.0, 0.0, 0.0),
        Op::Train => (1.0, 1.0, 1.0 + 2.0 * extra),
        Op::Infer => (1.0, 0.0, 1.0 + 2.0 * extra),
        Op::Backward => (2.0, 2.0, 1.0 + extra),
        Op::BackwardFrozen => (2.0, 0.0, 1.0 + extra),
    }
}

/// Launches beyond the first.
fn more_launches(problem: &Problem, strategy: Strategy) -> f64 {
    match (strategy, problem.op()) {
        (Strategy::Block, _) | (_, Op::Infer) => 0.0,
        (Strategy::TwoRead, Op::Backward) if problem.epilogue() == Epilogue::Relu => 2.0,
        (Strategy::TwoRead, _) => 1.0,
    }
}

/// The predicted time of a plan.
pub(super) fn nanoseconds(problem: &Problem, limits: &DeviceLimits, strategy: Strategy, tiling: &Tiling) -> f64 {
    let x_bytes = problem.shape().len() as f64 * f64::from(problem.dtype().bytes());
    let (once, again, written) = traffic(problem);
    let written = written + if packs_mask(problem, tiling) { 1.0 } else { 0.0 };
    let rate = BYTES_PER_SM_NS * f64::from(limits.sms);

    let second_pass = match strategy {
        Strategy::Block => 0.0,
        Strategy::TwoRead => {
            let bytes = again * x_bytes;
            let kept = bytes.min(L2_KEPT * limits.l2_bytes as f64);
            bytes - kept + kept / L2_SPEED
        }
    };
    // Every CTA of a second pass reads the partials of all splits of its strip.
    let splits = f64::from(tiling.splits);
    let merged = more_launches(problem, strategy) * splits * splits * problem.shape().c() as f64;
    let partials = merged * Plan::PARTIAL_BYTES as f64 / L2_SPEED;
    let bytes = (once + written) * x_bytes + second_pass + partials;

    let vector_bytes = f64::from(tiling.vector_len(problem.dtype()) * problem.dtype().bytes());
    let efficiency = stride_efficiency(tiling.width as f64 * vector_bytes);

    // The busiest SM: how many CTAs it gets, of how many bytes, and how fast what they have in flight lets it go.
    let ctas = f64::from(tiling.strips) * f64::from(tiling.splits);
    let busiest = (ctas / f64::from(limits.sms)).ceil();
    let together = f64::from(resident(limits, tiling).max(1)).min(busiest);
    let in_flight = together * f64::from(tiling.threads) * IN_FLIGHT * vector_bytes;
    let of_busiest = bytes / ctas * busiest / (in_flight / LATENCY).min(BYTES_PER_SM_NS * LONE_SM).min(rate);
    let serial = if strategy == Strategy::Block && resident(limits, tiling) < 2 { SERIAL } else { 1.0 };
    let idle_threads = idle(tiling);

    let whole = (bytes / rate).max(of_busiest) / efficiency;
    whole * serial * idle_threads + LAUNCH * (1.0 + more_launches(problem, strategy))
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

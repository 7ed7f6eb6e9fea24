//! The passes of an operation: facts of a problem alone. The data that it moves at least is [`Op::traffic`].

use crate::op::{Op, Problem, StatisticsKind, Traffic};

/// Tensors of which a tile is kept in shared memory: moments need every value once.
pub(super) fn smem_tensors(op: Op) -> u32 {
    op.traffic(false).cached
}

/// Passes of the two-pass strategy that leave partials, each with one more launch behind it.
pub(super) fn partial_passes(problem: &Problem) -> usize {
    match problem.op() {
        Op::Infer => 0,
        // The means have to be known before the mask that is computed from them.
        Op::Backward(StatisticsKind::Batch) if problem.epilogue().recomputes_v() => 2,
        Op::Moments | Op::Train | Op::Backward(_) => 1,
    }
}

/// Whether an operation writes a relu mask.
pub(super) fn writes_mask(problem: &Problem) -> bool {
    let is_forward = match problem.op() {
        Op::Train | Op::Infer => true,
        Op::Moments | Op::Backward(_) => false,
    };
    is_forward && problem.epilogue().keeps_mask()
}

/// Tensors of the size of x that an operation moves once, and reads again in a second pass.
pub(super) fn tensors(problem: &Problem) -> (f64, f64) {
    let Traffic { reads, writes, cached } = problem.op().traffic(problem.epilogue().residual().is_some());
    (f64::from(reads + writes), f64::from(cached))
}

//! The passes of an operation: facts of a problem alone. The data that it moves at least is [`Op::traffic`].

use crate::op::{Op, Problem, Traffic};

/// Tensors of which a tile is kept in shared memory: moments need every value once.
pub(super) fn smem_tensors(op: Op) -> u32 {
    op.traffic(false).cached
}

/// Passes of the two-pass strategy that leave partials, each with one more launch behind it.
pub(super) fn partial_passes(problem: &Problem) -> usize {
    let op = problem.op();
    // Sums of gradients need v, and so the means, before.
    let finds_mean = op.is_backward() && op.needs_batch_statistics() && problem.epilogue().recomputes_v();
    usize::from(op.reduces()) + usize::from(finds_mean)
}

/// Whether an operation writes a relu mask.
pub(super) fn writes_mask(problem: &Problem) -> bool {
    problem.op().writes_y() && problem.epilogue().keeps_mask()
}

/// Tensors of the size of x that an operation moves.
#[derive(Clone, Copy)]
pub(super) struct Tensors {
    /// Tensors that are loaded first, for the sums where there are any.
    pub(super) loaded: f64,
    /// Tensors that are needed once more: kept on chip between, or loaded again.
    pub(super) again: f64,
    /// The residual, which is loaded as y is stored.
    pub(super) residual: f64,
    /// Tensors that are stored.
    pub(super) stored: f64,
}

/// The tensors that an operation moves.
pub(super) fn tensors(problem: &Problem) -> Tensors {
    let plain = problem.op().traffic(false);
    let Traffic { reads, writes, cached } = problem.op().traffic(problem.epilogue().residual().is_some());
    Tensors {
        loaded: f64::from(plain.reads),
        again: f64::from(cached),
        residual: f64::from(reads - plain.reads),
        stored: f64::from(writes),
    }
}

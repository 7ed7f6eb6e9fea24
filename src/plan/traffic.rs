//! The data that an operation moves, and the passes that it takes: facts of a problem alone.

use crate::{Epilogue, Op, Problem};

/// Whether an operation reduces over the batch before it uses the values again: then there is a choice of strategies.
pub(super) fn needs_batch_statistics(op: Op) -> bool {
    match op {
        Op::Moments | Op::Train | Op::Backward => true,
        Op::Infer | Op::BackwardFrozen => false,
    }
}

/// Tensors of which a tile is kept in shared memory: moments need every value once.
pub(super) fn smem_tensors(op: Op) -> u32 {
    match op {
        Op::Train => 1,
        Op::Backward => 2,
        Op::Moments | Op::Infer | Op::BackwardFrozen => 0,
    }
}

/// Passes of the two-pass strategy that leave partials, each with one more launch behind it.
pub(super) fn partial_passes(problem: &Problem) -> usize {
    match problem.op() {
        Op::Infer => 0,
        Op::Moments | Op::Train | Op::BackwardFrozen => 1,
        Op::Backward => match problem.epilogue() {
            // The means have to be known before the mask that is computed from them.
            Epilogue::Relu => 2,
            Epilogue::Identity | Epilogue::Add(()) | Epilogue::AddRelu(()) => 1,
        },
    }
}

/// Whether an operation writes a relu mask.
pub(super) fn writes_mask(problem: &Problem) -> bool {
    let has_mask = match problem.epilogue() {
        Epilogue::AddRelu(()) => true,
        Epilogue::Identity | Epilogue::Relu | Epilogue::Add(()) => false,
    };
    let is_forward = match problem.op() {
        Op::Train | Op::Infer => true,
        Op::Moments | Op::Backward | Op::BackwardFrozen => false,
    };
    has_mask && is_forward
}

/// Tensors of the size of x that an operation reads once, reads again in a second pass, and writes.
pub(super) fn tensors(problem: &Problem) -> (f64, f64, f64) {
    let residual = match problem.epilogue() {
        Epilogue::Add(()) | Epilogue::AddRelu(()) => 1.0,
        Epilogue::Identity | Epilogue::Relu => 0.0,
    };
    match problem.op() {
        Op::Moments => (1.0, 0.0, 0.0),
        Op::Train => (1.0, 1.0, 1.0 + 2.0 * residual),
        Op::Infer => (1.0, 0.0, 1.0 + 2.0 * residual),
        Op::Backward => (2.0, 2.0, 1.0 + residual),
        Op::BackwardFrozen => (2.0, 0.0, 1.0 + residual),
    }
}

//! What is measured: the operations of a layer, and the least that they must move.

use super::Row;
use crate::{Epilogue, Op, Problem, Result};

/// An operation of a layer, with what is fused behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The operation: forward, or backward.
    pub op: Op,
    /// What is fused.
    pub epilogue: Epilogue<()>,
}

impl Operation {
    /// Everything that is measured.
    pub const ALL: [Self; 8] = [
        Self::of(Op::Train, Epilogue::Identity),
        Self::of(Op::Backward, Epilogue::Identity),
        Self::of(Op::Train, Epilogue::Relu),
        Self::of(Op::Backward, Epilogue::Relu),
        Self::of(Op::Train, Epilogue::AddRelu(())),
        Self::of(Op::Backward, Epilogue::AddRelu(())),
        Self::of(Op::Infer, Epilogue::Identity),
        Self::of(Op::BackwardFrozen, Epilogue::Identity),
    ];

    const fn of(op: Op, epilogue: Epilogue<()>) -> Self {
        Self { op, epilogue }
    }

    /// Such as `train`, or `backward-add-relu`.
    pub fn name(self) -> String {
        match self.epilogue {
            Epilogue::Identity => self.op.name().into(),
            epilogue => format!("{}-{}", self.op.name(), epilogue.name()),
        }
    }

    /// The tensors that it must read, and those that it must write: each once. Masks and what a channel has are not counted.
    pub fn tensors(self) -> (usize, usize) {
        let extra = usize::from(self.epilogue.residual().is_some());
        if self.is_backward() { (2, 1 + extra) } else { (1 + extra, 1) }
    }

    /// The least that can be moved, in bytes. A kernel that reads `x` twice gets no credit for it.
    pub fn bytes(self, row: &Row) -> usize {
        let (read, written) = self.tensors();
        (read + written) * row.bytes()
    }

    /// What a layer of the usual options makes of it over a row, to plan for.
    ///
    /// # Errors
    /// Those of [`Problem::new`].
    pub fn problem(self, row: &Row) -> Result<Problem> {
        const EPS: f64 = 1e-5; // on which no plan depends
        let problem = Problem::new(self.op, row.shape, row.dtype, self.epilogue, EPS, None)?;
        Ok(problem.with_offset(row.offset))
    }

    /// Whether it is a backward pass.
    pub fn is_backward(self) -> bool {
        matches!(self.op, Op::Backward | Op::BackwardFrozen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_that_is_moved() {
        let bytes = |name: &str| {
            let operation = Operation::ALL.into_iter().find(|operation| operation.name() == name).unwrap();
            operation.tensors()
        };
        assert_eq!(bytes("train"), (1, 1));
        assert_eq!(bytes("train-add-relu"), (2, 1));
        assert_eq!(bytes("backward-relu"), (2, 1));
        assert_eq!(bytes("backward-add-relu"), (2, 2));
    }
}

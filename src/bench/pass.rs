//! The operations that are measured: those of a layer, and the least that they must move.

use super::Row;
use crate::error::Result;
use crate::op::{Epilogue, Op, Problem, StatisticsKind, Traffic};

/// An operation of a layer, with what is fused behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The operation: forward, or backward.
    pub op: Op,
    /// The epilogue.
    pub epilogue: Epilogue<()>,
}

impl Pass {
    /// Everything that is measured.
    pub const ALL: [Self; 10] = [
        Self::of(Op::Train, Epilogue::IDENTITY),
        Self::of(Op::Backward(StatisticsKind::Batch), Epilogue::IDENTITY),
        Self::of(Op::Train, Epilogue::RELU),
        Self::of(Op::Backward(StatisticsKind::Batch), Epilogue::RELU),
        Self::of(Op::Train, Epilogue::ADD_RELU),
        Self::of(Op::Backward(StatisticsKind::Batch), Epilogue::ADD_RELU),
        Self::of(Op::Train, Epilogue::SILU),
        Self::of(Op::Backward(StatisticsKind::Batch), Epilogue::SILU),
        Self::of(Op::Infer, Epilogue::IDENTITY),
        Self::of(Op::Backward(StatisticsKind::Running), Epilogue::IDENTITY),
    ];

    const fn of(op: Op, epilogue: Epilogue<()>) -> Self {
        Self { op, epilogue }
    }

    /// The name, such as `train`, or `backward-add-relu`.
    pub fn name(self) -> String {
        if self.epilogue == Epilogue::IDENTITY {
            return self.op.name().into();
        }
        format!("{}-{}", self.op.name(), self.epilogue.name())
    }

    /// The tensors that it must read, and those that it must write: each once. Masks and what a channel has are not counted.
    pub fn tensors(self) -> (usize, usize) {
        let Traffic { reads, writes, .. } = self.op.traffic(self.epilogue.residual().is_some());
        (reads as usize, writes as usize)
    }

    /// The least that can be moved, in bytes. A kernel that reads `x` twice gets no credit for it.
    pub fn bytes(self, row: &Row) -> usize {
        let (read, written) = self.tensors();
        (read + written) * row.bytes()
    }

    /// The problem that a layer of the usual options makes of it over a row, to plan for.
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
        self.op.is_backward()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_that_is_moved() {
        let bytes = |name: &str| {
            let operation = Pass::ALL.into_iter().find(|operation| operation.name() == name).unwrap();
            operation.tensors()
        };
        assert_eq!(bytes("train"), (1, 1));
        assert_eq!(bytes("train-add-relu"), (2, 1));
        assert_eq!(bytes("backward-relu"), (2, 1));
        assert_eq!(bytes("backward-silu"), (2, 1));
        assert_eq!(bytes("backward-add-relu"), (2, 2));
    }
}

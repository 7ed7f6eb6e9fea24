//! The problems of a table: what a plan depends on, so that every way to write a shape finds the same row.

use core::fmt;

use crate::element::Dtype;
use crate::error::Result;
use crate::op::{Epilogue, Op, Problem};
use crate::plan::Plan;
use crate::shape::{Layout, Shape};

/// The part of a problem that a plan depends on. PyTorch passes the planes of a tensor as one dimension, and others each of theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) op: Op,
    pub(super) dtype: Dtype,
    pub(super) layout: Layout,
    pub(super) n: usize,
    pub(super) c: usize,
    pub(super) s: usize,
    pub(super) epilogue: Epilogue<()>,
    /// The bytes of a vector, or of one element: plans tell no others apart.
    pub(super) alignment: usize,
}

impl Key {
    pub(super) fn of(problem: &Problem) -> Self {
        let (shape, dtype) = (problem.shape(), problem.dtype());
        // One channel, or planes of one value, lie in memory the same in both layouts.
        let layout = if shape.c() == 1 || shape.s() == 1 { Layout::ChannelsFirst } else { shape.layout() };
        let vector = Plan::VECTOR_BYTES as usize;
        Self {
            op: problem.op(),
            dtype,
            layout,
            n: shape.n(),
            c: shape.c(),
            s: shape.s(),
            epilogue: problem.epilogue(),
            alignment: if problem.alignment() >= vector { vector } else { dtype.bytes() as usize },
        }
    }

    /// A problem of this key.
    pub(super) fn problem(&self) -> Result<Problem> {
        const EPS: f64 = 1e-5; // on which no plan depends
        let Self { op, dtype, layout, n, c, s, epilogue, alignment } = *self;
        let shape = match layout {
            Layout::ChannelsFirst => Shape::new(&[n, c, s], layout),
            Layout::ChannelsLast => Shape::new(&[n, s, c], layout),
        };
        let problem = Problem::new(op, shape?, dtype, epilogue, EPS, None)?;
        Ok(problem.with_offset(usize::from(alignment < Plan::VECTOR_BYTES as usize)))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { op, dtype, layout, n, c, s, epilogue, alignment } = self;
        write!(f, "{} {} {dtype} {layout} n={n} c={c} s={s} aligned to {alignment} bytes", op.name(), epilogue.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::StatisticsKind;
    use crate::plan::DeviceLimits;

    fn problem(dims: &[usize], layout: Layout, dtype: Dtype) -> Problem {
        let op = Op::Backward(StatisticsKind::Batch);
        Problem::new(op, Shape::new(dims, layout).unwrap(), dtype, Epilogue::SILU, 1e-3, None).unwrap()
    }

    #[test]
    fn problems_of_one_key_have_the_same_plans() {
        use Layout::{ChannelsFirst, ChannelsLast};
        let (_, limits) = DeviceLimits::KNOWN[1];
        for (of, others) in [
            (
                (&[4, 64, 6, 5][..], ChannelsFirst),
                &[(&[4, 64, 30][..], ChannelsFirst), (&[4, 64, 1, 2, 15], ChannelsFirst)][..],
            ),
            ((&[4, 6, 5, 64], ChannelsLast), &[(&[4, 30, 64], ChannelsLast)]),
            ((&[4, 64], ChannelsFirst), &[(&[4, 64, 1, 1], ChannelsFirst), (&[4, 1, 1, 64], ChannelsLast)]),
            ((&[4, 1, 64, 3], ChannelsFirst), &[(&[4, 64, 3, 1], ChannelsLast)]),
        ] {
            for dtype in [Dtype::F32, Dtype::Bf16] {
                let of = problem(of.0, of.1, dtype);
                for &(dims, layout) in others {
                    let other = problem(dims, layout, dtype);
                    for (of, other) in [(of, other), (of.with_offset(1), other.with_offset(3))] {
                        assert_eq!(Key::of(&of), Key::of(&other));
                        let plans = Plan::all(&of, &limits);
                        assert_eq!(plans, Plan::all(&other, &limits), "{dims:?}");
                        assert_eq!(plans, Plan::all(&Key::of(&of).problem().unwrap(), &limits), "{dims:?}");
                    }
                    assert_ne!(Key::of(&of), Key::of(&other.with_offset(1)));
                }
            }
        }
        let first = problem(&[4, 6, 5], ChannelsFirst, Dtype::F32);
        assert_ne!(Key::of(&first), Key::of(&problem(&[4, 5, 6], ChannelsLast, Dtype::F32)));
    }
}

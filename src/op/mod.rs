//! The operations: each is one type in one file, with its formula, its tensors and what they are, its own checks, what an empty
//! batch leaves, and what it must move at least.
//!
//! ```text
//! Train { x, y, … } -> backend.run(op) -> Problem (every check, once) -> Plan (every choice, once) -> one launch
//! ```
//!
//! With `m = n * s` values per channel, all sums running over the values of one channel:
//!
//! ```text
//! mean      = sum(x) / m
//! var       = sum((x - mean)^2) / m
//! inv_std   = 1 / sqrt(var + eps)                    0 where var + eps = 0, so that y = beta; NaN below
//! v         = (x - mean) * inv_std * gamma + beta
//! y         = activation(v) | activation(v + z)          see Activation; with a residual identity or relu
//! ```
//!
//! `eps` is rounded to the type of per-channel values first, f32 for all data but f64: so `var + eps` is 0 for the same
//! variances on every backend.
//!
//! Tensors are the caller's: of a [`Backend`](crate::Backend), or [`Raw`] addresses. Data tensors hold `shape.len()` values,
//! per-channel ones `shape.c()`. `gamma: None` is 1, `beta: None` is 0. No output may overlap another tensor.
//!
//! Values that are no numbers stay in their channel. An infinity in `x` is the channel's mean; infinities of both signs, or a
//! NaN, make the mean NaN. The variance is NaN then, and so are `inv_std`, all of `y`, `dx` and `dgamma`; `dbeta` is the sum of
//! `dy`, since relu and relu6 let a gradient pass where `y` is NaN, but with silu and hardswish NaN too. A `v` beyond f32 is infinite
//! on a device and, for half types, on the CPU, else finite in its f64: silu and hardswish of -infinity, and silu's gradient at either, are NaN.
//!
//! Operations are struct literals, so that every tensor has its name in front of it, and none is left out by an oversight. A field more
//! is therefore a breaking change, which takes a release of another major version (of 0.x, another x).
//!
//! # Errors
//! Every operation checks all of its arguments before it writes any: where it refuses them, nothing has changed. Common to all:
//! [`Error::Length`](crate::Error::Length) for a tensor that is not of the shape's size,
//! [`Error::Aliasing`](crate::Error::Aliasing) for an output that overlaps another tensor,
//! [`Error::Eps`](crate::Error::Eps), [`Error::Epilogue`](crate::Error::Epilogue) for an activation behind a residual that takes
//! none, and [`Error::Unexpected`](crate::Error::Unexpected) for a relu mask where the
//! epilogue is not add-relu. On CUDA also [`Error::Workspace`](crate::Error::Workspace) for a workspace that is too small,
//! [`Error::Strategy`](crate::Error::Strategy) for a forced strategy that cannot hold the problem,
//! [`Error::ForeignDevice`](crate::Error::ForeignDevice), [`Error::ForeignContext`](crate::Error::ForeignContext) and
//! [`Error::ForeignStream`](crate::Error::ForeignStream) for a buffer from elsewhere,
//! [`Error::Forked`](crate::Error::Forked) in a process that was forked from one that had used CUDA,
//! [`Error::Capture`](crate::Error::Capture) on a stream that is captured while events are tracked, and
//! [`Error::Driver`](crate::Error::Driver) or [`Error::Launch`](crate::Error::Launch) for what CUDA reports.

mod backward;
mod check;
mod epilogue;
mod infer;
mod moments;
mod problem;
mod raw;
mod statistics;
mod tensor;
mod tracking;
mod train;

pub use backward::{Backward, Gradients};
pub use epilogue::{Activation, Epilogue};
pub use infer::Infer;
pub use moments::Moments;
pub use problem::Problem;
pub use raw::{Raw, RawSlice};
pub use statistics::{ForwardPass, Statistics, StatisticsKind};
pub use tensor::Memory;
pub use tracking::{Momentum, NonFinite, Running, RunningVar, Tracking};
pub use train::{Train, Update};

pub(crate) use check::check_axpy;
#[cfg(feature = "cuda")]
pub(crate) use check::{check_overlaps, check_streams};
pub(crate) use problem::check_eps;
pub(crate) use raw::lend;
pub(crate) use tensor::{Extent, Map, Role, TensorList};
#[cfg(feature = "cuda")]
pub(crate) use tensor::{StreamKey, Tensor};
pub(crate) use tracking::{Coefficients, Weights};

use core::fmt;

use crate::element::Element;
use crate::error::Result;
use crate::named::named;

/// An operation, without its tensors.
#[cfg_attr(not(feature = "exhaustive"), non_exhaustive)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Mean and biased variance of each channel: [`Moments`].
    Moments,
    /// The forward pass with the batch's statistics, updating the running ones: [`Train`].
    Train,
    /// The forward pass with running statistics: [`Infer`].
    Infer,
    /// The backward pass through such statistics: [`Backward`].
    Backward(StatisticsKind),
}

named! {
    Op {
        Moments => "moments",
        Train => "train",
        Infer => "infer",
        Backward(StatisticsKind::Batch) => "backward",
        Backward(StatisticsKind::Running) => "backward-frozen",
    }
}

/// The facts of an operation without its tensors, stated in its file.
struct Facts {
    /// A line that says what it does.
    summary: &'static str,
    /// See [`Op::is_backward`].
    is_backward: bool,
    /// See [`Op::needs_batch_statistics`].
    needs_batch_statistics: bool,
    /// See [`Op::reduces`].
    reduces: bool,
    /// See [`Op::writes_y`].
    writes_y: bool,
    /// See [`Op::tracks`].
    tracks: bool,
    /// The least that it moves, without a residual.
    traffic: Traffic,
}

impl Op {
    const fn facts(self) -> &'static Facts {
        match self {
            Self::Moments => &moments::FACTS,
            Self::Train => &train::FACTS,
            Self::Infer => &infer::FACTS,
            Self::Backward(StatisticsKind::Batch) => &backward::FACTS,
            Self::Backward(StatisticsKind::Running) => &backward::FACTS_RUNNING,
        }
    }

    /// A line that says what it does.
    pub fn summary(self) -> &'static str {
        self.facts().summary
    }

    /// Whether it has parameters, and whether something can be fused behind it: there is a y, or its gradient.
    pub fn takes_epilogue(self) -> bool {
        self.writes_y() || self.is_backward()
    }

    /// The epilogues that it can have.
    pub fn epilogues(self) -> &'static [Epilogue<()>] {
        if self.takes_epilogue() { Epilogue::ALL } else { &[Epilogue::IDENTITY] }
    }

    /// Whether it updates running statistics.
    pub fn tracks(self) -> bool {
        self.facts().tracks
    }

    /// Whether it is a backward pass.
    pub fn is_backward(self) -> bool {
        self.facts().is_backward
    }

    /// Whether it reduces over the batch before it uses the values again, rather than normalize by running statistics: then
    /// there is a choice of [strategies](crate::Strategy).
    pub fn needs_batch_statistics(self) -> bool {
        self.facts().needs_batch_statistics
    }

    /// Whether CTAs leave partials of sums for each other.
    pub(crate) fn reduces(self) -> bool {
        self.facts().reduces
    }

    /// Whether it writes `y`, and the relu mask where the epilogue keeps one.
    pub(crate) fn writes_y(self) -> bool {
        self.facts().writes_y
    }

    /// The least that it moves, with or without a residual: z is read, or dz written.
    pub fn traffic(self, has_residual: bool) -> Traffic {
        let Facts { is_backward, writes_y, traffic, .. } = self.facts();
        Traffic {
            reads: traffic.reads + u32::from(has_residual && *writes_y),
            writes: traffic.writes + u32::from(has_residual && *is_backward),
            cached: traffic.cached,
        }
    }
}

/// Tensors of the size of x that an operation must move: each once. Masks and what a channel has are not counted.
#[cfg_attr(not(feature = "exhaustive"), non_exhaustive)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Tensors that are read.
    pub reads: u32,
    /// Tensors that are written.
    pub writes: u32,
    /// Tensors that are needed twice: kept on chip between, or read again.
    pub cached: u32,
}

/// The operations: each a type in a file of its own with what is asked of it here.
macro_rules! operations {
    ($($op:ident)*) => {
        /// An operation with its tensors, as a backend runs it.
        ///
        /// All tensors of one operation have one lifetime. In code for an unknown backend they are best made where the operation
        /// is built: a `B::Out` in a variable borrows until the end of its scope.
        pub enum Operation<'a, M: Memory, T: Element> {
            $(#[doc = concat!("See [`", stringify!($op), "`].")] $op($op<'a, M, T>),)*
        }

        impl<'a, M: Memory, T: Element> Operation<'a, M, T> {
            /// The problem to be computed, its options checked.
            pub(crate) fn problem(&self) -> Result<Problem> {
                match self {
                    $(Self::$op(op) => op.problem(),)*
                }
            }

            /// The same operation over the tensors that `map` makes of these, one after the other.
            pub(crate) fn map<'b, N: Memory>(self, map: &mut impl Map<'a, 'b, M, N>) -> Operation<'b, N, T> {
                match self {
                    $(Self::$op(op) => op.map(map).into(),)*
                }
            }

            /// Gives what an empty batch leaves to `fill`: per-channel outputs, with the value that they get. Nothing else is
            /// written then.
            pub(crate) fn fill_empty(self, fill: impl FnMut(M::Out<'a, T::Param>, f64) -> Result<()>) -> Result<()> {
                match self {
                    $(Self::$op(op) => op.fill_empty(fill),)*
                }
            }
        }

        impl<M: Memory, T: Element> fmt::Debug for Operation<'_, M, T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$op(op) => op.fmt(f),)*
                }
            }
        }

        $(impl<'a, M: Memory, T: Element> From<$op<'a, M, T>> for Operation<'a, M, T> {
            fn from(op: $op<'a, M, T>) -> Self {
                Self::$op(op)
            }
        })*
    };
}

operations! { Moments Train Infer Backward }

impl<M: Memory, T: Element> Operation<'_, M, T> {
    /// The same operation and its problem, with everything checked that can be without a device.
    pub(crate) fn checked(self) -> Result<(Problem, Self)> {
        let problem = self.problem()?;
        let mut tensors = TensorList::default();
        let operation = self.map(&mut tensors);
        Ok((problem.over(&tensors.0)?, operation))
    }
}

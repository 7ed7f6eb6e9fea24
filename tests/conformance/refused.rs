//! Cases that frameworks compute and this crate's policy (DESIGN.md, section 1) refuses: the list, with reasons.
//!
//! A refused case is asserted to be refused, by the operation where it takes what is refused, and then runs in as far
//! as it goes without it.

use core::fmt;

use batchnorm::{BatchNorm, Compute, Error, Layout, Momentum, Options, RunningVar, Shape, Tracking};

use super::manifest::{Case, Mode, Step};
use super::tally::Tally;

/// Why a case is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    Rank,
    Momentum,
    OneValue,
    Eps,
}

/// One line of the list.
pub(crate) struct Line {
    pub(crate) reason: Reason,
    /// Why, and what runs nevertheless.
    pub(crate) text: &'static str,
    /// Number of cases, by suite, in the order of [`super::SUITES`].
    pub(crate) cases: [usize; 6],
}

/// A case that runs and differs by more than rounding.
pub(crate) struct Difference {
    pub(crate) text: &'static str,
    /// Number of steps or outputs, by suite.
    pub(crate) counts: [usize; 6],
    /// Number of these with f64 data, which not every backend computes.
    pub(crate) of_f64: [usize; 6],
    /// Number of these in a run.
    pub(crate) actual: fn(&Tally) -> usize,
}

/// Both lists.
pub(crate) struct Lists {
    pub(crate) refused: [Line; 4],
    pub(crate) differences: [Difference; 2],
}

/// The lists for the whole of ../shared/conformance.
pub(crate) const WHOLE: Lists = lists(Counts {
    rank: [8, 0, 0, 0, 8, 0],
    momentum: [0, 0, 0, 0, 32, 0],
    one_value: [0, 1, 0, 0, 0, 0],
    eps: [0, 0, 0, 0, 0, 1],
    empty: [0, 0, 0, 0, 21, 0],
    empty_of_f64: [0, 0, 0, 0, 5, 0],
    out_of_range: [0, 0, 0, 0, 3, 0],
});

/// The lists for tests/data/conformance.
pub(crate) const SUBSET: Lists = lists(Counts {
    rank: [8, 0, 0, 0, 8, 0],
    momentum: [0, 0, 0, 0, 32, 0],
    one_value: [0, 1, 0, 0, 0, 0],
    eps: [0, 0, 0, 0, 0, 0],
    empty: [0, 0, 0, 0, 21, 0],
    empty_of_f64: [0, 0, 0, 0, 5, 0],
    out_of_range: [0, 0, 0, 0, 3, 0],
});

struct Counts {
    rank: [usize; 6],
    momentum: [usize; 6],
    one_value: [usize; 6],
    eps: [usize; 6],
    empty: [usize; 6],
    empty_of_f64: [usize; 6],
    out_of_range: [usize; 6],
}

const fn lists(counts: Counts) -> Lists {
    Lists {
        refused: [
            Line {
                reason: Reason::Rank,
                text: "a tensor has 2 to 5 dimensions. Rank 6 runs, seen as (n, c, s); rank 1 has no channels to run",
                cases: counts.rank,
            },
            Line {
                reason: Reason::Momentum,
                text: "momentum is in [0, 1]; PyTorch's samples use -1.2 and -1. All but the running statistics runs",
                cases: counts.momentum,
            },
            Line {
                reason: Reason::OneValue,
                text: "an unbiased running variance of one value a channel divides by zero; TensorFlow takes \
                       max(m - 1, 1). All but the running statistics runs",
                cases: counts.one_value,
            },
            Line {
                reason: Reason::Eps,
                text: "eps is not negative; XLA's test takes -100. The moments run, which have no eps",
                cases: counts.eps,
            },
        ],
        differences: [
            Difference {
                text: "steps on an empty batch, which PyTorch counts and this crate does not",
                counts: counts.empty,
                of_f64: counts.empty_of_f64,
                actual: |tally| tally.uncounted,
            },
            Difference {
                text: "outputs of a running variance beyond its type's range, held against the framework's own f32",
                counts: counts.out_of_range,
                of_f64: [0; 6],
                actual: |tally| tally.out_of_range,
            },
        ],
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rank => "rank",
            Self::Momentum => "momentum",
            Self::OneValue => "one value a channel",
            Self::Eps => "eps",
        })
    }
}

impl Reason {
    /// The reason to refuse a case, if there is one. No case of the suites has two reasons.
    pub(crate) fn of(case: &Case) -> Option<Self> {
        let out_of_range = |a: Option<f64>| a.is_some_and(|a| !(0.0..=1.0).contains(&a));
        let trains = |step: &Step| step.mode == Mode::Batch && step.tensors.contains_key("x");
        let one_value = case.track
            && case.variance == RunningVar::Unbiased
            && case.steps.iter().any(trains)
            && case.view().is_some_and(|shape| shape.m() == 1);
        let reasons = [
            (!(2..=5).contains(&case.dims.len())).then_some(Self::Rank),
            case.steps.iter().any(|step| out_of_range(step.update_factor)).then_some(Self::Momentum),
            one_value.then_some(Self::OneValue),
            (case.eps < 0.0).then_some(Self::Eps),
        ];
        let mut reasons = reasons.into_iter().flatten();
        let reason = reasons.next();
        assert_eq!(reasons.next(), None, "{}: a second reason to refuse", case.name);
        reason
    }

    /// Whether this is the error that the reason leads to.
    pub(crate) fn explains(self, error: &Error) -> bool {
        matches!(
            (self, error),
            (Self::Rank, Error::Rank { .. })
                | (Self::Momentum, Error::Momentum { .. })
                | (Self::OneValue, Error::OneValuePerChannel { .. })
                | (Self::Eps, Error::Eps { .. })
        )
    }

    /// Whether what takes the refused property before any data is there refuses it: a shape, or a layer's options. One
    /// value a channel is for the operation to refuse.
    pub(crate) fn refuses_early<B: Compute<f32>>(self, backend: &B, case: &Case) -> bool {
        let layer = |options| BatchNorm::new(backend.clone(), 1, options).err();
        let error = match self {
            Self::Rank => Shape::new(&case.dims, Layout::ChannelsFirst).err(),
            Self::Momentum => {
                let momentum = Momentum::Ema(case.steps[0].update_factor.expect("a weight that is out of range"));
                layer(Options { tracking: Some(Tracking { momentum, ..Tracking::default() }), ..Options::default() })
            }
            Self::Eps => layer(Options { eps: case.eps, ..Options::default() }),
            Self::OneValue => return true,
        };
        error.is_some_and(|error| self.explains(&error))
    }
}

//! Which cases there are.

use core::fmt;

use super::Input;
use crate::element::Dtype;
use crate::op::{Epilogue, Momentum, NonFinite, Op, RunningVar, StatisticsKind, Tracking};
use crate::shape::{Layout, Shape};

/// Batch sizes.
const N: [usize; 3] = [1, 2, 19];
/// Channels: around the widths of vectors, and no power of two among most.
const C: [usize; 6] = [1, 3, 7, 33, 64, 129];
/// Spatial sizes, as the dimensions that make them up: ranks 2 to 5.
const S: [&[usize]; 5] = [&[], &[2], &[7, 7], &[14, 14], &[4, 16, 16]];

/// Data that several cases share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// The shape of the data tensors.
    pub shape: Shape,
    /// Their dtype.
    pub dtype: Dtype,
    /// The values that they hold.
    pub input: Input,
}

/// One operation on the data of its group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    /// The data.
    pub group: Group,
    /// The operation.
    pub op: Op,
    /// The epilogue behind it.
    pub epilogue: Epilogue<()>,
    /// Whether there are gamma and beta.
    pub affine: bool,
    /// How running statistics follow, in [`Op::Train`].
    pub tracking: Option<Tracking>,
}

impl Case {
    /// The operation's name in reports and journals.
    pub fn operation(&self) -> &'static str {
        match self.op {
            Op::Moments => "Moments",
            Op::Train => "Train",
            Op::Infer => "Infer",
            Op::Backward(StatisticsKind::Batch) => "Backward",
            Op::Backward(StatisticsKind::Running) => "BackwardFrozen",
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group: Group { shape, dtype, input }, epilogue, affine, tracking, .. } = self;
        write!(f, "{} {} {dtype} {shape} {input:?}", self.operation(), epilogue.name())?;
        write!(f, "{}", if *affine { ", affine" } else { "" })?;
        match tracking {
            Some(Tracking { momentum, variance, non_finite }) => {
                write!(f, ", {momentum:?} {variance:?} {non_finite:?}")
            }
            None => Ok(()),
        }
    }
}

impl Group {
    /// The cases on this data: every operation and epilogue, affine on and off, tracking on and off.
    ///
    /// Only what an operation takes is varied: moments take neither epilogue nor parameters, and only training tracks.
    pub fn cases(&self) -> Vec<Case> {
        let (group, mut cases) = (*self, Vec::new());
        for op in Op::ALL.iter().copied().filter(|op| self.input.normalizes() || !op.takes_epilogue()) {
            // gamma and beta come with the epilogue.
            let affines: &[bool] = if op.takes_epilogue() { &[true, false] } else { &[false] };
            let trackings = if op.tracks() { self.trackings() } else { vec![None] };
            for &epilogue in op.epilogues() {
                for &affine in affines {
                    cases.extend(trackings.iter().map(|&tracking| Case { group, op, epilogue, affine, tracking }));
                }
            }
        }
        cases
    }

    /// No tracking, and PyTorch's; on the special inputs also every other way to track.
    fn trackings(&self) -> Vec<Option<Tracking>> {
        // One value a channel has no unbiased variance: Problem refuses it.
        let variance = if self.shape.m() == 1 { RunningVar::Biased } else { RunningVar::Unbiased };
        let usual = Tracking { variance, ..Tracking::default() };
        let mut trackings = vec![None, Some(usual)];
        if self.input != Input::Normal {
            trackings.extend([
                Some(Tracking { momentum: Momentum::Cumulative, ..usual }),
                Some(Tracking { momentum: Momentum::Ema(0.0), variance: RunningVar::Biased, ..usual }),
                Some(Tracking { momentum: Momentum::Ema(1.0), ..usual }),
                Some(Tracking { non_finite: NonFinite::Skip, ..usual }),
            ]);
        }
        trackings
    }
}

/// Every group of the table.
///
/// Normal data for every dtype, layout and shape of `n` in 1, 2, 19; `c` in 1, 3, 7, 33, 64, 129; `s` in 1, 2, 49, 196,
/// 1024 (ranks 2 to 5); every other input for a few shapes.
pub fn groups() -> Vec<Group> {
    let mut groups = Vec::new();
    for &dtype in Dtype::ALL {
        for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
            for n in N {
                for c in C {
                    for s in S {
                        let shape = shape(n, c, s, layout);
                        groups.push(Group { shape, dtype, input: Input::Normal });
                    }
                }
            }
            for (n, c, s) in [(19, 7, S[2]), (2, 33, S[3]), (3, 2, S[4]), (64, 19, S[0])] {
                let shape = shape(n, c, s, layout);
                let inputs = Input::SPECIAL.into_iter().filter(|input| input.suits(dtype));
                groups.extend(inputs.map(|input| Group { shape, dtype, input }));
            }
        }
    }
    groups
}

/// One group in `every`, spread over the whole table, and of the large ones one in sixteen of these: for devices that
/// would take too long for all of it. With 1 every group.
pub fn thinned(every: usize) -> Vec<Group> {
    const LARGE: usize = 1 << 15;
    let groups = groups().into_iter().enumerate().filter(|(i, _)| i % every.max(1) == 0);
    let kept = |(i, group): (usize, Group)| {
        let is_due = every <= 1 || group.shape.len() < LARGE || (i / every).is_multiple_of(16);
        is_due.then_some(group)
    };
    groups.filter_map(kept).collect()
}

/// The shape of these sizes.
fn shape(n: usize, c: usize, s: &[usize], layout: Layout) -> Shape {
    let dims = match layout {
        Layout::ChannelsFirst => [&[n, c], s].concat(),
        Layout::ChannelsLast => [&[n], s, &[c]].concat(),
    };
    #[expect(clippy::expect_used, reason = "constants of this file, which a test walks")]
    Shape::new(&dims, layout).expect("the table's shapes are valid")
}

//! Problems whose plans exchange between CTAs: a litmus test of a plan in which one CTA has all of a tile shows nothing.

use std::fmt;

use batchnorm::op::Problem;
use batchnorm::plan::{Access, DeviceLimits, Plan};
use batchnorm::{Cuda, Dtype, Epilogue, Layout, Op, Shape, StatisticsKind, Strategy};

use crate::device::{EMULATED, is_required};

/// The values of the largest tensor: an emulated kernel of so many takes a good part of a second.
const MOST_VALUES: usize = if EMULATED { 250_000 } else { 1 << 30 };

/// A problem, with the data that it runs on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    dims: &'static [usize],
    layout: Layout,
    dtype: Dtype,
    pub(crate) op: Op,
    /// Whether the mean of the data is a hundred sigmas away and relu follows: then a team that keeps its tile reduces twice in a
    /// backward pass.
    pub(crate) is_far: bool,
    /// Multiprocessors that are planned for at most.
    pub(crate) max_sms: u32,
}

impl Candidate {
    const fn new(op: Op, dims: &'static [usize], layout: Layout, dtype: Dtype) -> Self {
        Self { dims, layout, dtype, op, is_far: false, max_sms: u32::MAX }
    }

    const fn nchw(op: Op, dims: &'static [usize]) -> Self {
        Self::new(op, dims, Layout::ChannelsFirst, Dtype::F32)
    }

    const fn nhwc(op: Op, dims: &'static [usize], dtype: Dtype) -> Self {
        Self::new(op, dims, Layout::ChannelsLast, dtype)
    }

    const fn far(self) -> Self {
        Self { is_far: true, ..self }
    }

    const fn on(self, max_sms: u32) -> Self {
        Self { max_sms, ..self }
    }

    pub(crate) fn shape(&self) -> Shape {
        Shape::new(self.dims, self.layout).unwrap()
    }

    pub(crate) fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub(crate) fn epilogue(&self) -> Epilogue<()> {
        if self.is_far { Epilogue::RELU } else { Epilogue::IDENTITY }
    }

    pub(crate) fn problem(&self) -> Problem {
        self.problem_of(self.op)
    }

    pub(crate) fn problem_of(&self, op: Op) -> Problem {
        let epilogue = if op.takes_epilogue() { self.epilogue() } else { Epilogue::IDENTITY };
        Problem::new(op, self.shape(), self.dtype, epilogue, 1e-5, None).unwrap()
    }
}

/// The exchange between the CTAs of a plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange {
    /// CTAs of a team that have values of its tile.
    pub(crate) busy: i64,
    /// CTAs of a team.
    pub(crate) team: u32,
    /// Channels of a tile. A grid exchanges twice where there are several.
    pub(crate) channels: u32,
    /// Tiles that a team computes one after the other.
    pub(crate) turns: u32,
    /// Exchanges of a team in one launch. From the third on they use a buffer again that was used before.
    pub(crate) exchanges: u32,
    /// Whether a team reads a part of its tile again, for which it has no room.
    pub(crate) is_held_in_part: bool,
    /// CTAs of the launch.
    pub(crate) ctas: u32,
    /// Shared memory of a CTA, in bytes.
    pub(crate) shared_bytes: u32,
}

impl Exchange {
    pub(crate) fn new(candidate: &Candidate, plan: &Plan) -> Self {
        let t = &plan.tiling;
        let whole = match t.access {
            Access::Contiguous | Access::ScalarContiguous => t.rows * t.width,
            Access::Strided | Access::ScalarStrided => t.rows,
        };
        let turns = t.tiles.div_ceil(t.teams);
        let reductions = if candidate.op == BACKWARD && candidate.is_far { 2 } else { 1 };
        Self {
            busy: (whole + t.chunk - 1) / t.chunk,
            team: t.splits,
            channels: t.tile_channels,
            turns,
            exchanges: turns * reductions,
            is_held_in_part: i64::from(t.smem_iters) < t.iterations(),
            ctas: t.teams * t.splits,
            shared_bytes: t.shared_bytes,
        }
    }
}

/// A litmus test: what its plan must be like, and problems of which one has such a plan on the device at hand. The first are
/// those of an H100, the last fit the emulated device.
pub(crate) struct Litmus {
    pub(crate) name: &'static str,
    pub(crate) strategy: Strategy,
    has: fn(&Exchange) -> bool,
    candidates: &'static [Candidate],
}

use Op::Train;

const BACKWARD: Op = Op::Backward(StatisticsKind::Batch);

/// A team of many CTAs that exchanges one channel at a time.
pub(crate) const ONE_CHANNEL: Litmus = Litmus {
    name: "several CTAs a tile of one channel in a grid",
    strategy: Strategy::Grid,
    has: |e| e.busy > 1 && e.channels == 1,
    candidates: &[Candidate::nchw(Train, &[8, 4, 32, 32]), Candidate::nchw(Train, &[1, 1, 64, 64])],
};

/// A team that exchanges several channels at a time, in two steps.
pub(crate) const SEVERAL_CHANNELS: Litmus = Litmus {
    name: "several CTAs a tile of several channels in a grid",
    strategy: Strategy::Grid,
    has: |e| e.busy > 1 && e.channels > 1,
    candidates: &[Candidate::nchw(Train, &[9, 8, 7, 7])],
};

pub(crate) const ALL: &[Litmus] = &[
    ONE_CHANNEL,
    SEVERAL_CHANNELS,
    Litmus {
        name: "teams of a grid that take several tiles and use their buffers again",
        strategy: Strategy::Grid,
        has: |e| e.busy > 1 && e.turns > 1 && e.exchanges > 2,
        candidates: &[
            Candidate::nchw(BACKWARD, &[64, 300, 32, 32]).far(),
            Candidate::nchw(BACKWARD, &[16, 12, 32, 32]).far(),
            Candidate::nchw(BACKWARD, &[16, 12, 32, 32]).far().on(8),
            Candidate::nchw(BACKWARD, &[32, 6, 32, 32]).far().on(4),
        ],
    },
    Litmus {
        name: "teams of a grid that take several tiles of several channels",
        strategy: Strategy::Grid,
        has: |e| e.busy > 1 && e.turns > 1 && e.channels > 1,
        candidates: &[
            Candidate::nhwc(BACKWARD, &[4, 56, 56, 300], Dtype::F32),
            Candidate::nhwc(BACKWARD, &[16, 32, 32, 12], Dtype::F16).on(2),
            Candidate::nhwc(BACKWARD, &[16, 32, 32, 12], Dtype::F16).on(1),
        ],
    },
    Litmus {
        name: "tiles that all of a grid holds in part",
        strategy: Strategy::Grid,
        has: |e| e.busy > 1 && e.is_held_in_part,
        candidates: &[
            Candidate::nhwc(Train, &[32, 112, 112, 64], Dtype::F16),
            Candidate::nhwc(BACKWARD, &[16, 14, 14, 32], Dtype::F32),
            Candidate::nhwc(BACKWARD, &[16, 14, 14, 32], Dtype::F32).on(4),
            Candidate::nhwc(BACKWARD, &[16, 32, 32, 12], Dtype::F16).on(1),
        ],
    },
    Litmus {
        name: "a team of a grid with a CTA on each multiprocessor",
        strategy: Strategy::Grid,
        has: |e| e.busy >= 128,
        candidates: &[
            Candidate::nchw(Train, &[1, 1, 448, 448]),
            Candidate::nhwc(BACKWARD, &[16, 64, 64, 4], Dtype::F32),
        ],
    },
    Litmus {
        name: "teams of a grid with two CTAs on each multiprocessor",
        strategy: Strategy::Grid,
        has: |e| e.busy > 1 && e.ctas >= 256,
        candidates: &[
            Candidate::new(BACKWARD, &[64, 4, 7, 7], Layout::ChannelsFirst, Dtype::F16),
            Candidate::nhwc(Train, &[1, 64, 64, 4], Dtype::F16),
        ],
    },
    Litmus {
        name: "several CTAs a tile in a cluster",
        strategy: Strategy::Cluster,
        has: |e| e.busy > 1,
        candidates: &[Candidate::nchw(Train, &[8, 4, 32, 32])],
    },
    Litmus {
        name: "clusters that exchange by both of their buffers",
        strategy: Strategy::Cluster,
        has: |e| e.busy > 1 && e.exchanges > 1,
        candidates: &[Candidate::nchw(BACKWARD, &[8, 4, 32, 32]).far()],
    },
    Litmus {
        name: "clusters that fill their multiprocessors' shared memory",
        strategy: Strategy::Cluster,
        has: |e| e.busy > 1 && e.shared_bytes > 96 << 10,
        candidates: &[
            Candidate::new(BACKWARD, &[32, 64, 112, 112], Layout::ChannelsFirst, Dtype::F16),
            Candidate::nhwc(BACKWARD, &[32, 14, 14, 32], Dtype::F32),
            Candidate::new(BACKWARD, &[32, 48, 7, 7], Layout::ChannelsFirst, Dtype::F16),
            Candidate::nchw(BACKWARD, &[64, 1, 56, 56]).far(),
        ],
    },
];

/// A problem whose plan is as a litmus test wants it.
#[derive(Clone, Copy)]
pub(crate) struct Planned {
    pub(crate) candidate: Candidate,
    pub(crate) strategy: Strategy,
    pub(crate) exchange: Exchange,
}

impl fmt::Debug for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { candidate, strategy, exchange } = self;
        write!(f, "strategy {strategy}, {:?} {} {}", candidate.op, candidate.shape(), candidate.dtype)?;
        if candidate.max_sms != u32::MAX {
            write!(f, " on {} multiprocessors", candidate.max_sms)?;
        }
        write!(f, ", {exchange:?}")
    }
}

impl Planned {
    /// The backend that plans it so.
    pub(crate) fn on(&self, cuda: &Cuda) -> Cuda {
        cuda.clone().with_strategy(Some(self.strategy)).with_max_sms(self.candidate.max_sms)
    }
}

impl Litmus {
    /// The first candidate that has such a plan on this device. `None`, with a message, where none has.
    pub(crate) fn on(&self, cuda: &Cuda) -> Option<Planned> {
        let fitting = |candidate: &Candidate| {
            let fits = candidate.shape().len() <= MOST_VALUES;
            let limits = cuda.clone().with_max_sms(candidate.max_sms).limits();
            let exchange = self.exchange(candidate, &limits).filter(|_| fits)?;
            Some(Planned { candidate: *candidate, strategy: self.strategy, exchange })
        };
        let planned = self.candidates.iter().find_map(fitting);
        if planned.is_none() {
            let (name, limits) = (cuda.name().unwrap(), cuda.limits());
            let must = is_required() && !EMULATED && limits.compute_capability == (9, 0);
            assert!(!must, "{name}: no plan with {}, {limits:?}", self.name);
            println!("skipped: no plan with {} on {name}", self.name);
        }
        planned
    }

    /// The exchange between the CTAs of the plan for these limits, if it is one that the test is for.
    fn exchange(&self, candidate: &Candidate, limits: &DeviceLimits) -> Option<Exchange> {
        let plan = Plan::new(&candidate.problem(), limits, Some(self.strategy)).ok()?;
        let exchange = Exchange::new(candidate, &plan);
        (self.has)(&exchange).then_some(exchange)
    }

    /// [`Litmus::on`] for a GPU of these limits.
    pub(crate) fn on_limits(&self, limits: &DeviceLimits) -> Option<Exchange> {
        self.candidates.iter().find_map(|candidate| {
            let sms = limits.sms.min(candidate.max_sms);
            self.exchange(candidate, &DeviceLimits { sms, ..*limits })
        })
    }
}

//! Shapes by how the planner cuts them: the tests ask for kinds of plans, and fail where no shape has one any more.

use batchnorm::plan::{Access, DeviceLimits, Plan};
use batchnorm::verify::{Case, Group, Input, Verified};
use batchnorm::{Cuda, Dtype, Epilogue, Layout, Op, Shape, Strategy};

pub(crate) const ACCESSES: [Access; 4] =
    [Access::Contiguous, Access::Strided, Access::ScalarContiguous, Access::ScalarStrided];

/// A kind of plan.
pub(crate) struct Promise {
    pub(crate) name: &'static str,
    /// `None` for operations that have no choice.
    pub(crate) strategy: Option<Strategy>,
    /// Which operations have such plans.
    pub(crate) of: fn(Op) -> bool,
    pub(crate) holds: fn(&Plan) -> bool,
}

const WITH_CHOICE: fn(Op) -> bool = Op::needs_batch_statistics;
const HOLDING: fn(Op) -> bool = |op| op.traffic(false).cached > 0;
const WITHOUT_CHOICE: fn(Op) -> bool = |op| !op.needs_batch_statistics();
#[cfg(feature = "emulate")]
const TRAIN: fn(Op) -> bool = |op| op == Op::Train;

const fn promise(
    name: &'static str,
    strategy: Option<Strategy>,
    of: fn(Op) -> bool,
    holds: fn(&Plan) -> bool,
) -> Promise {
    Promise { name, strategy, of, holds }
}

const BLOCK: Option<Strategy> = Some(Strategy::Block);
const CLUSTER: Option<Strategy> = Some(Strategy::Cluster);
const GRID: Option<Strategy> = Some(Strategy::Grid);
const TWO_READ: Option<Strategy> = Some(Strategy::TwoPass);

/// Promises on any device that has the strategy.
pub(crate) const PROMISES: [Promise; 12] = [
    promise("CTA with a tile", BLOCK, WITH_CHOICE, |_| true),
    promise("CTA with a tile of several steps", BLOCK, HOLDING, |plan| plan.tiling.iterations() > 2),
    promise("cluster of 2", CLUSTER, WITH_CHOICE, |plan| plan.tiling.splits == 2 && busy(plan) == 2),
    promise("cluster of 4", CLUSTER, WITH_CHOICE, |plan| plan.tiling.splits == 4),
    promise("cluster of 8", CLUSTER, WITH_CHOICE, |plan| plan.tiling.splits == 8),
    promise("grid of teams of one CTA", GRID, WITH_CHOICE, |plan| plan.tiling.splits == 1),
    promise("grid of one team", GRID, WITH_CHOICE, |plan| plan.tiling.teams == 1 && busy(plan) > 2),
    promise("grid of several teams of several CTAs", GRID, HOLDING, |plan| plan.tiling.teams > 1 && busy(plan) > 1),
    promise("two reads by one CTA a tile", TWO_READ, WITH_CHOICE, |plan| plan.tiling.splits == 1),
    promise("two reads by several CTAs a tile", TWO_READ, WITH_CHOICE, |plan| plan.tiling.splits > 1),
    promise("one CTA a tile", None, WITHOUT_CHOICE, |plan| plan.tiling.splits == 1),
    promise("several CTAs a tile", None, WITHOUT_CHOICE, |plan| plan.tiling.splits > 1),
];

/// Promises on an H100.
#[cfg(feature = "emulate")]
pub(crate) const OF_A_WHOLE_GPU: [Promise; 3] = [
    promise("cluster of 16", CLUSTER, WITH_CHOICE, |plan| plan.tiling.splits == 16 && busy(plan) > 8),
    promise("grid of one team of more CTAs than a warp has lanes", GRID, TRAIN, |plan| {
        plan.tiling.teams == 1 && busy(plan) > 32
    }),
    promise("grid of many teams", GRID, TRAIN, |plan| plan.tiling.teams > 12 && busy(plan) > 1),
];

/// The promise on an H100, where it takes little memory.
#[cfg(feature = "emulate")]
pub(crate) const WHOLE_GPU: Promise = promise("grid of one team on all of the device", GRID, WITH_CHOICE, |plan| {
    plan.tiling.teams == 1 && busy(plan) > 131
});

/// The promise on any device of which plans may use one multiprocessor.
pub(crate) const HELD_IN_PART: Promise =
    promise("tile held in part", GRID, HOLDING, |plan| i64::from(plan.tiling.smem_iters) < plan.tiling.iterations());
pub(crate) const IN_TURN: Promise = promise("team that takes tiles in turn", GRID, HOLDING, |plan| {
    plan.tiling.tiles > plan.tiling.teams && busy(plan) > 1
});

impl Promise {
    /// Whether the shapes are made for such a device.
    pub(crate) fn fits(&self, limits: &DeviceLimits) -> bool {
        PROMISES.iter().all(|promise| promise.name != self.name) || limits.sms < 8
    }
}

/// CTAs of a team that have a part of the tile.
pub(crate) fn busy(plan: &Plan) -> i64 {
    let t = &plan.tiling;
    let whole = match t.access {
        Access::Contiguous | Access::ScalarContiguous => t.rows * t.width,
        Access::Strided | Access::ScalarStrided => t.rows,
    };
    (whole + t.chunk - 1) / t.chunk
}

/// Shapes by dtype and access, the smallest first.
pub(crate) struct Shapes(Vec<(Dtype, Access, Vec<Shape>)>);

impl Shapes {
    /// Elements of what is taken wherever it will do.
    const SMALL: usize = 2500;
    const MOST: usize = 240_000;

    pub(crate) fn new(cuda: &Cuda) -> Self {
        let mut shapes = Vec::new();
        for n in [1, 2, 3, 5, 16, 37, 300] {
            for c in [1, 2, 3, 4, 7, 8, 13, 16, 24, 40, 130] {
                for s in [1, 2, 3, 4, 8, 49, 67, 80, 128, 201, 257, 600, 1001, 2048, 4100, 9000, 20_001, 33_792] {
                    let is_small = (16..=Self::MOST).contains(&(n * c * s)) && n * s > 1;
                    let all = [([n, c, s], Layout::ChannelsFirst), ([n, s, c], Layout::ChannelsLast)];
                    shapes.extend(
                        all.iter().filter(|_| is_small).map(|(dims, layout)| Shape::new(dims, *layout).unwrap()),
                    );
                }
            }
        }
        shapes.sort_by_key(Shape::len);
        let mut found = Vec::new();
        for &dtype in Dtype::ON_CUDA {
            let access_of = |shape: &Shape| {
                let group = Group { shape: *shape, dtype, input: Input::Normal };
                let case = Case { group, op: Op::Infer, epilogue: Epilogue::IDENTITY, affine: false, tracking: None };
                cuda.plan_of(&case, 0).unwrap().unwrap().tiling.access
            };
            let accesses: Vec<_> = shapes.iter().map(access_of).collect();
            for access in ACCESSES {
                let of_access =
                    shapes.iter().zip(&accesses).filter(|(_, found)| **found == access).map(|(shape, _)| *shape);
                found.push((dtype, access, of_access.collect()));
            }
        }
        Self(found)
    }

    /// The result of the first shape that has one: small shapes from a given one on, then larger ones.
    pub(crate) fn find<R>(
        &self,
        dtype: Dtype,
        access: Access,
        from: usize,
        with: impl FnMut(Shape) -> Option<R>,
    ) -> Option<R> {
        let (_, _, shapes) = self.0.iter().find(|(d, f, _)| (*d, *f) == (dtype, access))?;
        let (small, large) = shapes.split_at(shapes.partition_point(|shape| shape.len() <= Self::SMALL));
        // A step through the small ones that no pattern of cases has in common with them.
        let (before, behind) = small.split_at(from * 29 % small.len().max(1));
        behind.iter().chain(before).chain(large).copied().find_map(with)
    }
}

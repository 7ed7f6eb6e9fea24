//! The plans that are worth measuring: every plan of a problem, and the few of least predicted time; and what tells them apart.

use core::fmt;

use super::{Access, Constants, DeviceLimits, Plan, Strategy};
use crate::op::Problem;

/// The choices that tell a plan from every other one of its problem on its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) strategy: Strategy,
    pub(super) access: Access,
    pub(super) threads: u32,
    pub(super) width: i64,
    pub(super) chunk: i64,
    pub(super) splits: u32,
    pub(super) teams: u32,
    pub(super) smem_iters: u32,
}

impl Identity {
    pub(super) fn of(plan: &Plan) -> Self {
        let t = &plan.tiling;
        Self {
            strategy: plan.strategy,
            access: t.access,
            threads: t.threads,
            width: t.width,
            chunk: t.chunk,
            splits: t.splits,
            teams: t.teams,
            smem_iters: t.smem_iters,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { strategy, access, threads, width, chunk, splits, teams, smem_iters } = self;
        write!(
            f,
            "{strategy} {access:?} threads={threads} width={width} chunk={chunk} splits={splits} teams={teams} \
             smem_iters={smem_iters}"
        )
    }
}

impl Plan {
    /// Every plan of every strategy that can hold the problem, each once, as the model prices it: what [`Plan::new`] chooses from,
    /// and a measurement may. None for an empty problem.
    pub fn all(problem: &Problem, limits: &DeviceLimits) -> Vec<Self> {
        let limits = &limits.countable();
        let of = |&strategy: &Strategy| Self::all_of(&Constants::PLANNED_BY, problem, limits, strategy);
        let mut seen = std::collections::HashSet::new();
        Self::strategies(problem).iter().flat_map(of).filter(|plan| seen.insert(Identity::of(plan))).collect()
    }

    /// The plans to measure, of least predicted time first: the best one of each strategy that can hold the problem, and as many of
    /// the others as make up `most` in all.
    pub fn shortlist(problem: &Problem, limits: &DeviceLimits, most: usize) -> Vec<Self> {
        let mut plans = Self::all(problem, limits);
        // A stable order: the earlier one where they are equal, as in `Plan::new`.
        plans.sort_by(|a, b| a.predicted_ns.total_cmp(&b.predicted_ns));
        let is_best = |i: usize| plans[..i].iter().all(|better| better.strategy != plans[i].strategy);
        let best = (0..plans.len()).filter(|&i| is_best(i)).count();
        let mut room = most.saturating_sub(best);
        let mut taken = Vec::new();
        for (i, plan) in plans.iter().enumerate() {
            if is_best(i) {
                taken.push(*plan);
            } else if room > 0 {
                room -= 1;
                taken.push(*plan);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dtype, Epilogue, Layout, Op, Shape, StatisticsKind};

    fn problems() -> Vec<Problem> {
        let mut problems = Vec::new();
        for dims in [&[32, 64, 56, 56][..], &[2, 3, 5, 5], &[4096, 256], &[19, 33, 7], &[1, 1, 1], &[256, 2048, 7, 7]] {
            for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
                for dtype in [Dtype::F32, Dtype::F16] {
                    for op in [Op::Train, Op::Infer, Op::Backward(StatisticsKind::Batch)] {
                        let shape = Shape::new(dims, layout).unwrap();
                        let problem = Problem::new(op, shape, dtype, Epilogue::RELU, 1e-5, None).unwrap();
                        problems.extend([problem, problem.with_offset(1)]);
                    }
                }
            }
        }
        problems
    }

    #[test]
    fn an_identity_is_that_of_one_plan() {
        for (_, limits) in DeviceLimits::KNOWN {
            for problem in problems() {
                for &strategy in Plan::strategies(&problem) {
                    let plans = Plan::all_of(&Constants::PLANNED_BY, &problem, limits, strategy);
                    for (i, plan) in plans.iter().enumerate() {
                        let same = plans[..i].iter().find(|other| Identity::of(other) == Identity::of(plan));
                        assert!(same.is_none_or(|same| same == plan), "{plan} is {same:?} too");
                    }
                }
            }
        }
    }

    #[test]
    fn a_shortlist_has_the_choice_first_and_the_best_of_each_strategy() {
        let (_, limits) = DeviceLimits::KNOWN[1];
        for problem in problems() {
            let all = Plan::all(&problem, &limits);
            for most in [0, 1, 5, 12, usize::MAX] {
                let short = Plan::shortlist(&problem, &limits, most);
                assert_eq!(short[0], Plan::new(&problem, &limits, None).unwrap());
                assert!(short.is_sorted_by(|a, b| a.predicted_ns <= b.predicted_ns));
                let best = Plan::candidates(&problem, &limits);
                assert!(best.iter().all(|best| short.contains(best)));
                assert_eq!(short.len(), most.clamp(best.len(), all.len()));
                for (i, plan) in short.iter().enumerate() {
                    assert!(short[..i].iter().all(|other| Identity::of(other) != Identity::of(plan)));
                }
            }
        }
    }

    #[test]
    fn an_empty_problem_has_no_plan_to_measure() {
        let empty = Shape::nchw(0, 3, 4, 4).unwrap();
        let problem = Problem::new(Op::Train, empty, Dtype::F32, Epilogue::RELU, 1e-5, None).unwrap();
        assert!(Plan::shortlist(&problem, &DeviceLimits::KNOWN[1].1, 12).is_empty());
    }
}

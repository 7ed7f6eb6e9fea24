//! Plans that were made: pricing every way to cut a tensor takes the host longer than a small operation takes the device.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::element::Dtype;
use crate::error::Result;
use crate::op::{Epilogue, Op, Problem};
use crate::plan::{DeviceLimits, Plan, PlanTable, Strategy};
use crate::shape::Shape;

/// Problems whose plans are kept. A network has some tens of them; one whose shapes never repeat gains nothing.
const MOST: usize = 1024;

/// The part of a problem that a plan depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    op: Op,
    shape: Shape,
    dtype: Dtype,
    epilogue: Epilogue<()>,
    alignment: usize,
}

/// The plans of one device, one forced strategy and one table.
#[derive(Debug, Default)]
pub(super) struct PlanCache(Mutex<HashMap<Key, Plan>>);

impl PlanCache {
    /// The table's plan or else [`Plan::new`], or what that gave before. The limits, the strategy and the table are the same in every
    /// call.
    pub(super) fn of(
        &self,
        problem: &Problem,
        limits: &DeviceLimits,
        strategy: Option<Strategy>,
        table: Option<&PlanTable>,
    ) -> Result<Plan> {
        let key = Key {
            op: problem.op(),
            shape: problem.shape(),
            dtype: problem.dtype(),
            epilogue: problem.epilogue(),
            alignment: problem.alignment(),
        };
        // A thread that panicked left whole plans, if any.
        if let Some(plan) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(*plan);
        }
        let plan = match table.and_then(|table| table.plan_of(problem)) {
            Some(plan) => plan,
            None => Plan::new(problem, limits, strategy)?,
        };
        let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if plans.len() >= MOST {
            plans.clear();
        }
        plans.insert(key, plan);
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::StatisticsKind;

    const LIMITS: DeviceLimits = DeviceLimits::KNOWN[0].1;

    fn kept(plans: &PlanCache) -> usize {
        plans.0.lock().unwrap().len()
    }

    #[test]
    fn every_problem_has_a_plan_of_its_own() {
        let plans = PlanCache::default();
        let mut problems = Vec::new();
        for n in [1, 32] {
            let backward = [StatisticsKind::Batch, StatisticsKind::Running].map(Op::Backward);
            for op in [Op::Train, Op::Infer].into_iter().chain(backward) {
                for epilogue in [Epilogue::IDENTITY, Epilogue::ADD_RELU] {
                    for dtype in [Dtype::F32, Dtype::F16] {
                        let shape = Shape::nchw(n, 64, 56, 56).unwrap();
                        let aligned = Problem::new(op, shape, dtype, epilogue, 1e-5, None).unwrap();
                        problems.extend([aligned, aligned.with_alignment(4)]);
                    }
                }
            }
        }
        for _ in 0..2 {
            for problem in &problems {
                assert_eq!(plans.of(problem, &LIMITS, None, None).unwrap(), Plan::new(problem, &LIMITS, None).unwrap());
            }
            assert_eq!(kept(&plans), problems.len());
        }
    }

    #[test]
    fn no_more_than_so_many_are_kept_and_no_error() {
        let plans = PlanCache::default();
        for n in 1..=MOST + 1 {
            let problem =
                Problem::new(Op::Train, Shape::nc(n + 1, 3).unwrap(), Dtype::F32, Epilogue::IDENTITY, 1e-5, None);
            plans.of(&problem.unwrap(), &LIMITS, None, None).unwrap();
        }
        assert_eq!(kept(&plans), 1);
        let plans = PlanCache::default();
        let large = Shape::nchw(256, 1, 112, 112).unwrap();
        let problem = Problem::new(Op::Train, large, Dtype::F32, Epilogue::IDENTITY, 1e-5, None).unwrap();
        assert!(plans.of(&problem, &LIMITS, Some(Strategy::Block), None).is_err());
        assert_eq!(kept(&plans), 0);
    }
}

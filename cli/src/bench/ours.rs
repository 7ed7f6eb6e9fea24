//! The layer on a GPU by one strategy.

use batchnorm::bench::{Pass, Row, Work};
use batchnorm::plan::Plan;
use batchnorm::{Compute, Cpu, Cuda, Element, Strategy};

use super::Task;
use super::cuda::Sets;
use super::measured::{FORCED, OURS};
use super::subject::{Reason, Samples, Subject};
use super::timing::Timer;

/// Its buffers are made when it is first measured, and are gone with it.
pub(crate) struct Ours<T: Element> {
    cuda: Cuda,
    row: Row,
    operation: Pass,
    timer: Timer,
    sets: Sets,
    plan: Option<Plan>,
    work: Option<Work<Cuda, T>>,
}

impl<T: Element> Ours<T> {
    pub(crate) fn new(cuda: Cuda, task: &Task, timer: Timer, sets: Sets) -> Self {
        let (row, operation) = (task.row.clone(), task.operation);
        // Running it tells why, where there is no plan.
        let plan = operation.problem(&row).and_then(|problem| cuda.plan(&problem)).ok();
        Self { cuda, row, operation, timer, sets, plan, work: None }
    }
}

impl<T: Element<Param = f32>> Subject for Ours<T>
where
    Cuda: Compute<T>,
    Cpu: Compute<T>,
{
    fn name(&self) -> String {
        self.cuda.strategy().map_or_else(|| OURS.into(), |strategy| format!("{FORCED}{strategy}"))
    }
    fn includes(&self) -> String {
        "parameters, running statistics, the counter; with add-relu the mask of one bit an element".into()
    }
    fn strategy(&self) -> String {
        self.cuda.strategy().map_or("auto", Strategy::name).into()
    }
    fn plan(&self) -> Option<Plan> {
        self.plan
    }
    fn measure(&mut self, seconds: f64) -> Result<Samples, Reason> {
        let Self { cuda, row, operation, timer, sets, work, .. } = self;
        let work = match work {
            Some(work) => work,
            empty => {
                let mut work = Work::<Cuda, T>::new(cuda, row.shape, row.offset, sets.count)?;
                work.check(*operation).map_err(Reason::Wrong)?;
                work.prepare(*operation)?;
                empty.insert(work)
            }
        };
        let mut launch = || work.run(*operation).map_err(|error| error.to_string());
        Ok(timer.measure(sets.count, seconds, &mut launch)?)
    }
    fn release(&mut self) {
        if !self.sets.stay {
            self.work = None;
        }
    }
}

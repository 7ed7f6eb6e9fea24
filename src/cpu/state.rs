//! A layer's state on the CPU: the per-channel vectors in one allocation, the counter beside them.

use crate::state::{State, StateDict};
use crate::{Param, Result, Running, memory};

/// `gamma | beta | running_mean | running_var`, each where the layer has it.
pub struct CpuState<P> {
    values: Vec<P>,
    has_gamma: bool,
    has_beta: bool,
    num_batches_tracked: Option<[i64; 1]>,
}

impl<P: Param> CpuState<P> {
    pub(super) fn new(host: &StateDict<P>) -> Result<Self> {
        let running = host.running.iter().flat_map(|running| [&running.mean, &running.var]);
        let vectors = host.gamma.iter().chain(&host.beta).chain(running);
        let mut values = memory::room(vectors.clone().map(Vec::len).sum())?;
        vectors.for_each(|vector| values.extend_from_slice(vector));
        Ok(Self {
            values,
            has_gamma: host.gamma.is_some(),
            has_beta: host.beta.is_some(),
            num_batches_tracked: host.running.as_ref().map(|running| [running.num_batches_tracked]),
        })
    }

    pub(super) fn to_host(&self) -> Result<StateDict<P>> {
        let State { gamma, beta, running } = self.views();
        let running = running.map(|Running { mean, var, num_batches_tracked }| {
            let (mean, var) = (memory::copied(mean)?, memory::copied(var)?);
            Ok(Running { mean, var, num_batches_tracked: num_batches_tracked[0] })
        });
        Ok(State {
            gamma: gamma.map(memory::copied).transpose()?,
            beta: beta.map(memory::copied).transpose()?,
            running: running.transpose()?,
        })
    }

    pub(super) fn views(&self) -> State<&[P], &[i64]> {
        let mut vectors = self.values.chunks(self.c());
        State {
            gamma: self.has_gamma.then(|| vectors.next()).flatten(),
            beta: self.has_beta.then(|| vectors.next()).flatten(),
            running: vectors.next().zip(vectors.next()).zip(self.num_batches_tracked.as_ref()).map(
                |((mean, var), num_batches_tracked)| Running {
                    mean,
                    var,
                    num_batches_tracked: &num_batches_tracked[..],
                },
            ),
        }
    }

    pub(super) fn views_mut(&mut self) -> State<&mut [P], &mut [i64]> {
        let c = self.c();
        let mut vectors = self.values.chunks_mut(c);
        State {
            gamma: self.has_gamma.then(|| vectors.next()).flatten(),
            beta: self.has_beta.then(|| vectors.next()).flatten(),
            running: vectors.next().zip(vectors.next()).zip(self.num_batches_tracked.as_mut()).map(
                |((mean, var), num_batches_tracked)| Running {
                    mean,
                    var,
                    num_batches_tracked: &mut num_batches_tracked[..],
                },
            ),
        }
    }

    /// The channels; 1 where there is no vector, since `chunks(0)` has no meaning.
    fn c(&self) -> usize {
        let running = if self.num_batches_tracked.is_some() { 2 } else { 0 };
        let vectors = usize::from(self.has_gamma) + usize::from(self.has_beta) + running;
        self.values.len().checked_div(vectors).unwrap_or(1).max(1)
    }
}

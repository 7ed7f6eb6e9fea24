//! A GPU: the layer by every strategy, and the least that its memory allows.
//!
//! All subjects of a row run on one stream, over sets of buffers of which it touches at least four times the L2
//! cache, so that it is cold for everyone.

use batchnorm::bench::{Probe, Probes, Work};
use batchnorm::verify::Journal;
use batchnorm::{Compute, Cpu, Cuda, Element};
use serde_json::{Value, json};

use super::Task;
use super::measured::FLOOR;
use super::ours::Ours;
use super::probes::{self, Sizes};
use super::subject::{Reason, Samples, Subject};
use super::timing::{Timer, told};
use crate::choices::Strategy;
use crate::device::{self, limits_json};
use crate::failure::Failure;

/// An operation touches at least this many times the L2 cache of all sets of buffers.
const L2_TIMES: u64 = 4;
/// Ours by five ways to plan, the floor, cuDNN's two with half as many buffers more, and room for peers in Python.
const SUBJECTS: usize = 12;
/// Bytes of x on an emulated device.
const EMULATED_BYTES: usize = 1 << 16;
/// Sets of buffers on an emulated device.
const EMULATED_SETS: usize = 2;

/// A device, and the stream that everything runs on.
pub(crate) struct Bench {
    pub(crate) cuda: Cuda,
    pub(crate) timer: Timer,
    /// Whether it is an emulated device: it goes the same way, over little data, and no time is kept.
    is_emulated: bool,
    strategies: Vec<Strategy>,
    #[cfg_attr(not(feature = "cudnn"), expect(dead_code, reason = "this build has no cuDNN"))]
    with_cudnn: bool,
}

impl Bench {
    pub(crate) fn new(number: usize, strategies: &[Strategy], with_cudnn: bool) -> Result<Self, Failure> {
        let context = device::cuda(number)?.stream().context().clone();
        // SAFETY: nothing of this context is in use, and all that follows is on one stream. A graph cannot wait for the
        // events that would order several.
        #[allow(unsafe_code)]
        unsafe {
            context.disable_event_tracking();
        }
        let cuda = Cuda::on(context.new_stream().map_err(|error| Failure::new(told(error)))?)?;
        let is_emulated = device::is_emulated(&cuda.name()?);
        let stream = cuda.stream().clone();
        let timer = if is_emulated { Timer::once(stream) } else { Timer::new(stream) };
        Ok(Self { cuda, timer, is_emulated, strategies: Strategy::all_or(strategies), with_cudnn })
    }

    pub(crate) fn name(&self) -> Result<String, Failure> {
        Ok(self.cuda.name()?)
    }

    pub(crate) fn limits(&self) -> Value {
        limits_json(&self.cuda.limits())
    }

    pub(crate) fn is_timed(&self) -> bool {
        !self.is_emulated
    }

    /// The bytes of x up to which rows are measured, where nothing else is asked for.
    pub(crate) fn default_limit(&self) -> usize {
        if self.is_emulated { EMULATED_BYTES } else { usize::MAX }
    }

    /// Whether the context is lost. A call that waits is told so, whatever it waits for.
    pub(crate) fn is_lost(&self) -> bool {
        self.cuda.synchronize().is_err_and(|error| error.is_device_lost())
    }

    /// The best that the device can do, independent of any row.
    pub(crate) fn probes(&self, seconds: f64, journal: &Journal, late: &dyn Fn() -> Option<String>) -> Value {
        let limits = self.cuda.limits();
        let sizes = if self.is_emulated { Sizes::small() } else { Sizes::cold(L2_TIMES * limits.l2_bytes) };
        let mut probes = match Probes::new(&self.cuda, sizes.bytes) {
            Ok(probes) => probes,
            Err(error) => return json!({ "reason": error.to_string() }),
        };
        let mut found = Vec::new();
        for probe in probes::all(&limits, &sizes) {
            if let Some(reason) = late() {
                found.push(probes::told(probe, sizes.bytes, &limits, Err(reason)));
                continue;
            }
            let call = || {
                let mut launch = || probes.launch(probe).map_err(|error| error.to_string());
                self.timer.measure(probes::sets(probe), seconds.min(probes::SECONDS), &mut launch)
            };
            let lost = |samples: &Result<Samples, String>| samples.as_ref().err().filter(|_| self.is_lost()).cloned();
            let samples = journal.run("probe", "no plan", &format!("{probe:?}"), call, lost);
            let mut samples = samples.unwrap_or_else(|| Err("not reached: the device was lost".into()));
            if let (Ok(samples), true) = (&mut samples, self.is_emulated) {
                samples.values_mut().for_each(Vec::clear);
            }
            found.push(probes::told(probe, sizes.bytes, &limits, samples));
        }
        json!({ "bytes": sizes.bytes, "measured": found })
    }

    /// Ours by its own plan and by each strategy that can hold the row, the floors, and cuDNN.
    pub(crate) fn subjects<T: Element<Param = f32> + cudarc::driver::DeviceRepr>(
        &self,
        task: &Task,
    ) -> Result<Vec<Box<dyn Subject>>, String>
    where
        Cuda: Compute<T>,
        Cpu: Compute<T>,
    {
        let sets = self.sets(task, Work::<Cuda, T>::set_bytes(&task.row), SUBJECTS)?;
        let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
        for strategy in self.strategies.iter().map(|strategy| strategy.forced()) {
            if strategy.is_some() && !task.operation.op.needs_batch_statistics() {
                continue; // these read every value once in any case
            }
            let cuda = self.cuda.clone().with_strategy(strategy);
            subjects.push(Box::new(Ours::<T>::new(cuda, task, self.timer.clone(), sets)));
        }
        subjects.push(Box::new(Floor::new(&self.cuda, task, self.timer.clone(), sets)));
        #[cfg(feature = "cudnn")]
        if self.with_cudnn {
            subjects.extend(super::cudnn::subjects::<T>(&self.cuda, task, &self.timer, sets));
        }
        Ok(subjects)
    }

    /// Enough sets for what the operation touches of them to leave nothing in L2; fewer where memory is short, and then
    /// one subject's at a time. `subjects` is how many there may be.
    pub(crate) fn sets(&self, task: &Task, set_bytes: usize, subjects: usize) -> Result<Sets, String> {
        let touched = task.operation.bytes(&task.row) as u64;
        let wanted = (L2_TIMES * self.cuda.limits().l2_bytes).div_ceil(touched).max(1) as usize;
        let wanted = if self.is_emulated { wanted.min(EMULATED_SETS) } else { wanted };
        let (free, _) = self.cuda.stream().context().mem_get_info().map_err(told)?;
        if free / subjects.max(1) / set_bytes >= wanted {
            return Ok(Sets { count: wanted, stay: true });
        }
        match free / 2 / set_bytes {
            0 => Err(format!("expected {} free bytes of device memory, got {free}", 2 * set_bytes)),
            fit => Ok(Sets { count: wanted.min(fit), stay: false }),
        }
    }
}

/// The sets of buffers of each subject.
#[derive(Clone, Copy)]
pub(crate) struct Sets {
    pub(crate) count: usize,
    /// Whether all subjects' fit at once.
    pub(crate) stay: bool,
}

/// A kernel that reads and writes as many tensors, and does nothing with them.
struct Floor {
    cuda: Cuda,
    bytes: usize,
    probe: Probe,
    timer: Timer,
    sets: Sets,
    probes: Vec<Probes>,
    next: usize,
}

impl Floor {
    fn new(cuda: &Cuda, task: &Task, timer: Timer, sets: Sets) -> Self {
        let probe = match task.operation.tensors() {
            (1, _) => Probe::Copy,
            (_, 1) => Probe::TwoReadOneWrite,
            _ => Probe::TwoReadTwoWrite,
        };
        Self { cuda: cuda.clone(), bytes: task.row.bytes(), probe, timer, sets, probes: Vec::new(), next: 0 }
    }
}

impl Subject for Floor {
    fn name(&self) -> String {
        FLOOR.into()
    }
    fn includes(&self) -> String {
        "nothing but reading and writing each tensor once".into()
    }
    fn measure(&mut self, seconds: f64) -> Result<Samples, Reason> {
        let Self { cuda, bytes, probe, timer, sets, probes, next } = self;
        while probes.len() < sets.count {
            probes.push(Probes::new(cuda, *bytes)?);
        }
        let mut launch = || {
            *next = (*next + 1) % probes.len();
            probes[*next].launch(*probe).map_err(|error| error.to_string())
        };
        Ok(timer.measure(sets.count, seconds, &mut launch)?)
    }
    fn release(&mut self) {
        if !self.sets.stay {
            self.probes.clear();
        }
    }
}

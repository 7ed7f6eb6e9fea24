//! A GPU: the layer by every strategy, and the least that its memory allows.
//!
//! All subjects of a row run on one stream, over sets of buffers of which it touches at least four times the L2
//! cache, so that it is cold for everyone.

use batchnorm::bench::{Operation, Probe, Probes, Work};
use batchnorm::{Compute, Cpu, Cuda, Element, Strategy};
use serde_json::{Value, json};

use super::Task;
use super::measured::{FLOOR, FORCED, OURS};
use super::probes::{self, Sizes};
use super::subject::{Samples, Subject};
use super::timing::{measure, told};
use crate::device;
use crate::failure::Failure;

/// What an operation touches of all sets of buffers is at least so many times the L2 cache.
const L2_TIMES: u64 = 4;
/// Ours by five ways to plan, the floor, cuDNN's two with half as many buffers more, and room for peers in Python.
const SUBJECTS: usize = 12;

/// A device, and the stream that everything runs on.
pub(super) struct Bench {
    cuda: Cuda,
}

impl Bench {
    pub(super) fn new(number: usize) -> Result<Self, Failure> {
        let context = device::cuda(number)?.stream().context().clone();
        // SAFETY: nothing of this context is in use, and all that follows is on one stream. A graph cannot wait for the
        // events that would order several.
        #[allow(unsafe_code)]
        unsafe {
            context.disable_event_tracking();
        }
        let stream = context.new_stream().map_err(|error| Failure::new(told(error)))?;
        Ok(Self { cuda: Cuda::on(stream)? })
    }

    /// What to say instead of measuring, of an emulated device: it is held against the CPU, and never timed.
    pub(super) fn emulated(&self) -> Result<Option<String>, Failure> {
        let name = self.cuda.name()?;
        if !device::is_emulated(&name) {
            return Ok(None);
        }
        let shapes = [
            batchnorm::Shape::nchw(6, 16, 8, 8)?,
            batchnorm::Shape::nchw(5, 3, 7, 7)?,
            batchnorm::Shape::new(&[6, 8, 8, 16], batchnorm::Layout::ChannelsLast)?,
        ];
        for shape in shapes {
            for operation in Operation::ALL {
                for strategy in [None].into_iter().chain(Strategy::ALL.map(Some)) {
                    let cuda = self.cuda.clone().with_strategy(strategy);
                    let mut work = match Work::<Cuda, f32>::new(&cuda, shape, 0, 2) {
                        Err(batchnorm::Error::Strategy { .. } | batchnorm::Error::NoStrategy { .. }) => continue,
                        work => work?,
                    };
                    work.check(operation).map_err(Failure::new)?;
                }
            }
        }
        probes::run(&self.cuda, &Sizes::small())?;
        Ok(Some(format!("{name}: every operation and probe ran, and agrees with the CPU; it is never timed\n")))
    }

    /// What the device can do at best, apart from any row.
    pub(super) fn probes(&self, seconds: f64) -> Value {
        let limits = self.cuda.limits();
        let sizes = Sizes::cold(L2_TIMES * limits.l2_bytes);
        let mut found = probes::time(&self.cuda, self.cuda.stream(), &sizes, seconds);
        found["active_clusters_of_2_4_8_16"] = json!(limits.clusters);
        found["limits"] = format!("{limits:?}").into();
        found
    }

    /// Ours by its own plan and by each strategy that can hold the row, the floors, and cuDNN.
    pub(super) fn subjects<T: Element<Param = f32> + cudarc::driver::DeviceRepr>(
        &self,
        task: &Task,
    ) -> Result<Vec<Box<dyn Subject>>, String>
    where
        Cuda: Compute<T>,
        Cpu: Compute<T>,
    {
        let sets = self.sets(task, Work::<Cuda, T>::set_bytes(&task.row))?;
        let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
        for strategy in [None].into_iter().chain(Strategy::ALL.map(Some)) {
            if strategy.is_some() && !matches!(task.operation.op, batchnorm::Op::Train | batchnorm::Op::Backward) {
                continue; // these read every value once in any case
            }
            let name = strategy.map_or_else(|| OURS.into(), |strategy| format!("{FORCED}{strategy}"));
            let cuda = self.cuda.clone().with_strategy(strategy);
            subjects.push(Box::new(Ours::<T> {
                name,
                cuda,
                task: (task.row.clone(), task.operation),
                sets,
                work: None,
            }));
        }
        subjects.push(Box::new(Floor::new(&self.cuda, task, sets)));
        #[cfg(feature = "cudnn")]
        subjects.extend(super::cudnn::subjects::<T>(&self.cuda, task, sets));
        Ok(subjects)
    }

    /// Enough sets for what the operation touches of them to leave nothing in L2; fewer where memory is short, and then
    /// one subject's at a time.
    fn sets(&self, task: &Task, set_bytes: usize) -> Result<Sets, String> {
        let touched = task.operation.bytes(&task.row) as u64;
        let wanted = (L2_TIMES * self.cuda.limits().l2_bytes).div_ceil(touched).max(1) as usize;
        let (free, _) = self.cuda.stream().context().mem_get_info().map_err(told)?;
        if free / SUBJECTS / set_bytes >= wanted {
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
pub(super) struct Sets {
    pub(super) count: usize,
    /// Whether all subjects' fit at once.
    pub(super) stay: bool,
}

/// The layer by one strategy. Its buffers are made when it is first measured, and are gone with it.
struct Ours<T: Element> {
    name: String,
    cuda: Cuda,
    task: (batchnorm::bench::Row, Operation),
    sets: Sets,
    work: Option<Work<Cuda, T>>,
}

impl<T: Element<Param = f32>> Subject for Ours<T>
where
    Cuda: Compute<T>,
    Cpu: Compute<T>,
{
    fn name(&self) -> String {
        self.name.clone()
    }
    fn includes(&self) -> String {
        "parameters, running statistics, the counter; with add-relu the mask of one bit an element".into()
    }
    fn measure(&mut self, seconds: f64) -> Result<Samples, String> {
        let (row, operation) = &self.task;
        let work = match &mut self.work {
            Some(work) => work,
            empty => {
                let work = Work::<Cuda, T>::new(&self.cuda, row.shape, row.offset, self.sets.count);
                let mut work = work.map_err(|error| error.to_string())?;
                work.check(*operation)?;
                work.prepare(*operation).map_err(|error| error.to_string())?;
                empty.insert(work)
            }
        };
        let mut launch = || work.run(*operation).map_err(|error| error.to_string());
        measure(self.cuda.stream(), self.sets.count, seconds, &mut launch)
    }
    fn rest(&mut self) {
        if !self.sets.stay {
            self.work = None;
        }
    }
}

/// A kernel that reads and writes as many tensors, and does nothing with them.
struct Floor {
    cuda: Cuda,
    bytes: usize,
    probe: Probe,
    sets: Sets,
    probes: Vec<Probes>,
    next: usize,
}

impl Floor {
    fn new(cuda: &Cuda, task: &Task, sets: Sets) -> Self {
        let probe = match task.operation.tensors() {
            (1, _) => Probe::Copy,
            (_, 1) => Probe::TwoReadOneWrite,
            _ => Probe::TwoReadTwoWrite,
        };
        Self { cuda: cuda.clone(), bytes: task.row.bytes(), probe, sets, probes: Vec::new(), next: 0 }
    }
}

impl Subject for Floor {
    fn name(&self) -> String {
        FLOOR.into()
    }
    fn includes(&self) -> String {
        "nothing but reading and writing each tensor once".into()
    }
    fn measure(&mut self, seconds: f64) -> Result<Samples, String> {
        let Self { cuda, bytes, probe, sets, probes, next } = self;
        while probes.len() < sets.count {
            probes.push(Probes::new(cuda, *bytes).map_err(|error| error.to_string())?);
        }
        let mut launch = || {
            *next = (*next + 1) % probes.len();
            probes[*next].launch(*probe).map_err(|error| error.to_string())
        };
        measure(cuda.stream(), sets.count, seconds, &mut launch)
    }
    fn rest(&mut self) {
        if !self.sets.stay {
            self.probes.clear();
        }
    }
}

//! A GPU: the layer by every strategy, and the least that its memory allows.
//!
//! All subjects of a row run on one stream, over sets of buffers that together are at least four times the L2 cache, so
//! that it is cold for everyone.

use std::sync::Arc;
use std::time::Instant;

use batchnorm::bench::{Operation, Probe, Probes, Work};
use batchnorm::{Compute, Cpu, Cuda, Element, Strategy};
use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaStream};
use serde_json::{Value, json};

use super::Task;
use super::report::{FORCED, OURS};
use super::subject::{Samples, Spread, Subject, Way};
use crate::device;
use crate::failure::Failure;

/// Launches of a graph, and between two events.
const LAUNCHES: usize = 20;
/// Sets of buffers are as many as this times the L2 cache.
const L2_TIMES: u64 = 4;
/// Meetings or exchanges of a probe, so that a launch is small beside them.
const ROUNDS: u32 = 256;

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
    pub(super) fn emulated(&mut self) -> Result<Option<String>, Failure> {
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
        let mut probes = Probes::new(&self.cuda, 1 << 16)?;
        for probe in all_probes(1 << 12, 4) {
            match probes.launch(probe) {
                Err(batchnorm::Error::Probe { .. }) => {}
                launched => launched?,
            }
        }
        self.cuda.synchronize()?;
        Ok(Some(format!("{name}: every operation and probe ran, and agrees with the CPU; it is never timed\n")))
    }

    /// What the device can do at best, apart from any row.
    pub(super) fn probes(&mut self, seconds: f64) -> Value {
        let limits = self.cuda.limits();
        let row_bytes = 4096;
        let bytes = (L2_TIMES * limits.l2_bytes).next_multiple_of(row_bytes) as usize;
        let mut probes = match Probes::new(&self.cuda, bytes) {
            Ok(probes) => probes,
            Err(error) => return json!({ "reason": error.to_string() }),
        };
        let mut found = Vec::new();
        for probe in all_probes(row_bytes as usize, limits.sms * 2) {
            let mut launch = || probes.launch(probe).map_err(|error| error.to_string());
            let measured = measure(self.cuda.stream(), 1, seconds, &mut launch).and_then(|samples| {
                let spread = samples.get(&Way::Graph).or(samples.get(&Way::Eager)).and_then(|all| Spread::of(all));
                spread.ok_or_else(|| "no samples".into())
            });
            found.push(match measured {
                Ok(Spread { median, min, max, samples }) => json!({
                    "probe": format!("{probe:?}"), "median": median, "min": min, "max": max, "samples": samples,
                }),
                Err(reason) => json!({ "probe": format!("{probe:?}"), "reason": reason }),
            });
        }
        json!({
            "bytes": bytes,
            "active_clusters_of_2_4_8_16": limits.clusters,
            "limits": format!("{limits:?}"),
            "measured": found,
        })
    }

    /// Ours by its own plan and by each strategy that can hold the row, the floors, and cuDNN.
    pub(super) fn subjects<T: Element<Param = f32> + cudarc::driver::DeviceRepr>(
        &mut self,
        task: &Task,
    ) -> Result<Vec<Box<dyn Subject>>, String>
    where
        Cuda: Compute<T>,
        Cpu: Compute<T>,
    {
        let sets = self.sets(Work::<Cuda, T>::set_bytes(&task.row))?;
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

    /// How many sets of buffers of this size: enough to leave nothing in L2, no more than fit twice over beside others'.
    fn sets(&self, set_bytes: usize) -> Result<usize, String> {
        let wanted = (L2_TIMES * self.cuda.limits().l2_bytes).div_ceil(set_bytes as u64).max(1) as usize;
        let (free, _) = self.cuda.stream().context().mem_get_info().map_err(told)?;
        match free / 2 / set_bytes {
            0 => Err(format!("expected {} free bytes of device memory, got {free}", 2 * set_bytes)),
            fit => Ok(wanted.min(fit)),
        }
    }
}

/// Every probe that issue and plan ask about: strides, launches, meetings, exchanges.
fn all_probes(row_bytes: usize, grid: u32) -> Vec<Probe> {
    let strided = |strip_bytes| Probe::Strided { row_bytes, strip_bytes };
    let mut probes = vec![Probe::Copy, Probe::TwoReadOneWrite, Probe::TwoReadTwoWrite];
    probes.extend([32, 64, 128, 256].map(strided));
    probes.push(Probe::Meeting { team: grid, rounds: 0 });
    probes.extend([2, 8, 32, grid].map(|team| Probe::Meeting { team, rounds: ROUNDS }));
    probes.extend([2, 4, 8, 16].map(|team| Probe::Exchange { team, rounds: ROUNDS }));
    probes
}

/// The layer by one strategy. Its buffers are made when it is first measured, and are gone with it.
struct Ours<T: Element> {
    name: String,
    cuda: Cuda,
    task: (batchnorm::bench::Row, Operation),
    sets: usize,
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
                let work = Work::<Cuda, T>::new(&self.cuda, row.shape, row.offset, self.sets);
                let mut work = work.map_err(|error| error.to_string())?;
                work.check(*operation)?;
                work.prepare(*operation).map_err(|error| error.to_string())?;
                empty.insert(work)
            }
        };
        let mut launch = || work.run(*operation).map_err(|error| error.to_string());
        measure(self.cuda.stream(), self.sets, seconds, &mut launch)
    }
}

/// A kernel that reads and writes as many tensors, and does nothing with them.
struct Floor {
    cuda: Cuda,
    bytes: usize,
    probe: Probe,
    sets: usize,
    probes: Vec<Probes>,
    next: usize,
}

impl Floor {
    fn new(cuda: &Cuda, task: &Task, sets: usize) -> Self {
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
        "floor".into()
    }
    fn includes(&self) -> String {
        "nothing but reading and writing each tensor once".into()
    }
    fn measure(&mut self, seconds: f64) -> Result<Samples, String> {
        let Self { cuda, bytes, probe, sets, probes, next } = self;
        while probes.len() < *sets {
            probes.push(Probes::new(cuda, *bytes).map_err(|error| error.to_string())?);
        }
        let mut launch = || {
            *next = (*next + 1) % probes.len();
            probes[*next].launch(*probe).map_err(|error| error.to_string())
        };
        measure(cuda.stream(), *sets, seconds, &mut launch)
    }
}

/// Times launches that take so many sets of buffers in turn, in all three ways.
pub(super) fn measure(
    stream: &Arc<CudaStream>,
    sets: usize,
    seconds: f64,
    launch: &mut dyn FnMut() -> Result<(), String>,
) -> Result<Samples, String> {
    let launches = LAUNCHES.div_ceil(sets) * sets;
    let mut samples = Samples::new();
    // Once through, so that nothing is done for the first time.
    (0..sets).try_for_each(|_| launch())?;
    stream.synchronize().map_err(told)?;

    if let Ok(graph) = capture(stream, launches, launch) {
        samples
            .insert(Way::Graph, between_events(stream, seconds / 3.0, launches, &mut || graph.launch().map_err(told))?);
    }
    let mut all = || (0..launches).try_for_each(|_| launch());
    samples.insert(Way::Eager, between_events(stream, seconds / 3.0, launches, &mut all)?);

    let (start, mut host) = (Instant::now(), Vec::new());
    while host.is_empty() || start.elapsed().as_secs_f64() < seconds / 3.0 {
        let begin = Instant::now();
        all()?;
        host.push(begin.elapsed().as_secs_f64() / launches as f64);
        stream.synchronize().map_err(told)?; // a full queue would make the host wait for the device
    }
    samples.insert(Way::Host, host);
    Ok(samples)
}

/// A graph of so many launches.
fn capture(
    stream: &Arc<CudaStream>,
    launches: usize,
    launch: &mut dyn FnMut() -> Result<(), String>,
) -> Result<CudaGraph, String> {
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(told)?;
    let launched = (0..launches).try_for_each(|_| launch());
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).map_err(told);
    launched?;
    graph?.ok_or_else(|| "the capture has no launches".into())
}

/// Seconds an operation, by the device's clock around each call, which makes so many launches.
fn between_events(
    stream: &Arc<CudaStream>,
    seconds: f64,
    launches: usize,
    call: &mut dyn FnMut() -> Result<(), String>,
) -> Result<Vec<f64>, String> {
    let (begin, mut samples) = (Instant::now(), Vec::new());
    while samples.is_empty() || begin.elapsed().as_secs_f64() < seconds {
        // One call ahead keeps the device at work while the host queues the one that counts.
        call()?;
        let start = stream.record_event(Some(CU_EVENT_DEFAULT)).map_err(told)?;
        call()?;
        let end = stream.record_event(Some(CU_EVENT_DEFAULT)).map_err(told)?;
        samples.push(f64::from(start.elapsed_ms(&end).map_err(told)?) / 1e3 / launches as f64);
    }
    Ok(samples)
}

/// A driver's error by its number: its text would be asked of a driver that may not be there.
pub(super) fn told(error: cudarc::driver::DriverError) -> String {
    format!("CUDA driver error {}", error.0 as u32)
}

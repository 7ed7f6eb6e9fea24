//! The three ways of timing launches on a GPU: replays of a graph, launches back to back, and what a call takes the host.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaStream};

use super::subject::{Samples, Way};

/// Launches of a graph, and between two events.
const LAUNCHES: usize = 20;
/// Time for which launches run before those that count, so that the clocks can rise: the same as for the peers in Python, in
/// their timing.py.
const WARM_UP: Duration = Duration::from_millis(50);

/// Samples of a way in a turn, all of which are kept.
const MOST_SAMPLES: usize = 50;

/// A timer of launches on a stream.
#[derive(Clone)]
pub(crate) struct Timer {
    stream: Arc<CudaStream>,
    launches: usize,
    warm_up: Duration,
    /// Whether events of the device tell time.
    is_timed: bool,
}

impl Timer {
    pub(crate) fn new(stream: Arc<CudaStream>) -> Self {
        Self { stream, launches: LAUNCHES, warm_up: WARM_UP, is_timed: true }
    }

    /// A timer of the fewest launches that go all ways, each sample of no seconds, for a device that has no time of its own.
    pub(crate) fn once(stream: Arc<CudaStream>) -> Self {
        Self { stream, launches: 2, warm_up: Duration::ZERO, is_timed: false }
    }

    /// Times launches that take so many sets of buffers in turn, in all three ways.
    pub(crate) fn measure(
        &self,
        sets: usize,
        seconds: f64,
        launch: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<Samples, String> {
        let (stream, launches) = (&self.stream, self.launches.div_ceil(sets) * sets);
        let seconds = if self.is_timed { seconds / 3.0 } else { 0.0 };
        let mut samples = Samples::new();
        // The first calls do what is done once.
        (0..sets).try_for_each(|_| launch())?;
        stream.synchronize().map_err(told)?;

        if let Ok(graph) = capture(stream, launches, launch) {
            let replay = &mut || graph.launch().map_err(told);
            self.warm_up(replay)?;
            samples.insert(Way::Graph, self.between_events(seconds, launches, replay)?);
        }
        let mut all = || (0..launches).try_for_each(|_| launch());
        self.warm_up(&mut all)?;
        samples.insert(Way::Eager, self.between_events(seconds, launches, &mut all)?);

        let (start, mut host) = (Instant::now(), Vec::new());
        while goes_on(&host, start, seconds) {
            let begin = Instant::now();
            all()?;
            host.push(begin.elapsed().as_secs_f64() / launches as f64);
            stream.synchronize().map_err(told)?; // a full queue would make the host wait for the device
        }
        samples.insert(Way::Host, host);
        Ok(samples)
    }

    /// Keeps the device at work for a while.
    fn warm_up(&self, call: &mut dyn FnMut() -> Result<(), String>) -> Result<(), String> {
        let begin = Instant::now();
        while begin.elapsed() < self.warm_up {
            call()?;
            self.stream.synchronize().map_err(told)?;
        }
        Ok(())
    }

    /// Seconds an operation, by the device's clock around each call, which makes so many launches.
    fn between_events(
        &self,
        seconds: f64,
        launches: usize,
        call: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<Vec<f64>, String> {
        let (stream, begin, mut samples) = (&self.stream, Instant::now(), Vec::new());
        while goes_on(&samples, begin, seconds) {
            // One call ahead keeps the device at work while the host queues the one that counts.
            call()?;
            let start = stream.record_event(Some(CU_EVENT_DEFAULT)).map_err(told)?;
            call()?;
            let end = stream.record_event(Some(CU_EVENT_DEFAULT)).map_err(told)?;
            end.synchronize().map_err(told)?;
            let ms = if self.is_timed { start.elapsed_ms(&end).map_err(told)? } else { 0.0 };
            samples.push(f64::from(ms) / 1e3 / launches as f64);
        }
        Ok(samples)
    }
}

/// Whether one more sample is to be taken: at least one, at most [`MOST_SAMPLES`].
fn goes_on(samples: &[f64], begin: Instant, seconds: f64) -> bool {
    samples.is_empty() || (samples.len() < MOST_SAMPLES && begin.elapsed().as_secs_f64() < seconds)
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

/// A driver's error by its number: its text would be asked of a driver that may not be there.
pub(crate) fn told(error: cudarc::driver::DriverError) -> String {
    format!("CUDA driver error {}", error.0 as u32)
}

//! The three ways of timing launches on a GPU: replays of a graph, launches back to back, and what a call takes the host.

use std::sync::Arc;
use std::time::Instant;

use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaStream};

use super::subject::{Samples, Way};

/// Launches of a graph, and between two events.
const LAUNCHES: usize = 20;

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

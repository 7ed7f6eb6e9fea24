//! Operations in captured graphs. A capture wants the device for itself: each test here holds it alone, whatever else runs in
//! the process. The emulated device has no graphs, and is tested for what remains: that it says so, and the lock.

use batchnorm::{BatchNorm, Compute, Cuda, Element, Error, with_device_element};
use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

use crate::device::{EMULATED, alone, open, shared, strategies, untracked};
use crate::litmus::plans::{ALL, ONE_CHANNEL, Planned, SEVERAL_CHANNELS};
use crate::litmus::work::Turns;
use crate::step::{Operation, Step, layer};
use crate::watchdog::in_time;

/// `CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED`.
const UNSUPPORTED: u32 = 900;
/// Replays of a step.
const REPLAYS: usize = 1000;
/// Launches of each problem, in all replays of its graph.
const LAUNCHES: usize = 2000;
/// Launches of a problem in a graph.
const CAPTURED: usize = 60;

/// A backend on a stream that can be captured. It must be a non-blocking one, as all of `new_stream` are: while a blocking
/// stream captures, such as that of each thread, no thread of the process can use the default stream.
fn backend(cuda: &Cuda) -> Cuda {
    Cuda::on(untracked(cuda).new_stream().unwrap()).unwrap()
}

/// Whether the device captures; the emulated one refuses, with its code.
fn captures(cuda: &Cuda) -> bool {
    if EMULATED {
        let begun = cuda.stream().begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
        assert_eq!(begun.unwrap_err().0 as u32, UNSUPPORTED);
        println!("skipped: the emulated device has no graphs");
    }
    !EMULATED
}

/// The work that `run` puts on the stream, as a graph.
fn captured<R>(cuda: &Cuda, run: impl FnOnce() -> R) -> (R, CudaGraph) {
    cuda.synchronize().unwrap();
    let stream = cuda.stream();
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let ran = run();
    let graph = stream.end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH).unwrap();
    (ran, graph.expect("the capture has launches"))
}

/// A captured step, replayed, gives bit for bit what the same calls give eagerly, under every strategy.
#[test]
fn a_replayed_graph_is_the_eager_step() {
    let _alone = alone();
    let Some(cuda) = open() else { return };
    let backend = backend(&cuda);
    if !captures(&backend) {
        return;
    }
    for strategy in strategies(&cuda) {
        let backend = backend.clone().with_strategy(strategy);
        in_time(&format!("replays of a step, strategy {strategy:?}"), move || check_replays(&backend));
    }
}

fn check_replays(backend: &Cuda) {
    let prepared = || {
        let layer = layer(backend).unwrap();
        let step = Step::new(&layer).unwrap();
        (layer, step)
    };
    let run = |layer: &mut BatchNorm<Cuda>, step: &mut Step<Cuda>| {
        Operation::ALL.into_iter().try_for_each(|operation| step.run(layer, operation))
    };
    let (mut eager, mut eager_step) = prepared();
    for _ in 0..REPLAYS {
        run(&mut eager, &mut eager_step).unwrap();
    }
    let (mut replayed, mut replayed_step) = prepared();
    let (ran, graph) = captured(backend, || run(&mut replayed, &mut replayed_step));
    ran.unwrap();
    for _ in 0..REPLAYS {
        graph.launch().unwrap();
    }
    backend.synchronize().unwrap();
    assert_eq!(replayed_step.outputs(&replayed).unwrap(), eager_step.outputs(&eager).unwrap());
    assert_eq!(replayed.state_dict().unwrap(), eager.state_dict().unwrap());
}

/// Every way to exchange between CTAs, replayed: the counter of exchanges goes on from replay to replay.
#[test]
fn replayed_exchanges_give_the_same_bits() {
    let _alone = alone();
    let Some(cuda) = open() else { return };
    let backend = backend(&cuda);
    if !captures(&backend) {
        return;
    }
    for litmus in ALL {
        let Some(problem) = litmus.on(&backend) else { continue };
        with_device_element!(
            problem.candidate.dtype(),
            T => replay::<T>(litmus.name, &[problem], &backend),
            f64 => unreachable!("no kernel computes f64")
        );
    }
    if let (Some(one), Some(several)) = (ONE_CHANNEL.on(&backend), SEVERAL_CHANNELS.on(&backend)) {
        replay::<f32>("two team sizes in turn", &[one, several], &backend);
    }
}

fn replay<T: Element<Param = f32>>(name: &str, problems: &[Planned], cuda: &Cuda)
where
    Cuda: Compute<T>,
{
    let mut turns = Turns::<T>::new(problems, cuda);
    let launches = turns.round_len(CAPTURED * problems.len());
    turns.prepare(launches);
    // The first round is an eager one, which the replays are compared with.
    (0..launches).for_each(|launch| turns.enqueue(launch));
    turns.compare(launches).unwrap();
    let ((), graph) = captured(cuda, || (0..launches).for_each(|launch| turns.enqueue(launch)));
    for replay in 0..(LAUNCHES * problems.len()).div_ceil(launches) {
        graph.launch().unwrap();
        let what = format!("{name}, replay {replay} of {problems:?}");
        let label = what.clone();
        turns = in_time(&what, move || {
            turns.compare(launches).unwrap_or_else(|which| panic!("{which} has other bits: {label}"));
            turns
        });
    }
    turns.check_against_two_read();
}

/// A capture while the context tracks events is refused before anything is launched, and leaves the capture usable.
#[test]
fn a_capture_under_event_tracking_is_refused() {
    let _alone = alone();
    let Some(cuda) = open() else { return };
    let context = cuda.stream().context();
    let (stream, _second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let backend = Cuda::on(stream).unwrap();
    if !captures(&backend) {
        return;
    }
    let mut layer = layer(&backend).unwrap();
    let mut step = Step::new(&layer).unwrap();
    backend.synchronize().unwrap();
    let stream = backend.stream();
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let refused = step.run(&mut layer, Operation::Train);
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let ended = stream.end_capture(flags);
    assert!(matches!(refused, Err(Error::Capture { .. })), "{refused:?}");
    assert!(ended.is_ok());
}

/// Whoever has the device for itself has it for itself, and the threads of one test do not wait for each other.
#[test]
fn a_capture_has_the_device_for_itself() {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    static USERS: AtomicUsize = AtomicUsize::new(0);
    const ALONE: usize = 1 << 16;
    let use_it = |_: usize| {
        let _first = shared();
        assert!(USERS.fetch_add(1, SeqCst) < ALONE, "beside a capture");
        std::thread::yield_now();
        // Devices can be used again, and on another thread too: no capture that waits keeps them out.
        let _again = shared();
        std::thread::scope(|scope| scope.spawn(|| drop(shared())).join().unwrap());
        USERS.fetch_sub(1, SeqCst);
    };
    let capture = |_: usize| {
        let _alone = alone();
        assert_eq!(USERS.fetch_add(ALONE, SeqCst), 0, "a capture beside others");
        std::thread::yield_now();
        assert_eq!(USERS.fetch_sub(ALONE, SeqCst), ALONE, "others beside a capture");
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..50).for_each(use_it));
        }
        scope.spawn(|| (0..10).for_each(capture));
    });
}

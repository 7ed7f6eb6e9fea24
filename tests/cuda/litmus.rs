//! What an emulated device cannot show: weak memory order between CTAs, graphs, memory beyond 32 bits of elements. On a
//! GPU these run in full; the emulated device runs what it can.

use batchnorm::args::MomentsArgs;
use batchnorm::{Backend, BatchNorm, Compute, Cuda, Dtype, Epilogue, Error, Layout, Momentum, Op, Options, Problem};
use batchnorm::{Shape, Tracking};
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use half::f16;

use crate::device::{EMULATED, STRATEGIES, cuda};
use crate::step::{Operation, Step, layer};

/// Every CTA of a launch reads the counter, and the last one to finish moves it. Over many launches with one workspace
/// every channel must have used the same count: with the same data in all channels, all statistics have the same bits.
#[test]
fn the_counter_is_one_for_all_ctas_over_many_launches() {
    let Some(cuda) = cuda() else { return };
    let (launches, c) = if EMULATED { (40, 24) } else { (4000, 512) };
    let shape = Shape::nchw(2, c, 8, 8).unwrap();
    for strategy in STRATEGIES {
        let tracking = Some(Tracking { momentum: Momentum::Cumulative, ..Tracking::default() });
        let options = Options { tracking, ..Options::default() };
        let mut layer = BatchNorm::<Cuda>::new(cuda.clone().with_strategy(strategy), c, options).unwrap();
        layer.reserve::<f32>(shape, Epilogue::Identity).unwrap();
        let mut saved = layer.saved(shape, Epilogue::Identity).unwrap();
        let batches: Vec<_> = (0..4)
            .map(|batch| {
                let value = |i: usize| ((i / (64 * c) * 64 + i % 64) * (batch + 3) % 29) as f32;
                cuda.upload(&(0..shape.len()).map(value).collect::<Vec<f32>>()).unwrap()
            })
            .collect();
        let mut y = cuda.upload(&vec![0.0f32; shape.len()]).unwrap();
        for launch in 0..launches {
            layer.train(shape, &batches[launch % 4], Epilogue::Identity, &mut y, &mut saved).unwrap();
        }
        let running = layer.state_dict().unwrap().running.unwrap();
        assert_eq!(running.num_batches_tracked, launches as i64, "{strategy:?}");
        for values in [&running.mean, &running.var] {
            assert!(values.iter().all(|value| value.to_bits() == values[0].to_bits()), "{strategy:?} {values:?}");
        }
    }
}

/// Two layers on two streams at once, each with its own workspace, give what each gives alone.
#[test]
fn two_streams_at_once_do_not_disturb_each_other() {
    let Some(cuda) = cuda() else { return };
    let rounds = if EMULATED { 3 } else { 500 };
    let context = cuda.stream().context();
    let run = |backends: &[Cuda]| {
        let mut all: Vec<_> = backends
            .iter()
            .map(|backend| {
                let layer = layer(backend).unwrap();
                let step = Step::new(&layer).unwrap();
                (layer, step)
            })
            .collect();
        for _ in 0..rounds {
            for operation in [Operation::Train, Operation::Backward] {
                all.iter_mut().for_each(|(layer, step)| step.run(layer, operation).unwrap());
            }
        }
        all.iter().map(|(layer, step)| (step.outputs(layer).unwrap(), layer.state_dict().unwrap())).collect::<Vec<_>>()
    };
    let alone = run(std::slice::from_ref(&cuda));
    let streams = [0, 1].map(|_| Cuda::on(context.new_stream().unwrap()).unwrap());
    for both in run(&streams) {
        assert_eq!(both, alone[0]);
    }
}

/// A captured step, replayed, gives bit for bit what the same calls give eagerly, under every strategy.
#[test]
fn a_replayed_graph_is_the_eager_step() {
    let Some(cuda) = cuda() else { return };
    let context = cuda.stream().context().clone();
    let stream = context.per_thread_stream();
    // SAFETY: nothing of this context is in use, and what follows is on one stream.
    unsafe { context.disable_event_tracking() };
    if EMULATED {
        let begun = stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
        // CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: the emulated device says so.
        assert_eq!(begun.unwrap_err().0 as u32, 900);
        println!("skipped: the emulated device has no graphs");
        return;
    }
    let backend = Cuda::on(stream.clone()).unwrap();
    for strategy in STRATEGIES {
        let backend = backend.clone().with_strategy(strategy);
        match layer(&backend) {
            Err(Error::Strategy { .. } | Error::NoStrategy { .. }) => {}
            _ => check_replays(&backend),
        }
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
    let rounds = 1000;
    for _ in 0..rounds {
        run(&mut eager, &mut eager_step).unwrap();
    }

    let (mut captured, mut captured_step) = prepared();
    backend.synchronize().unwrap();
    let stream = backend.stream();
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let ran = run(&mut captured, &mut captured_step);
    let graph = stream.end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH).unwrap();
    ran.unwrap();
    let graph = graph.expect("the capture has launches");
    for _ in 0..rounds {
        graph.launch().unwrap();
    }
    backend.synchronize().unwrap();
    assert_eq!(captured_step.outputs(&captured).unwrap(), eager_step.outputs(&eager).unwrap());
    assert_eq!(captured.state_dict().unwrap(), eager.state_dict().unwrap());
}

/// Tensors beyond 2^31 and 2^32 elements, in one channel and over many, where the device has room for them.
#[test]
fn offsets_beyond_32_bits_on_real_memory() {
    let Some(cuda) = cuda() else { return };
    let stream = cuda.stream();
    for (dims, layout) in [
        (&[1, 1, (1usize << 32) + 4096][..], Layout::ChannelsFirst),
        (&[3, 2, (1 << 30) + 8], Layout::ChannelsFirst),
        (&[(1 << 27) + 1, 40], Layout::ChannelsLast),
    ] {
        let shape = Shape::new(dims, layout).unwrap();
        let (free, _) = stream.context().mem_get_info().unwrap();
        let bytes = shape.len() * size_of::<f16>();
        if EMULATED || free < bytes + (1 << 30) {
            println!("skipped: {shape} takes {bytes} bytes of device memory, {free} are free");
            continue;
        }
        // Zero but for the last sample of the last channel, which the mean and the variance must see.
        let mut x = stream.alloc_zeros::<f16>(shape.len()).unwrap();
        let mut last = x.slice_mut(shape.len() - 1..);
        stream.memcpy_htod(&[f16::from_f32(1024.0)], &mut last).unwrap();
        let problem = Problem::new(Op::Moments, shape, Dtype::F16, Epilogue::Identity, 0.0, None).unwrap();
        let mut workspace = cuda.workspace(&[problem]).unwrap();
        let mut mean = cuda.upload(&vec![0.0f32; shape.c()]).unwrap();
        let mut var = cuda.upload(&vec![0.0f32; shape.c()]).unwrap();
        let args = MomentsArgs::<Cuda, f16> { shape, x: &x, mean: &mut mean, var: &mut var, workspace: &mut workspace };
        cuda.moments(args).unwrap();
        let (mean, var) = (cuda.download(&mean).unwrap(), cuda.download(&var).unwrap());
        let m = shape.m() as f64;
        let (want_mean, want_var) = (1024.0 / m, 1024.0f64.powi(2) / m * (1.0 - 1.0 / m));
        let c = shape.c() - 1;
        assert!((f64::from(mean[c]) - want_mean).abs() <= 1e-5 * want_mean, "{shape}: {} not {want_mean}", mean[c]);
        assert!((f64::from(var[c]) - want_var).abs() <= 1e-5 * want_var, "{shape}: {} not {want_var}", var[c]);
        assert!(mean[..c].iter().chain(&var[..c]).all(|&value| value == 0.0), "{shape}");
    }
}

/// A capture while the context tracks events is refused before anything is launched, and leaves the capture usable.
#[test]
fn a_capture_under_event_tracking_is_refused() {
    let Some(cuda) = cuda() else { return };
    if EMULATED {
        println!("skipped: the emulated device has no graphs");
        return;
    }
    let context = cuda.stream().context();
    let (stream, _second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let backend = Cuda::on(stream.clone()).unwrap();
    let mut layer = layer(&backend).unwrap();
    let mut step = Step::new(&layer).unwrap();
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let refused = step.run(&mut layer, Operation::Train);
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let ended = stream.end_capture(flags);
    assert!(matches!(refused, Err(Error::Capture { .. })), "{refused:?}");
    assert!(ended.is_ok());
}

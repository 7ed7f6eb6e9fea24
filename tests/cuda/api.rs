//! The safe API on CUDA: what is refused and with which numbers, moving layers, foreign memory, streams.

use batchnorm::op::{Moments, Problem};
use batchnorm::{
    Backend, BatchNorm, Compute, Cpu, Cuda, CudaWorkspace, DeviceRef, Dtype, Epilogue, Error, Op, Options, Saved,
    Shape, Strategy, with_device_element,
};

use cudarc::driver::{CudaContext, CudaSlice, DevicePtr};

use crate::device::{cuda as device, strategies};
use crate::step::{Operation, Step, assert_close, assert_state, layer, reference, shape, state, values};
use crate::{abuse, batches, handling, passes, sequences, unneeded};

/// A training step, and whether it is the CPU's.
fn assert_step(mut layer: BatchNorm<Cuda>) {
    let (outputs, state) = reference();
    let mut step = Step::new(&layer).unwrap();
    step.run(&mut layer, Operation::Train).unwrap();
    step.run(&mut layer, Operation::Backward).unwrap();
    assert_close("outputs", &step.outputs(&layer).unwrap(), &outputs);
    assert_state(&layer.state_dict().unwrap(), &state);
}

#[test]
fn a_layer_moves_between_cpu_and_device() {
    let Some(cuda) = device() else { return };
    let cpu = layer(&Cpu).unwrap();
    let mut moved = cpu.to(cuda.clone()).unwrap();
    assert_eq!(moved.state_dict().unwrap(), state());
    assert_eq!(moved.to(Cpu).unwrap().state_dict().unwrap(), state());
    moved.reserve::<f32>(shape(), Epilogue::ADD_RELU).unwrap();
    assert_step(moved);
}

#[test]
fn parts_of_a_state_are_where_they_belong() {
    let Some(cuda) = device() else { return };
    for (gamma, beta, tracks) in
        [(true, true, true), (true, false, false), (false, true, true), (false, false, true), (false, false, false)]
    {
        let usual = Options::default();
        let options = Options { gamma, beta, tracking: usual.tracking.filter(|_| tracks), ..usual };
        let mut layer = BatchNorm::new(cuda.clone(), 6, options).unwrap();
        let wanted = state();
        let wanted = batchnorm::State {
            gamma: wanted.gamma.filter(|_| gamma),
            beta: wanted.beta.filter(|_| beta),
            running: wanted.running.filter(|_| tracks),
        };
        layer.load_state_dict(&wanted).unwrap();
        assert_eq!(layer.state_dict().unwrap(), wanted);
        let stream = cuda.stream();
        if let Some(gamma) = layer.gamma_mut() {
            stream.memcpy_htod(&[7.0f32; 6], gamma).unwrap();
        }
        if let Some(beta) = layer.beta_mut() {
            stream.memcpy_htod(&[8.0f32; 6], beta).unwrap();
        }
        let written = layer.state_dict().unwrap();
        assert_eq!(written.gamma, gamma.then(|| vec![7.0; 6]));
        assert_eq!(written.beta, beta.then(|| vec![8.0; 6]));
        assert_eq!(written.running, wanted.running);
        if let Some(running) = layer.running() {
            let wanted = wanted.running.unwrap();
            assert_eq!(stream.clone_dtoh(&running.mean).unwrap(), wanted.mean);
            assert_eq!(stream.clone_dtoh(&running.var).unwrap(), wanted.var);
            assert_eq!(stream.clone_dtoh(&running.num_batches_tracked).unwrap(), [wanted.num_batches_tracked]);
        }
    }
}

#[test]
fn what_is_refused_changes_nothing() {
    let Some(cuda) = device() else { return };
    let shape = shape();
    let mut layer = layer(&*cuda).unwrap();
    let mut saved = layer.saved(shape, Epilogue::IDENTITY).unwrap();
    let x = cuda.upload(&values(shape, 1)).unwrap();
    let mut y = cuda.upload(&vec![9.0f32; shape.len()]).unwrap();
    let refuse = |layer: &mut BatchNorm<Cuda>, saved: &mut Saved<Cuda>, y: &mut CudaSlice<f32>| {
        layer.train(shape, &x, Epilogue::IDENTITY, y, saved).unwrap_err()
    };

    let mut short = cuda.upload(&[0.0f32; 5]).unwrap();
    let text = refuse(&mut layer, &mut saved, &mut short).to_string();
    assert_eq!(text, format!("y: expected {} values, got 5", shape.len()));

    let address = x.device_ptr(cuda.stream()).0;
    // SAFETY: within x, which outlives it; nothing is read or written through it, since the call is refused.
    let mut onto = unsafe { DeviceRef::<f32>::from_raw(address, shape.len(), cuda.stream()) };
    let error = layer.train(shape, &x, Epilogue::IDENTITY, &mut onto, &mut saved).unwrap_err();
    assert!(
        matches!(error, Error::Aliasing { output: "y", other: "x", bytes, .. } if bytes == 4 * shape.len()),
        "{error}"
    );

    let mut bare = BatchNorm::new(cuda.clone(), shape.c(), Options::default()).unwrap();
    let error = refuse(&mut bare, &mut saved, &mut y);
    assert!(matches!(error, Error::Workspace { needed: 1.., actual: 0, .. }), "{error}");

    assert_eq!(cuda.download(&y).unwrap(), vec![9.0; shape.len()]);
    assert_eq!(cuda.download(saved.mean()).unwrap(), vec![0.0; shape.c()]);
    assert_eq!(layer.state_dict().unwrap(), state());
    assert_step(layer);
}

#[test]
fn a_forced_strategy_that_cannot_hold_the_problem_is_refused() {
    let Some(cuda) = device() else { return };
    let shape = Shape::nchw(4, 1, 256, 512).unwrap(); // 2 MB a channel
    let forced = cuda.clone().with_strategy(Some(Strategy::Block));
    assert_eq!(forced.strategy(), Some(Strategy::Block));
    let mut layer = BatchNorm::new(forced, 1, Options::default()).unwrap();
    let limits = cuda.limits();
    let is_refused = |error: Error| {
        assert!(
            matches!(error, Error::Strategy { strategy: Strategy::Block, limit, actual, .. }
                if limit == limits.shared_per_cta as usize && actual > limit),
            "{error}"
        );
    };
    let problem = Problem::new(Op::Train, shape, Dtype::F32, Epilogue::IDENTITY, 1e-5, None).unwrap();
    is_refused(layer.backend().workspace(&[problem]).err().unwrap());
    // The frozen passes hold nothing, so that there is something to reserve for.
    layer.reserve::<f32>(shape, Epilogue::IDENTITY).unwrap();
    let mut saved = layer.saved(shape, Epilogue::IDENTITY).unwrap();
    let x = cuda.upload(&vec![1.0f32; shape.len()]).unwrap();
    let mut y = cuda.upload(&vec![0.0f32; shape.len()]).unwrap();
    is_refused(layer.train(shape, &x, Epilogue::IDENTITY, &mut y, &mut saved).unwrap_err());
}

#[test]
fn every_strategy_gives_the_reference() {
    let Some(cuda) = device() else { return };
    for strategy in strategies(&cuda) {
        assert_step(layer(&cuda.clone().with_strategy(strategy)).unwrap());
    }
    let narrow = cuda.clone().with_max_sms(1);
    assert_eq!(narrow.limits().sms, 1);
    assert_step(layer(&narrow).unwrap());
}

#[test]
fn there_is_no_device_of_a_large_number() {
    let Some(_) = device() else { return };
    let error = Cuda::new(99).unwrap_err();
    assert!(matches!(error, Error::NoDevice { ordinal: 99, count: 1.., .. }), "{error}");
}

#[test]
fn the_memory_pool_keeps_what_is_freed() {
    use cudarc::driver::{result, sys};
    let Some(cuda) = device() else { return };
    let context = cuda.stream().context();
    let pools = context.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED).unwrap();
    if pools == 0 {
        println!("skipped: a device without memory pools");
        return;
    }
    let mut threshold = 0u64;
    // SAFETY: the device is that of a context, the pool is its own, and the attribute is a u64.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device()).unwrap();
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::get_attribute(pool, attribute, (&raw mut threshold).cast()).unwrap();
    }
    assert_eq!(threshold, u64::MAX);
}

#[test]
fn a_buffer_of_another_device_is_refused() {
    let Some(cuda) = device() else { return };
    if CudaContext::device_count().is_ok_and(|count| count < 2) {
        println!("skipped: a single CUDA device");
        return;
    }
    let other = Cuda::new(1).unwrap();
    let shape = shape();
    let mut layer = layer(&*cuda).unwrap();
    let mut saved = layer.saved(shape, Epilogue::IDENTITY).unwrap();
    let x = other.upload(&values(shape, 1)).unwrap();
    let mut y = cuda.upload(&vec![0.0f32; shape.len()]).unwrap();
    let error = layer.train(shape, &x, Epilogue::IDENTITY, &mut y, &mut saved).unwrap_err();
    assert!(matches!(error, Error::ForeignDevice { tensor: "x", expected: 0, actual: 1, .. }), "{error}");

    // Scratch memory is a buffer like any other.
    let problem = Problem::new(Op::Moments, shape, Dtype::F32, Epilogue::IDENTITY, 0.0, None).unwrap();
    let mut workspace = other.workspace(&[problem]).unwrap();
    let (mut mean, mut var) = (cuda.upload(&[0.0f32; 6]).unwrap(), cuda.upload(&[0.0f32; 6]).unwrap());
    let x = cuda.upload(&values(shape, 1)).unwrap();
    let moments = Moments::<Cuda, f32> { shape, x: &x, mean: &mut mean, var: &mut var };
    let error = cuda.run_in(&mut workspace, moments).unwrap_err();
    assert!(matches!(error, Error::ForeignDevice { tensor: "workspace", expected: 0, actual: 1, .. }), "{error}");
    assert_step(layer);
}

#[test]
fn an_untracked_stream_is_refused_and_a_tracked_one_waits() {
    let Some(first) = device() else { return };
    let shape = shape();
    let step = |is_tracked: bool| {
        let context = CudaContext::new(first.stream().context().ordinal()).unwrap();
        if !is_tracked {
            // SAFETY: nothing was allocated in this context yet, and what differs in stream is refused below.
            unsafe { context.disable_event_tracking() };
        }
        let cuda = Cuda::on(context.new_stream().unwrap()).unwrap();
        let other = Cuda::on(context.new_stream().unwrap()).unwrap();
        let mut layer = layer(&cuda).unwrap();
        let mut saved = layer.saved(shape, Epilogue::IDENTITY).unwrap();
        let x = other.upload(&values(shape, 1)).unwrap();
        let mut y = cuda.upload(&vec![0.0f32; shape.len()]).unwrap();
        let result = layer.train(shape, &x, Epilogue::IDENTITY, &mut y, &mut saved);

        // Foreign memory has no events: it is good on its own stream only.
        let address = x.device_ptr(other.stream()).0;
        // SAFETY: all of x, which outlives it, and which work on its stream alone uses.
        let foreign = unsafe { DeviceRef::<f32>::from_raw(address, shape.len(), other.stream()) };
        let refused = layer.train(shape, &foreign, Epilogue::IDENTITY, &mut y, &mut saved);
        (result, refused.unwrap_err())
    };
    let (result, refused) = step(true);
    result.unwrap();
    assert!(matches!(refused, Error::Driver { code: 400, .. }), "{refused}");
    let (result, refused) = step(false);
    for error in [result.unwrap_err(), refused] {
        assert!(
            matches!(error, Error::ForeignStream { tensor: "x", expected, actual, .. } if expected != actual),
            "{error}"
        );
    }
}

#[test]
fn foreign_memory_is_borrowed() {
    let Some(cuda) = device() else { return };
    let (shape, stream) = (shape(), cuda.stream().clone());
    let layer = layer(&*cuda).unwrap();
    let x = cuda.upload(&values(shape, 1)).unwrap();
    let y = cuda.upload(&vec![0.0f32; shape.len()]).unwrap();
    let mut want = cuda.upload(&vec![0.0f32; shape.len()]).unwrap();
    layer.infer(shape, &x, Epilogue::RELU, &mut want).unwrap();
    {
        let (x_address, y_address) = (x.device_ptr(&stream).0, y.device_ptr(&stream).0);
        // SAFETY: all of x and y, which outlive them, on their own stream; nothing else uses y meanwhile.
        let (x, mut y) = unsafe {
            (
                DeviceRef::<f32>::from_raw(x_address, shape.len(), &stream),
                DeviceRef::<f32>::from_raw(y_address, shape.len(), &stream),
            )
        };
        assert_eq!(format!("{x:?}"), format!("DeviceRef {{ address: {x_address:#x}, len: {}, .. }}", shape.len()));
        layer.infer(shape, &x, Epilogue::RELU, &mut y).unwrap();
    }
    assert_eq!(cuda.download(&y).unwrap(), cuda.download(&want).unwrap());
}

#[test]
fn each_backward_pass_has_its_forward_pass() {
    let Some(cuda) = device() else { return };
    passes::assert_each_backward_has_its_forward(&*cuda);
}

#[test]
fn a_refused_forward_pass_leaves_what_was_saved() {
    let Some(cuda) = device() else { return };
    passes::assert_a_refusal_leaves_what_was_saved(&*cuda);
}

#[test]
fn gradients_that_nobody_needs_leave_the_others() {
    let Some(cuda) = device() else { return };
    // One CTA a channel, several, and channels in rows.
    let shapes =
        [Shape::nchw(2, 3, 4, 4), Shape::nchw(40, 2, 16, 16), Shape::nhwc(30, 7, 7, 24)].map(|shape| shape.unwrap());
    for strategy in strategies(&cuda) {
        let cuda = cuda.clone().with_strategy(strategy);
        unneeded::assert_unneeded_gradients_leave_the_others(&cuda, &shapes);
    }
}

#[test]
fn an_update_rounds_once() {
    let Some(cuda) = device() else { return };
    handling::assert_axpy(&*cuda);
    let mut y = cuda.upload(&[1.0f32, 2.0, 3.0]).unwrap();
    let address = y.device_ptr(cuda.stream()).0;
    // SAFETY: within y, which outlives it; nothing is read through it, since the call is refused.
    let part = unsafe { DeviceRef::<f32>::from_raw(address + 4, 2, cuda.stream()) };
    let error = cuda.axpy(1.0, &part, &mut y.slice_mut(..2)).unwrap_err();
    assert!(matches!(error, Error::Aliasing { output: "y", other: "x", bytes: 4, .. }), "{error}");
    assert_eq!(cuda.download(&y).unwrap(), [1.0, 2.0, 3.0]);

    // Where the context tracks no events, memory of another stream is refused.
    let untracked = crate::device::untracked(&cuda);
    let [here, other] = [(); 2].map(|()| Cuda::on(untracked.new_stream().unwrap()).unwrap());
    let (x, mut y) = (other.upload(&[1.0f32]).unwrap(), here.upload(&[5.0f32]).unwrap());
    let error = here.axpy(1.0, &x, &mut y).unwrap_err();
    assert!(matches!(error, Error::ForeignStream { tensor: "x", .. }), "{error}");
    assert_eq!(here.download(&y).unwrap(), [5.0]);
}

#[test]
fn smaller_batches_fit_what_was_made_for_larger_ones() {
    let Some(cuda) = device() else { return };
    for strategy in strategies(&cuda) {
        batches::assert_smaller_batches_fit(&cuda.clone().with_strategy(strategy));
    }
    batches::assert_other_shapes_are_refused(&*cuda);
}

#[test]
fn a_copy_is_a_layer_of_its_own() {
    let Some(cuda) = device() else { return };
    handling::assert_a_copy_is_one_of_its_own(&*cuda);
}

#[test]
fn an_epilogue_of_no_operation_is_refused() {
    let Some(cuda) = device() else { return };
    handling::assert_an_epilogue_of_no_operation_is_refused(&*cuda);
}

#[test]
fn what_is_printed_has_no_contents() {
    let Some(cuda) = device() else { return };
    handling::assert_what_is_printed_has_no_contents(&*cuda);
    // SAFETY: memory of no bytes, which nothing uses.
    let workspace = unsafe { CudaWorkspace::from_raw(0, 0, cuda.stream()) };
    assert_eq!(format!("{workspace:?}"), "CudaWorkspace { bytes: 0, .. }");
}

#[test]
fn any_sequence_of_calls() {
    let Some(cuda) = device() else { return };
    let all: Vec<_> = strategies(&cuda).collect();
    abuse::Part { name: "layer-cuda", test: "api::any_sequence_of_calls", few: 100 }.run(|trial| {
        #[cfg(feature = "emulate")]
        cuda_emulator::set_seed(trial.rng.u64(..));
        let cuda = cuda.clone().with_strategy(*trial.rng.choice(&all).unwrap());
        with_device_element!(
            *trial.rng.choice(Dtype::ON_CUDA).unwrap(),
            T => sequences::run::<Cuda, T>(&cuda, trial),
            f64 => unreachable!("no kernel computes f64")
        );
    });
}

#[test]
fn an_empty_batch_leaves_constants() {
    let Some(cuda) = device() else { return };
    let (shape, c) = (Shape::nchw(0, 6, 8, 8).unwrap(), 6);
    let mut layer = layer(&*cuda).unwrap();
    let mut saved = layer.saved(shape, Epilogue::RELU).unwrap();
    let (x, mut y) = (cuda.upload::<f32>(&[]).unwrap(), cuda.upload::<f32>(&[]).unwrap());
    layer.train(shape, &x, Epilogue::RELU, &mut y, &mut saved).unwrap();
    layer.infer(shape, &x, Epilogue::RELU, &mut y).unwrap();
    assert_eq!(layer.state_dict().unwrap(), state());
    assert_eq!(cuda.download(saved.mean()).unwrap(), vec![0.0; c]);
    let (mut mean, mut var) = (cuda.upload(&vec![1.0f32; c]).unwrap(), cuda.upload(&vec![1.0f32; c]).unwrap());
    let moments = Moments::<Cuda, f32> { shape, x: &x, mean: &mut mean, var: &mut var };
    cuda.run_in(&mut cuda.workspace(&[]).unwrap(), moments).unwrap();
    assert!(cuda.download(&mean).unwrap().iter().chain(&cuda.download(&var).unwrap()).all(|value| value.is_nan()));
    let dy = cuda.upload::<f32>(&[]).unwrap();
    let gradients =
        batchnorm::Gradients::<Cuda, f32> { dx: Some(&mut y), dgamma: Some(&mut mean), dbeta: Some(&mut var) };
    layer.backward(shape, &x, &dy, Epilogue::RELU, &saved, gradients).unwrap();
    assert_eq!(cuda.download(&mean).unwrap(), vec![0.0; c]);
    assert_eq!(cuda.download(&var).unwrap(), vec![0.0; c]);
}

/// Launches that begin before the one before them ends give the same bits, by every strategy; the emulated device finds what
/// touches global memory too early.
#[test]
fn early_launches_give_the_same_bits() {
    let Some(cuda) = device() else { return };
    let of = |cuda: Cuda| {
        let mut layer = layer(&cuda).unwrap();
        let mut step = Step::new(&layer).unwrap();
        for operation in Operation::ALL {
            step.run(&mut layer, operation).unwrap();
        }
        let bits = step.outputs(&layer).unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>();
        (bits, layer.state_dict().unwrap())
    };
    for strategy in strategies(&cuda) {
        let planned = |on| cuda.clone().with_strategy(strategy).with_programmatic_launch(on).unwrap();
        let (early, in_order) = (planned(true), planned(false));
        assert_eq!(early.launches_programmatically(), cuda.limits().compute_capability >= (9, 0));
        assert!(!in_order.launches_programmatically());
        assert_eq!(of(early), of(in_order), "{strategy:?}");
    }
}

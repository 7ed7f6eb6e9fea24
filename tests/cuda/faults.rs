//! Promises that the emulated device can test and a GPU cannot: nothing is allocated, and every driver call may fail.

mod any;

use std::collections::BTreeSet;
use std::time::Instant;

use batchnorm::op::Moments;
use batchnorm::op::Problem;
use batchnorm::verify::{Failure, Group, Input, Inputs, Journal, Report, Verified, run};
use batchnorm::{
    Backend, BatchNorm, Compute, Cuda, Dtype, Element, Epilogue, Error, Layout, Op, Shape, StateDict, StatisticsKind,
};
use cudarc::driver::CudaContext;
use half::f16;

use crate::device::{STRATEGIES, alone, number_of, strategies};
use crate::step::{Operation, Step, assert_state, layer, shape, state, state_of, values};

/// `CUDA_ERROR_UNKNOWN`, which nothing else gives.
const UNKNOWN: i32 = 999;

/// A backend on the default stream, or on one of two streams that events keep in order.
fn backend(has_two_streams: bool) -> Cuda {
    let context = CudaContext::new(0).unwrap();
    if !has_two_streams {
        return Cuda::on(context.default_stream()).unwrap();
    }
    Cuda::on(context.new_stream().unwrap()).unwrap()
}

#[test]
fn operations_allocate_nothing_and_make_few_calls() {
    for (has_two_streams, most) in [(false, 12), (true, 200)] {
        let mut layer = layer(&backend(has_two_streams)).unwrap();
        let mut step = Step::new(&layer).unwrap();
        for operation in Operation::ALL {
            let (live, calls) = (cuda_emulator::live(), cuda_emulator::calls());
            step.run(&mut layer, operation).unwrap();
            let calls = cuda_emulator::calls() - calls;
            assert_eq!(cuda_emulator::live(), live, "{operation:?}");
            println!("{operation:?}, events {has_two_streams}: {calls} calls");
            assert!(calls <= most, "{operation:?}: expected at most {most} driver calls, got {calls}");
        }
    }
}

/// An error of the driver or the runtime, with the number that it was given.
fn assert_typed(error: &Error) {
    assert_of(error, UNKNOWN);
}

/// An error of the driver or the runtime of this number. A kernel that cannot be made ready is named.
fn assert_of(error: &Error, wanted: i32) {
    match error {
        Error::Driver { code, .. } | Error::Launch { code, .. } if *code == wanted as u32 => {}
        Error::Prepare { kernel, call, code, .. } if *code == wanted as u32 => {
            assert!(!kernel.is_empty() && call.starts_with("cuda"), "{error}");
        }
        other => panic!("expected the error {wanted}, got {other}"),
    }
}

/// Whether the state is as before the operation or as after it, nothing in between.
fn assert_whole(layer: &BatchNorm<Cuda>, before: &StateDict<f32>, after: &StateDict<f32>) {
    let got = layer.state_dict().unwrap();
    if got != *before {
        assert_state(&got, after);
    }
}

/// Fails the first driver call of an operation with this code, then the second, and so on, until it makes no more: the
/// number of its calls.
fn fail_each_call<T: Element<Param = f32>>(
    layer: &mut BatchNorm<Cuda>,
    step: &mut Step<Cuda, T>,
    operation: Operation,
    code: i32,
) -> u64
where
    Cuda: Compute<T>,
{
    let before = state_of(layer.channels());
    layer.load_state_dict(&before).unwrap();
    step.run(layer, operation).unwrap();
    let after = layer.state_dict().unwrap();
    let live = cuda_emulator::live();
    for k in 1.. {
        layer.load_state_dict(&before).unwrap();
        cuda_emulator::fail_call(k, code);
        let result = step.run(layer, operation);
        let is_pending = cuda_emulator::fault_pending();
        cuda_emulator::clear_faults();
        if is_pending {
            result.unwrap();
            return k - 1;
        }
        let error = result.expect_err("a call failed");
        assert_of(&error, code);
        // Nothing is half done, nothing is lost, and the layer goes on.
        assert_whole(layer, &before, &after);
        assert_eq!(cuda_emulator::live(), live, "{operation:?}, call {k}: {error}");
        // A forward pass that failed may have begun to write, so that its backward pass has nothing to stand on.
        if operation.saves() {
            assert_eq!(step.saved.pass(), None, "{operation:?}, call {k}: {error}");
            let refused = step.run(layer, Operation::Backward).unwrap_err();
            assert!(matches!(refused, Error::SavedPass { actual: None, .. }), "{refused}");
        }
        layer.load_state_dict(&before).unwrap();
        step.run(layer, operation).unwrap();
        assert_state(&layer.state_dict().unwrap(), &after);
    }
    unreachable!("an operation ends")
}

#[test]
fn every_call_of_every_operation_may_fail() {
    let device = backend(false);
    let of_the_device = strategies(&device).map(|strategy| (false, strategy));
    for (has_two_streams, strategy) in [(true, None)].into_iter().chain(of_the_device) {
        let mut layer = layer(&backend(has_two_streams).with_strategy(strategy)).unwrap();
        let mut step = Step::new(&layer).unwrap();
        step.run(&mut layer, Operation::Train).unwrap();
        for operation in Operation::ALL {
            let calls = fail_each_call(&mut layer, &mut step, operation, UNKNOWN);
            println!("{operation:?}: {calls} calls");
        }
    }
}

#[test]
fn every_call_of_moments_and_copies_may_fail() {
    let (cuda, shape) = (backend(false), shape());
    let layer = layer(&cuda).unwrap();
    let problem = Problem::new(Op::Moments, shape, batchnorm::Dtype::F32, Epilogue::IDENTITY, 0.0, None).unwrap();
    let mut workspace = cuda.workspace(&[problem]).unwrap();
    let x = cuda.upload(&values(shape, 1)).unwrap();
    let (mut mean, mut var) = (cuda.upload(&[0.0f32; 6]).unwrap(), cuda.upload(&[0.0f32; 6]).unwrap());
    let live = cuda_emulator::live();
    let mut actions: [&mut dyn FnMut() -> batchnorm::Result<()>; 3] = [
        &mut || {
            let moments = Moments::<Cuda, f32> { shape, x: &x, mean: &mut mean, var: &mut var };
            cuda.run_in(&mut workspace, moments)
        },
        &mut || cuda.download(&x).map(|copy| assert_eq!(copy, values(shape, 1))),
        &mut || layer.state_dict().map(|got| assert_eq!(got, state())),
    ];
    for action in &mut actions {
        for k in 1.. {
            cuda_emulator::fail_call(k, UNKNOWN);
            let result = action();
            let is_pending = cuda_emulator::fault_pending();
            cuda_emulator::clear_faults();
            assert_eq!(cuda_emulator::live(), live);
            if is_pending {
                result.unwrap();
                break;
            }
            assert_typed(&result.expect_err("a call failed"));
            action().unwrap();
        }
    }
}

#[test]
fn every_call_of_an_empty_upload_may_fail() {
    for (has_two_streams, code) in [(false, UNKNOWN), (true, UNKNOWN), (true, 1), (true, 2), (true, 700)] {
        let cuda = backend(has_two_streams);
        let live = cuda_emulator::live();
        for k in 1.. {
            cuda_emulator::fail_call(k, code);
            let result = cuda.upload::<f32>(&[]);
            let is_pending = cuda_emulator::fault_pending();
            cuda_emulator::clear_faults();
            match result.map(drop) {
                Ok(()) => assert!(is_pending, "call {k} was not noticed"),
                Err(Error::Driver { code: got, .. }) => assert_eq!(got, code as u32, "call {k}"),
                Err(Error::OutOfMemory { bytes: 4, .. }) => assert_eq!(code, 2, "call {k}"),
                Err(error) => panic!("call {k}: {error}"),
            }
            assert_eq!(cuda_emulator::live(), live, "call {k} with {code}");
            if is_pending {
                println!("{} calls", k - 1);
                break;
            }
            cuda.download(&cuda.upload(&[1.0f32]).unwrap()).unwrap();
        }
        // Whichever stream the backend has, the buffer can be used there.
        let shape = Shape::new(&[0, 6], Layout::ChannelsLast).unwrap();
        let layer = layer(&cuda).unwrap();
        let (x, mut y) = (cuda.upload::<f32>(&[]).unwrap(), cuda.upload::<f32>(&[]).unwrap());
        layer.infer(shape, &x, Epilogue::IDENTITY, &mut y).unwrap();
        assert_eq!(cuda.download(&y).unwrap(), [0.0f32; 0]);
    }
}

#[test]
fn memory_runs_out_with_the_number_of_bytes() {
    let cuda = Cuda::new(number_of("memory")).unwrap();
    let live = cuda_emulator::live();
    let error = cuda.upload(&vec![0.0f32; 32 << 20]).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { bytes, .. } if bytes == 128 << 20), "{error}");
    assert_eq!(cuda_emulator::live(), live);
    cuda.upload(&[1.0f32]).unwrap();
}

#[test]
fn a_device_may_have_no_memory_pool() {
    let cuda = Cuda::new(number_of("nocoop")).unwrap();
    cuda.keep_memory().unwrap();
    let host = vec![1.5f32; 1000];
    let copy = cuda.upload(&host).unwrap();
    assert_eq!(cuda.download(&copy).unwrap(), host);
}

#[test]
fn every_call_that_sets_up_a_memory_pool_may_fail() {
    let cuda = Cuda::new(number_of("ada99")).unwrap();
    for k in 1.. {
        cuda_emulator::fail_call(k, UNKNOWN);
        let result = cuda.keep_memory();
        let is_pending = cuda_emulator::fault_pending();
        cuda_emulator::clear_faults();
        if is_pending {
            assert!(k > 3, "attribute, pool and threshold are three calls");
            return result.unwrap();
        }
        assert_typed(&result.expect_err("a call failed"));
    }
}

#[test]
fn a_device_may_be_too_old() {
    let error = Cuda::new(number_of("turing")).unwrap_err();
    let number = number_of("turing");
    assert_eq!(error.to_string(), format!("CUDA device {number}: expected compute capability 8.0 or newer, got 7.5"));
}

#[test]
fn a_failed_set_up_can_be_repeated() {
    // The device is one that no other test prepares, since that is done once.
    let number = number_of("a100like");
    for k in 1..5000 {
        cuda_emulator::fail_call(k, UNKNOWN);
        let result = Cuda::new(number).and_then(|cuda| layer(&cuda));
        let is_pending = cuda_emulator::fault_pending();
        cuda_emulator::clear_faults();
        match result {
            Err(error) => assert_typed(&error),
            Ok(layer) => assert_eq!((is_pending, layer.channels()), (true, shape().c()), "call {k} was not noticed"),
        }
        if is_pending {
            println!("{} calls", k - 1);
            layer(&Cuda::new(number).unwrap())
                .and_then(|mut layer| layer.reserve::<f32>(shape(), Epilogue::IDENTITY))
                .unwrap();
            return;
        }
    }
    panic!("no end of calls");
}

#[test]
fn a_kernel_that_cannot_be_made_ready_is_named_and_leaves_no_error_behind() {
    // Alone, since a context that another test holds is made ready once.
    let _alone = alone();
    let number = number_of("h100");
    let last_error = || {
        unsafe extern "C" {
            fn cudaGetLastError() -> i32;
        }
        // SAFETY: the runtime's own function, which takes nothing and gives a number.
        unsafe { cudaGetLastError() }
    };
    let (mut calls, mut held, mut queries) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for k in 1.. {
        cuda_emulator::fail_call(k, UNKNOWN);
        let result = Cuda::new(number);
        let is_pending = cuda_emulator::fault_pending();
        cuda_emulator::clear_faults();
        assert_eq!(last_error(), 0, "call {k}");
        if is_pending {
            break;
        }
        match result.unwrap_err() {
            Error::Prepare { kernel, call, code, .. } => {
                assert_eq!(code, UNKNOWN as u32);
                let name = kernel.split(" (").next().unwrap().to_owned();
                assert!(!name.is_empty(), "{call}");
                if call.contains("Carveout") {
                    held.insert(name);
                } else if call == "cudaOccupancyMaxActiveClusters" {
                    queries.push(k);
                }
                calls.insert(call);
            }
            error => assert_typed(&error),
        }
    }
    let wanted = [
        "cudaFuncGetAttributes",
        "cudaFuncSetAttribute(MaxDynamicSharedMemorySize)",
        "cudaFuncSetAttribute(NonPortableClusterSizeAllowed)",
        "cudaFuncSetAttribute(PreferredSharedMemoryCarveout)",
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor",
        "cudaOccupancyMaxActiveClusters",
    ];
    assert_eq!(calls.iter().map(String::as_str).collect::<Vec<_>>(), wanted);
    assert_eq!(held.iter().map(String::as_str).collect::<Vec<_>>(), ["backward_fused", "train_fused"]);

    // A size that the device does not have is no failure of the query, unless every device of its kind has it.
    const INVALID_CLUSTER_SIZE: i32 = 912;
    let without = |query: usize| {
        cuda_emulator::fail_call(queries[query], INVALID_CLUSTER_SIZE);
        let result = Cuda::new(number);
        cuda_emulator::clear_faults();
        assert_eq!(last_error(), 0);
        result
    };
    for (query, wanted) in [2, 4, 8].into_iter().enumerate() {
        assert!(matches!(without(query), Err(Error::Clusters { size, actual: 0, .. }) if size == wanted), "{wanted}");
    }
    assert_eq!(without(3).unwrap().limits().clusters[0][3], 0);
    assert_ne!(Cuda::new(number).unwrap().limits().clusters[0][3], 0);
}

/// The launch that loses the device is named with strategy and plan, and nothing runs behind it, under no strategy: the fault
/// strikes once, so that whatever ran would hold.
#[test]
fn a_lost_device_is_named_and_nothing_runs_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let journal = Journal::new(Instant::now()).into_file(&path).unwrap();
    let backends = STRATEGIES.map(|strategy| backend(false).with_strategy(strategy));
    let shape = Shape::new(&[19, 33], Layout::ChannelsLast).unwrap();
    let cases = Group { shape, dtype: Dtype::F16, input: Input::Normal }.cases();

    let begin = cuda_emulator::calls();
    Cuda::check_all(&backends, &cases[..2], 0, &Journal::new(Instant::now())).unwrap();
    // The fault comes in the second case, under the third strategy or so.
    let calls = cuda_emulator::calls() - begin;
    cuda_emulator::fail_call(calls * 7 / 10, 719);
    let reports = Cuda::check_all(&backends, &cases[..6], 0, &journal).unwrap();
    cuda_emulator::clear_faults();
    assert_eq!(reports.len(), 6 * STRATEGIES.len());

    let at = reports.iter().position(Report::is_lost).unwrap();
    assert!(at > STRATEGIES.len(), "{at}");
    assert!(reports[..at].iter().all(|report| report.result.is_ok() || report.is_left_out()), "{reports:?}");
    assert!(reports[at + 1..].iter().all(|report| report.is_unreached() || report.is_left_out()), "{reports:?}");
    let (lost, report) = (journal.lost().unwrap(), &reports[at]);
    let plan = report.plan.unwrap().to_string();
    assert_eq!((&*lost.strategy, &*lost.plan, &*lost.what), (report.strategy, &*plan, &*report.case.to_string()));
    assert!(plan.contains(" threads=") && lost.why.contains("719 (launch failed)"), "{lost:?}");

    let text = std::fs::read_to_string(&path).unwrap();
    let last: Vec<&str> = text.lines().rev().take(3).map(|line| line.split_once(' ').unwrap().1).collect();
    let launch = format!("{} {plan}: {}", report.strategy, report.case);
    assert_eq!(last, [format!("end {launch}"), format!("lost {launch}: {}", lost.why), format!("begin {launch}")]);
    let ran = reports[..=at].iter().filter(|report| !report.is_left_out()).count();
    assert_eq!(text.matches(" begin ").count(), ran);
}

/// A forward pass that loses the device is not taken for the backward pass behind it.
#[test]
fn a_lost_forward_pass_is_told_from_the_backward_one() {
    let cuda = backend(false);
    let shape = Shape::new(&[19, 33], Layout::ChannelsLast).unwrap();
    let group = Group { shape, dtype: Dtype::F16, input: Input::Normal };
    let case = group.cases().into_iter().find(|case| case.op == Op::Backward(StatisticsKind::Batch)).unwrap();
    let inputs = Inputs::<f16>::new(&group);
    let mut told = Vec::new();
    for k in 1.. {
        cuda_emulator::fail_call(k, 700);
        match run(&cuda, &case, &inputs, &inputs.dy, 0) {
            Ok(_) => break,
            Err(failure) => told.push((failure.is_device_lost(), matches!(failure, Failure::Forward(_)))),
        }
    }
    cuda_emulator::clear_faults();
    // Buffers first, then the forward pass to the end, then the backward one.
    let first = told.iter().position(|&(_, forward)| forward).unwrap();
    let last = told.iter().rposition(|&(_, forward)| forward).unwrap();
    assert!(told[first..=last].iter().all(|&(_, forward)| forward), "{told:?}");
    assert!(0 < first && first < last && last + 1 < told.len(), "{told:?}");
    assert!(told.iter().filter(|(lost, _)| *lost).count() * 10 > told.len() * 9, "{told:?}");
}

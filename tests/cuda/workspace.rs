//! Scratch memory: how much an operation needs, whose it may be.

use batchnorm::args::MomentsArgs;
use batchnorm::{Backend, Compute, Cpu, Cuda, CudaWorkspace, Dtype, Epilogue, Error, Op, Problem, Shape, Strategy};
use cudarc::driver::DevicePtr;

use crate::device::{cuda as device, has};
use crate::step::values;

/// Moments of `x` with `bytes` of someone else's memory, which the emulated device guards at both ends.
fn moments(cuda: &Cuda, shape: Shape, x: &[f32], bytes: usize, launches: usize) -> batchnorm::Result<Vec<f32>> {
    let (x, scratch) = (cuda.upload(x)?, cuda.stream().alloc_zeros::<u8>(bytes).unwrap());
    let address = scratch.device_ptr(cuda.stream()).0;
    // SAFETY: all of `scratch`, zeros, which outlives the workspace and which nothing else uses.
    let mut workspace = unsafe { CudaWorkspace::from_raw(address, bytes, cuda.stream()) };
    assert_eq!(workspace.bytes(), bytes);
    let (mut mean, mut var) = (cuda.upload(&vec![0.0f32; shape.c()])?, cuda.upload(&vec![0.0f32; shape.c()])?);
    for _ in 0..launches {
        let workspace = &mut workspace;
        cuda.moments(MomentsArgs::<Cuda, f32> { shape, x: &x, mean: &mut mean, var: &mut var, workspace })?;
    }
    Ok([cuda.download(&mean)?, cuda.download(&var)?].concat())
}

#[test]
fn so_many_bytes_are_needed_and_fewer_are_refused() {
    let Some(cuda) = device() else { return };
    for shape in [Shape::nchw(6, 5, 24, 24).unwrap(), Shape::nhwc(6, 7, 9, 5).unwrap(), Shape::nc(40, 300).unwrap()] {
        let x = values(shape, 3);
        let (mut mean, mut var) = (vec![0.0; shape.c()], vec![0.0; shape.c()]);
        let (of_mean, of_var) = (&mut mean[..], &mut var[..]);
        let args = MomentsArgs::<Cpu, f32> { shape, x: &x, mean: of_mean, var: of_var, workspace: &mut () };
        Cpu.moments(args).unwrap();
        let want = [mean, var].concat();
        let wanted = [None, Some(Strategy::Grid), Some(Strategy::TwoRead)];
        for strategy in wanted.into_iter().filter(|&strategy| has(&cuda.limits(), strategy)) {
            let cuda = cuda.clone().with_strategy(strategy);
            let problem = Problem::new(Op::Moments, shape, Dtype::F32, Epilogue::IDENTITY, 0.0, None).unwrap();
            let needed = cuda.workspace_bytes(&problem).unwrap();
            assert!(needed <= cuda.workspace(&[problem]).unwrap().bytes(), "{shape:?} {strategy:?}");
            let got = moments(&cuda, shape, &x, needed, 3).unwrap();
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                assert!((got - want).abs() <= 1e-5, "{shape:?} {strategy:?}: value {i} is {got}, expected {want}");
            }
            // The plan for data of this alignment may need less than that for any.
            let error = moments(&cuda, shape, &x, 1, 1).unwrap_err();
            let is_named = matches!(error, Error::Workspace { needed: n, actual: 1 } if n > 1 && n <= needed);
            assert!(is_named, "{shape:?} {strategy:?}: {error}, of {needed}");
        }
    }
}

#[test]
fn nothing_is_needed_for_nothing() {
    let Some(cuda) = device() else { return };
    let shape = Shape::nchw(0, 6, 8, 8).unwrap();
    let problem = Problem::new(Op::Moments, shape, Dtype::F32, Epilogue::IDENTITY, 0.0, None).unwrap();
    assert_eq!(cuda.workspace_bytes(&problem).unwrap(), 0);
    // SAFETY: of no bytes.
    let workspace = unsafe { CudaWorkspace::from_raw(0, 0, cuda.stream()) };
    assert_eq!(workspace.bytes(), 0);
}

#[test]
fn a_strategy_that_holds_no_plan_is_refused() {
    let Some(cuda) = device() else { return };
    let shape = Shape::nchw(4, 1, 256, 512).unwrap();
    let problem = Problem::new(Op::Train, shape, Dtype::F32, Epilogue::IDENTITY, 0.0, None).unwrap();
    let error = cuda.with_strategy(Some(Strategy::Block)).workspace_bytes(&problem).unwrap_err();
    assert!(matches!(error, Error::Strategy { strategy: Strategy::Block, .. }), "{error}");
}

#[test]
fn a_thread_keeps_its_own_for_each_stream() {
    let Some(cuda) = device().map(|cuda| cuda.with_strategy(Some(Strategy::TwoRead))) else { return };
    let of = |c| {
        Problem::new(Op::Moments, Shape::nhwc(64, 64, 64, c).unwrap(), Dtype::F32, Epilogue::IDENTITY, 0.0, None)
            .unwrap()
    };
    let (small, large) = (of(1), of(512));
    let bytes = |cuda: &Cuda, problem| cuda.with_thread_workspace(problem, |workspace| Ok(workspace.bytes())).unwrap();
    let [own, most] = [&small, &large].map(|problem| cuda.workspace(&[*problem]).unwrap().bytes());
    let needed = cuda.workspace_bytes(&large).unwrap();
    assert!(own < needed && needed <= most, "{own} {needed} {most}");
    assert_eq!([bytes(&cuda, &small), bytes(&cuda, &large), bytes(&cuda, &small)], [own, most, most]);
    let elsewhere = Cuda::on(cuda.stream().context().new_stream().unwrap()).unwrap();
    assert_eq!([bytes(&elsewhere, &small), bytes(&cuda, &small)], [own, most]);
    assert_eq!(std::thread::scope(|scope| scope.spawn(|| bytes(&cuda, &small)).join().unwrap()), own);
    let refused = cuda.with_thread_workspace(&small, |_| Err::<(), _>(Error::NotTracking));
    assert!(matches!(refused, Err(Error::NotTracking)));
    assert_eq!(bytes(&cuda, &small), own, "kept after an error");
}

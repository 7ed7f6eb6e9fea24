//! Scratch memory: how much an operation needs, whose it may be.

use std::panic::resume_unwind;
use std::thread;

use batchnorm::op::Moments;
use batchnorm::op::Problem;
use batchnorm::{Backend, Compute, Cpu, Cuda, CudaWorkspace, Dtype, Epilogue, Error, Op, Shape, Strategy};
use cudarc::driver::{CudaSlice, DevicePtr};

use crate::device::{EMULATED, cuda as device, has};
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
        cuda.run_in(&mut workspace, Moments::<Cuda, f32> { shape, x: &x, mean: &mut mean, var: &mut var })?;
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
        Cpu.run(Moments::<Cpu, f32> { shape, x: &x, mean: of_mean, var: of_var }).unwrap();
        let want = [mean, var].concat();
        let wanted = [None, Some(Strategy::Grid), Some(Strategy::TwoPass)];
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
            let is_named = matches!(error, Error::Workspace { needed: n, actual: 1, .. } if n > 1 && n <= needed);
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

/// The tensors of a computation of moments.
struct Moved {
    shape: Shape,
    x: CudaSlice<f32>,
    mean: CudaSlice<f32>,
    var: CudaSlice<f32>,
}

impl Moved {
    fn new(cuda: &Cuda, shape: Shape) -> Self {
        let channels = || cuda.upload(&vec![0.0f32; shape.c()]).unwrap();
        Self { shape, x: cuda.upload(&values(shape, 3)).unwrap(), mean: channels(), var: channels() }
    }

    fn problem(&self) -> Problem {
        Problem::new(Op::Moments, self.shape, Dtype::F32, Epilogue::IDENTITY, 0.0, None).unwrap()
    }

    /// Computes the moments with the calling thread's scratch memory.
    fn run(&mut self, cuda: &Cuda) -> batchnorm::Result<()> {
        let Self { shape, x, mean, var } = self;
        cuda.run(Moments::<Cuda, f32> { shape: *shape, x, mean, var })
    }

    /// Computes them and compares them with those of the CPU.
    fn check(&mut self, cuda: &Cuda) {
        self.run(cuda).unwrap();
        let (x, shape) = (values(self.shape, 3), self.shape);
        let (mut mean, mut var) = (vec![0.0f32; shape.c()], vec![0.0f32; shape.c()]);
        Cpu.run(Moments::<Cpu, f32> { shape, x: &x, mean: &mut mean, var: &mut var }).unwrap();
        for (got, want) in [(&self.mean, mean), (&self.var, var)] {
            for (c, (got, want)) in cuda.download(got).unwrap().iter().zip(&want).enumerate() {
                assert!((got - want).abs() <= 1e-5 * want.abs().max(1.0), "{shape}: channel {c}: {got} for {want}");
            }
        }
    }
}

/// The bytes of the calling thread on the device; 0 where nobody counts them.
fn live() -> usize {
    #[cfg(feature = "emulate")]
    return cuda_emulator::live().bytes.try_into().unwrap();
    #[cfg(not(feature = "emulate"))]
    0
}

/// Scratch memory that an operation takes of its thread, by what the thread holds more or less then.
#[test]
fn a_thread_keeps_its_own_for_each_stream() {
    // A thread that has none yet.
    thread::scope(|scope| scope.spawn(check_own).join()).unwrap_or_else(|panic| resume_unwind(panic));
}

fn check_own() {
    let Some(cuda) = device().map(|cuda| cuda.with_strategy(Some(Strategy::TwoPass))) else { return };
    let cuda: &Cuda = &cuda;
    let of = |c| Moved::new(cuda, Shape::nhwc(64, 8, 8, c).unwrap());
    let (mut small, mut large) = (of(1), of(128));
    let [own, most] = [&small, &large].map(|moved| cuda.workspace(&[moved.problem()]).unwrap().bytes());
    let needed = cuda.workspace_bytes(&large.problem()).unwrap();
    assert!(own < needed && needed <= most, "{own} {needed} {most}");
    let before = live();
    let holds = |bytes: usize, why: &str| assert!(!EMULATED || live() - before == bytes, "{why}: {}", live() - before);

    small.check(cuda);
    holds(own, "the first");
    large.check(cuda);
    holds(most, "more than there was");
    small.check(cuda);
    holds(most, "less than there is");
    let elsewhere = Cuda::on(cuda.stream().context().new_stream().unwrap()).unwrap();
    let elsewhere = elsewhere.with_strategy(cuda.strategy());
    small.check(&elsewhere);
    holds(own + most, "another stream");
    small.check(cuda);
    holds(own + most, "the first stream again");
    let on_another_thread = || {
        let before = live();
        small.check(cuda);
        live() - before
    };
    let held = thread::scope(|scope| scope.spawn(on_another_thread).join().unwrap());
    assert!(!EMULATED || held == own, "another thread: {held}");
    holds(own + most, "after another thread");

    // A refusal takes none.
    let short = &mut cuda.upload(&[0.0f32; 3]).unwrap();
    let before = live();
    let refused = cuda.run(Moments::<Cuda, f32> { shape: small.shape, x: &small.x, mean: short, var: &mut small.var });
    assert!(matches!(refused, Err(Error::Length { tensor: "mean", expected: 1, actual: 3, .. })));
    assert_eq!(live(), before, "a refusal");
}

/// A workspace is given up after an error: the launch may have left it in any state.
#[cfg(feature = "emulate")]
#[test]
fn a_thread_gives_up_what_met_an_error() {
    let Some(cuda) = device().map(|cuda| cuda.with_strategy(Some(Strategy::TwoPass))) else { return };
    // A stream of its own, so that nothing is kept yet.
    let cuda = Cuda::on(cuda.stream().context().new_stream().unwrap()).unwrap().with_strategy(cuda.strategy());
    let of = |c| Moved::new(&cuda, Shape::nhwc(64, 8, 8, c).unwrap());
    let (mut small, mut large) = (of(1), of(128));
    let [own, most] = [&small, &large].map(|moved| cuda.workspace(&[moved.problem()]).unwrap().bytes());
    let (before, mut given_up) = (live(), 0);
    for k in 1.. {
        large.check(&cuda);
        assert_eq!(live() - before, most, "call {k}");
        cuda_emulator::fail_call(k, 999);
        let result = small.run(&cuda);
        let is_pending = cuda_emulator::fault_pending();
        cuda_emulator::clear_faults();
        if is_pending {
            result.unwrap();
            break;
        }
        let error = result.unwrap_err();
        let held = live() - before;
        assert!(held == 0 || held == most && !matches!(error, Error::Launch { .. }), "call {k}: {error}, {held}");
        given_up += usize::from(held == 0);
        small.check(&cuda);
        assert_eq!(live() - before, if held == 0 { own } else { most }, "call {k}: {error}");
    }
    assert!(given_up > 0);
}

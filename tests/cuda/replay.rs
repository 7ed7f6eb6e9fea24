//! Small launches of every kernel: each instance under each kind of plan, on all kinds of data, and the probes. With
//!
//!     CUDA_EMULATOR_DUMP=folder cargo test --features emulate --test cuda replay:: -- --test-threads 1
//!
//! the emulated device writes them to files (emulator/README.md), for who executes the same kernels by other means. Each test
//! launches from one thread, the same on every run. Where nothing is written few of the cases run: the table is for the others.

mod plans;
mod probes;

use batchnorm::op::Moments;
use batchnorm::plan::Access;
use batchnorm::verify::oracle::Oracle;
use batchnorm::verify::{Case, Group, Input, Inputs, Verified, compare, run};
use batchnorm::{
    Backend, Compute, Cuda, Dtype, Element, Epilogue, Layout, Momentum, NonFinite, Op, RunningVar, Shape,
    StatisticsKind, Strategy, Tracking,
};
use half::{bf16, f16};

use crate::device::{EMULATED, cuda, has, strategies};
use crate::journal::{assert_none, check};
use crate::unneeded;
use plans::{ACCESSES, PROMISES, Promise, Shapes};

/// Whether every case runs, or one in so many.
fn every() -> usize {
    let is_dumped = std::env::var_os("CUDA_EMULATOR_DUMP").is_some_and(|folder| !folder.is_empty());
    if is_dumped || !EMULATED { 1 } else { 29 }
}

/// The cases of a test, which take their turns in what is not asked for: parameters, tracking, epilogues.
struct Cases {
    every: usize,
    turn: usize,
    failures: Vec<String>,
}

impl Cases {
    fn new() -> Self {
        Self { every: every(), turn: 0, failures: Vec::new() }
    }

    /// The next of these.
    fn next_of<T: Copy>(&self, all: &[T]) -> T {
        all[self.turn % all.len()]
    }

    fn case(&self, group: Group, op: Op, epilogue: Epilogue<()>) -> Case {
        let variance = if group.shape.m() == 1 { RunningVar::Biased } else { RunningVar::Unbiased };
        let usual = Tracking { variance, ..Tracking::default() };
        let trackings = [
            Some(usual),
            None,
            Some(Tracking { momentum: Momentum::Cumulative, ..usual }),
            Some(Tracking { variance: RunningVar::Biased, ..usual }),
            Some(Tracking { non_finite: NonFinite::Skip, ..usual }),
            Some(Tracking { momentum: Momentum::Ema(1.0), ..usual }),
            Some(Tracking { momentum: Momentum::Ema(0.0), ..usual }),
        ];
        // The period differs from that of the epilogues, so that each tracking meets every epilogue.
        let tracking = trackings[(self.turn + self.turn / trackings.len()) % trackings.len()].filter(|_| op.tracks());
        let epilogue = if op.takes_epilogue() { epilogue } else { Epilogue::IDENTITY };
        // The period differs from any number of operations.
        let affine = op.takes_epilogue() && !(self.turn + self.turn / 5).is_multiple_of(5);
        Case { group, op, epilogue, affine, tracking }
    }

    /// Runs the case, where its turn has come; its plan must be as promised. Nothing where the strategy has no room for it.
    fn run(&mut self, cuda: &Cuda, case: Case, start: usize, promise: Option<&Promise>) -> bool {
        self.turn += 1;
        if !self.turn.is_multiple_of(self.every) {
            return false;
        }
        let reports = check(std::slice::from_ref(cuda), &[case], start);
        let [report] = &reports[..] else { panic!("{} reports", reports.len()) };
        if report.is_left_out() {
            assert!(promise.is_none(), "{report}");
            return false;
        }
        let plan = report.plan.unwrap();
        assert!(promise.is_none_or(|promise| (promise.holds)(&plan)), "{}: {report}", promise.unwrap().name);
        if report.result.is_err() {
            self.failures.push(report.to_string());
        }
        true
    }

    /// Every promise, with every operation and epilogue, for instances of a dtype and access.
    fn run_promises(&mut self, cuda: &Cuda, shapes: &Shapes, promises: &[Promise], dtype: Dtype, access: Access) {
        for promise in promises.iter().filter(|promise| has(&cuda.limits(), promise.strategy)) {
            let cuda = cuda.clone().with_strategy(promise.strategy);
            for op in Op::ALL.iter().copied().filter(|op| (promise.of)(*op)) {
                for epilogue in op.epilogues() {
                    let case = |shape| self.case(Group { shape, dtype, input: Input::Normal }, op, *epilogue);
                    let Some(case) = shapes.find(dtype, access, self.turn, |shape| {
                        let case = case(shape);
                        let plan = cuda.plan_of(&case, 0).ok().flatten()?;
                        (promise.holds)(&plan).then_some(case)
                    }) else {
                        let what = format!("{} for {op:?} {} {dtype} {access:?}", promise.name, epilogue.name());
                        // The shapes are not made for every GPU.
                        let is_expected = EMULATED && promise.fits(&cuda.limits());
                        assert!(!is_expected, "no {what} on {}", cuda.name().unwrap());
                        println!("no {what}");
                        continue;
                    };
                    self.run(&cuda, case, 0, Some(promise));
                }
            }
        }
    }
}

/// Every instance of every operation, under every kind of plan.
#[test]
fn every_instance_under_every_plan() {
    let Some(cuda) = cuda() else { return };
    let (shapes, mut cases) = (Shapes::new(&cuda), Cases::new());
    for &dtype in Dtype::ON_CUDA {
        for access in ACCESSES {
            cases.run_promises(&cuda, &shapes, &PROMISES, dtype, access);
        }
    }
    assert_none(&cases.failures);
}

/// The launch behind which the exchanges of grids are counted anew, and those around it.
#[test]
fn exchanges_that_begin_again() {
    crate::exchange::launch();
}

/// Clusters of sixteen, and grids of more than a hundred CTAs, in one team and in many.
#[cfg(feature = "emulate")]
#[test]
fn plans_of_a_whole_gpu() {
    if cuda().is_none() {
        return;
    }
    let cuda = crate::device::emulated("h100");
    let (shapes, mut cases) = (Shapes::new(&cuda), Cases::new());
    for (dtype, access) in [
        (Dtype::F32, Access::Contiguous),
        (Dtype::F16, Access::Strided),
        (Dtype::Bf16, Access::ScalarContiguous),
        (Dtype::F16, Access::ScalarStrided),
    ] {
        cases.run_promises(&cuda, &shapes, &plans::OF_A_WHOLE_GPU, dtype, access);
    }
    cases.run_promises(&cuda, &shapes, &[plans::WHOLE_GPU], Dtype::Bf16, Access::ScalarContiguous);
    cases.run_promises(&cuda, &shapes, &[plans::WHOLE_GPU], Dtype::F32, Access::Contiguous);
    assert_none(&cases.failures);
}

/// Devices without clusters, in part.
#[cfg(feature = "emulate")]
#[test]
fn plans_of_other_devices() {
    if cuda().is_none() {
        return;
    }
    let mut cases = Cases::new();
    for name in ["a100like", "ada99"] {
        let cuda = crate::device::emulated(name);
        let shapes = Shapes::new(&cuda);
        for &dtype in Dtype::ON_CUDA {
            for access in ACCESSES {
                for strategy in [Strategy::Block, Strategy::Grid, Strategy::TwoPass] {
                    let cuda = cuda.clone().with_strategy(Some(strategy));
                    for op in [Op::Train, Op::Backward(StatisticsKind::Batch)] {
                        let epilogue = Epilogue::ALL[cases.turn / 2 % Epilogue::ALL.len()];
                        let any = |shape| Some(cases.case(Group { shape, dtype, input: Input::Normal }, op, epilogue));
                        let case = shapes.find(dtype, access, cases.turn, any).unwrap();
                        cases.run(&cuda, case, 0, None);
                    }
                }
            }
        }
    }
    assert_none(&cases.failures);
}

/// NaN, infinities, subnormal and large values, one value a channel.
#[test]
fn every_kind_of_data() {
    let Some(cuda) = cuda() else { return };
    let (shapes, mut cases) = (Shapes::new(&cuda), Cases::new());
    let strategies: Vec<_> = Strategy::ALL.iter().copied().filter(|&s| has(&cuda.limits(), Some(s))).collect();
    for &dtype in Dtype::ON_CUDA {
        for access in ACCESSES {
            for input in Input::SPECIAL.into_iter().filter(|input| input.suits(dtype)) {
                for &op in Op::ALL {
                    if input == Input::Largest && op.takes_epilogue() {
                        continue;
                    }
                    let epilogue = cases.next_of(Epilogue::ALL);
                    let any = |shape| Some(cases.case(Group { shape, dtype, input }, op, epilogue));
                    let case = shapes.find(dtype, access, cases.turn, any).unwrap();
                    let strategy = strategies[(cases.turn / Op::ALL.len() + cases.turn) % strategies.len()];
                    cases.run(&cuda.clone().with_strategy(Some(strategy)), case, 0, None);
                }
            }
        }
        for dims in [&[1, 16][..], &[1, 5], &[1, 3, 1]] {
            let shape = Shape::new(dims, Layout::ChannelsFirst).unwrap();
            for &op in Op::ALL {
                let case = cases.case(Group { shape, dtype, input: Input::Normal }, op, cases.next_of(Epilogue::ALL));
                let strategy = cases.next_of(&strategies);
                cases.run(&cuda.clone().with_strategy(Some(strategy)), case, 0, None);
            }
        }
    }
    assert_none(&cases.failures);
}

/// The case about a mean so far off that the steps of its dtype are 1 there, as is sigma: what its rounding took away shows even in dx.
fn as_far_as_it_goes<T: Element>(cuda: &Cuda, case: &Case, mean: f64)
where
    Cuda: Compute<T>,
{
    assert_eq!(case.group.input, Input::Mean20);
    let mut inputs = Inputs::<T>::new(&case.group);
    for x in &mut inputs.x {
        *x = T::from_f64(mean + (x.to_f64() - 20.0).round());
    }
    let oracle = Oracle::new(&case.group, &inputs, Cuda::arithmetic(T::DTYPE));
    let dy = oracle.dy_of(case);
    let outputs = run(cuda, case, &inputs, &dy, 0).unwrap();
    let result = compare(case, &oracle.expected(case, &dy), &outputs);
    assert!(result.is_ok(), "{case}, mean {mean}: {}", result.unwrap_err());
}

/// Means so far from zero that `v`, found from x again, needs what their rounding took away: two reads read x a third time for it.
#[test]
fn far_means_with_activations() {
    let Some(cuda) = cuda() else { return };
    let (shapes, mut cases) = (Shapes::new(&cuda), Cases::new());
    // One for each of the kernels' loops: a derivative of 0 or 1, and of any value.
    let epilogues = [Epilogue::RELU, Epilogue::SILU];
    for &dtype in Dtype::ON_CUDA {
        for access in ACCESSES {
            let strategies = Strategy::ALL.iter().copied().filter(|&strategy| has(&cuda.limits(), Some(strategy)));
            for (strategy, epilogue) in strategies.flat_map(|strategy| epilogues.map(|epilogue| (strategy, epilogue))) {
                let cuda = cuda.clone().with_strategy(Some(strategy));
                let input = if dtype == Dtype::F32 { Input::Mean1e4 } else { Input::Mean20 };
                let any = |shape: Shape| {
                    let case = cases.case(Group { shape, dtype, input }, Op::Backward(StatisticsKind::Batch), epilogue);
                    let plan = cuda.plan_of(&case, 0).ok().flatten()?;
                    // Several CTAs then exchange twice.
                    (strategy == Strategy::Block || plans::busy(&plan) > 1).then_some(case)
                };
                let case = shapes.find(dtype, access, cases.turn, any).unwrap();
                #[cfg(feature = "emulate")]
                cuda_emulator::reset_traffic();
                let ran = cases.run(&cuda, case, 0, None);
                #[cfg(feature = "emulate")]
                if ran && strategy == Strategy::TwoPass {
                    let far = cuda_emulator::traffic().loaded;
                    let near = Case { group: Group { input: Input::Normal, ..case.group }, ..case };
                    cuda_emulator::reset_traffic();
                    check(std::slice::from_ref(&cuda), &[near], 0);
                    let (near, x) = (cuda_emulator::traffic().loaded, case.group.shape.len() * dtype.bytes() as usize);
                    assert!(far >= near + x as u64, "{case}: {far} bytes loaded, {near} with means near zero");
                }
                match dtype {
                    Dtype::F16 if ran => as_far_as_it_goes::<f16>(&cuda, &case, 1999.0),
                    Dtype::Bf16 if ran => as_far_as_it_goes::<bf16>(&cuda, &case, 249.0),
                    Dtype::F32 | Dtype::F16 | Dtype::Bf16 | Dtype::F64 => {}
                }
            }
        }
    }
    assert_none(&cases.failures);
}

/// Any shape from any element on, planned by any strategy.
#[test]
fn any_shape() {
    let Some(cuda) = cuda() else { return };
    let mut cases = Cases::new();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut ran = 0;
    for _ in 0..240 {
        let (n, c) = (rng.usize(1..20), rng.usize(1..70));
        let s = rng.usize(1..=(3000 / (n * c)).clamp(1, 200));
        let (dims, layout) = match rng.bool() {
            true => ([n, c, s], Layout::ChannelsFirst),
            false => ([n, s, c], Layout::ChannelsLast),
        };
        let shape = Shape::new(&dims, layout).unwrap();
        let group = Group { shape, dtype: *rng.choice(Dtype::ON_CUDA).unwrap(), input: Input::Normal };
        let op = *rng.choice(Op::ALL).unwrap();
        let case = cases.case(group, op, *rng.choice(Epilogue::ALL).unwrap());
        let strategy = rng.choice(crate::device::STRATEGIES).unwrap();
        let start = if rng.bool() { 0 } else { rng.usize(..9) };
        ran += usize::from(cases.run(&cuda.clone().with_strategy(strategy), case, start, None));
    }
    assert!(ran > 150 / cases.every, "{ran}");
    assert_none(&cases.failures);
}

/// The smallest tensors of which a grid keeps a part in shared memory and reads the others' values again, from the end; and the
/// smallest whose tiles a team takes one after the other, so that it uses the partials' slots of the first again.
#[test]
fn tiles_held_in_part_and_in_turn() {
    let Some(cuda) = cuda().filter(|cuda| cuda.limits().cooperative) else { return };
    let mut cases = Cases::new();
    cases.every = cases.every.min(5);
    let (first, last) = (Layout::ChannelsFirst, Layout::ChannelsLast);
    let (part, turn) = (&plans::HELD_IN_PART, &plans::IN_TURN);
    // `Dims` makes the dims for a number of values a channel; the last is the number of multiprocessors that plans may use, so
    // that they have less shared memory than any device.
    type Dims = fn(usize) -> [usize; 3];
    let problems: [(&Promise, Dtype, Layout, Dims, u32); 6] = [
        (part, Dtype::F32, first, |m| [1, 1, m], 1),
        (part, Dtype::F16, last, |m| [m / 8, 8, 8], 1),
        (part, Dtype::Bf16, first, |m| [1, 1, m + 1], 1),
        (turn, Dtype::F32, first, |m| [1, 3, m], 1),
        (turn, Dtype::Bf16, first, |m| [1, 3, m + 1], 1),
        (turn, Dtype::F32, first, |m| [m / 49, 12, 49], 2),
    ];
    for (promise, dtype, layout, dims, sms) in problems {
        let cuda = (*cuda).clone().with_max_sms(sms).with_strategy(Some(Strategy::Grid));
        let backward = Op::Backward(StatisticsKind::Batch);
        for (op, epilogue) in [(Op::Train, Epilogue::ADD_RELU), (backward, Epilogue::RELU), (backward, Epilogue::SILU)]
        {
            let case = |m| {
                let shape = Shape::new(&dims(m), layout).unwrap();
                cases.case(Group { shape, dtype, input: Input::Normal }, op, epilogue)
            };
            let fits = |case: &Case| {
                let plan = cuda.plan_of(case, 0).ok().flatten();
                plan.is_some_and(|plan| (promise.holds)(&plan))
            };
            let sizes = (0..12).flat_map(|i| [784 << i, 1176 << i]);
            let case = sizes.map(case).find(fits);
            let case = case.unwrap_or_else(|| panic!("no {} in {op:?} {dtype} {layout:?}", promise.name));
            cases.run(&cuda, case, 0, Some(promise));
        }
    }
    assert_none(&cases.failures);
}

/// An update of parameters: of one CTA, and of several.
#[test]
fn gradients_that_nobody_needs() {
    let Some(cuda) = cuda() else { return };
    let shapes = [Shape::nchw(3, 5, 8, 8), Shape::nhwc(9, 4, 4, 24)].map(|shape| shape.unwrap());
    for strategy in strategies(&cuda) {
        unneeded::assert_unneeded_gradients_leave_the_others(&cuda.clone().with_strategy(strategy), &shapes);
    }
}

#[test]
fn an_update() {
    let Some(cuda) = cuda() else { return };
    for len in [5, 1300] {
        let (x, mut y) = (cuda.upload(&vec![0.5f32; len]).unwrap(), cuda.upload(&vec![2.0f32; len]).unwrap());
        cuda.axpy(-3.0, &x, &mut y).unwrap();
        assert_eq!(cuda.download(&y).unwrap(), vec![0.5; len]);
    }
}

/// A batch without a sample, whose statistics a kernel of its own writes.
#[test]
fn an_empty_batch() {
    let Some(cuda) = cuda() else { return };
    let shape = Shape::nchw(0, 300, 2, 2).unwrap();
    let x = cuda.upload::<f32>(&[]).unwrap();
    let [mut mean, mut var] = [(); 2].map(|()| cuda.upload(&vec![1.0f32; shape.c()]).unwrap());
    let moments = Moments::<Cuda, f32> { shape, x: &x, mean: &mut mean, var: &mut var };
    cuda.run_in(&mut cuda.workspace(&[]).unwrap(), moments).unwrap();
    assert!([mean, var].iter().all(|values| cuda.download(values).unwrap().iter().all(|value| value.is_nan())));
}

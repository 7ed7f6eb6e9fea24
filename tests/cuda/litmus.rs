//! Tests of what an emulated device cannot show: weak memory order between CTAs, memory beyond 32 bits of elements. On a GPU
//! these run in full; the emulated device runs fewer launches of those that it can.
//!
//! Each exchange between CTAs is tested by problems in whose plans several CTAs exchange, which [`plans`] looks for: with
//! the data of each launch other than that of the one before, a partial that is lost or left over changes bits.

pub(crate) mod plans;
pub(crate) mod work;

use batchnorm::bench::{Probe, Probes};
use batchnorm::op::Moments;
use batchnorm::op::Problem;
use batchnorm::plan::DeviceLimits;
use batchnorm::{Backend, BatchNorm, Compute, Cuda, Dtype, Element, Epilogue, Layout, Momentum, Op, Options};
use batchnorm::{Shape, Tracking, with_device_element};
use half::f16;

use crate::device::{EMULATED, cuda, strategies, untracked};
use crate::step::{Operation, Step, layer};
use crate::watchdog::in_time;
use plans::{ALL, ONE_CHANNEL, Planned, SEVERAL_CHANNELS};
use work::Turns;

/// Launches of each problem; the emulated device makes two rounds of those that differ.
const LAUNCHES: usize = 2000;
/// Launches of a round, whose results are kept on a GPU until they are compared.
const ROUND: usize = 250;

/// The devices to test: the first, and of the emulated ones that of a whole GPU too.
fn devices() -> Vec<Cuda> {
    let first = crate::device::open();
    #[cfg(feature = "emulate")]
    let whole = Some(crate::device::emulated("h100"));
    #[cfg(not(feature = "emulate"))]
    let whole = None;
    first.into_iter().chain(whole).collect()
}

/// Launches the problems in turn, on as many streams at once as asked, and compares every launch with the first of its
/// problem and data. A stream that copies keeps multiprocessors busy meanwhile.
fn check<T: Element<Param = f32>>(name: &str, problems: &[Planned], cuda: &Cuda, streams: usize, has_copies: bool)
where
    Cuda: Compute<T>,
{
    let context = untracked(cuda);
    let on_new_stream = || Cuda::on(context.new_stream().unwrap()).unwrap();
    let mut all: Vec<_> = (0..streams).map(|_| Turns::<T>::new(problems, &on_new_stream())).collect();
    let launches = all[0].round_len(if EMULATED { 0 } else { ROUND });
    all.iter_mut().for_each(|turns| turns.prepare(launches));
    let mut copies =
        has_copies.then(|| Probes::new(&on_new_stream(), if EMULATED { 1 << 12 } else { 64 << 20 }).unwrap());
    let rounds = if EMULATED { 2 } else { (LAUNCHES * problems.len()).div_ceil(launches) };
    let device = cuda.name().unwrap();
    println!("{device}: {name}: {rounds} rounds of {launches} launches of {LAUNCHES} a problem: {problems:?}");
    for round in 0..rounds {
        let what = format!("{name} on {device}, round {round} of {problems:?}");
        let label = what.clone();
        (all, copies) = in_time(&what, move || {
            for launch in 0..launches {
                // Some of the launches begin together with a copy, some in the middle of one.
                copies.iter_mut().filter(|_| launch % 3 == 0).for_each(|copies| copies.launch(Probe::Copy).unwrap());
                all.iter_mut().for_each(|turns| turns.enqueue(launch));
            }
            for turns in &mut all {
                turns.compare(launches).unwrap_or_else(|which| panic!("{which} has other bits: {label}"));
            }
            (all, copies)
        });
    }
    all.iter_mut().for_each(Turns::check_against_two_read);
}

fn check_any(name: &str, problem: Planned, cuda: &Cuda, streams: usize, has_copies: bool) {
    with_device_element!(
        problem.candidate.dtype(),
        T => check::<T>(name, &[problem], cuda, streams, has_copies),
        f64 => unreachable!("no kernel computes f64")
    );
}

/// Every test has a plan to run with on a real H100, whatever runs elsewhere.
#[test]
fn an_h100_has_a_plan_for_every_litmus_test() {
    let (_, h100) = DeviceLimits::KNOWN.iter().copied().find(|(name, _)| *name == "h100").unwrap();
    for litmus in ALL {
        let exchange = litmus.on_limits(&h100).unwrap_or_else(|| panic!("no plan with {}", litmus.name));
        println!("{}: {exchange:?}", litmus.name);
    }
    let teams = [ONE_CHANNEL, SEVERAL_CHANNELS].map(|litmus| litmus.on_limits(&h100).unwrap().team);
    assert_eq!(teams, [32, 9]);
}

/// The plans that are computed for an H100 are those that the emulated one runs.
#[cfg(feature = "emulate")]
#[test]
fn the_emulated_h100_has_the_limits_of_a_real_one() {
    let _shared = crate::device::shared();
    let (_, h100) = DeviceLimits::KNOWN.iter().copied().find(|(name, _)| *name == "h100").unwrap();
    assert_eq!(crate::device::emulated("h100").limits(), h100);
}

/// Every way to exchange, launch after launch over one workspace.
#[test]
fn every_exchange_gives_the_same_bits_again() {
    let Some(_cuda) = cuda() else { return };
    for litmus in ALL {
        let mut ran = 0;
        for cuda in devices() {
            let Some(problem) = litmus.on(&cuda) else { continue };
            check_any(litmus.name, problem, &cuda, 1, false);
            ran += 1;
        }
        assert!(ran > 0 || !EMULATED, "no emulated device runs {}", litmus.name);
    }
}

/// Two problems in turn over one workspace: teams of other sizes go on with the same counter.
#[test]
fn two_team_sizes_share_a_workspace() {
    let Some(_cuda) = cuda() else { return };
    for cuda in devices() {
        let (Some(one), Some(several)) = (ONE_CHANNEL.on(&cuda), SEVERAL_CHANNELS.on(&cuda)) else { continue };
        assert_ne!(one.exchange.team, several.exchange.team);
        check::<f32>("two team sizes in turn", &[one, several], &cuda, 1, false);
    }
}

/// Launches on two streams at once, each with a workspace of its own, while a third stream copies.
#[test]
fn exchanges_on_two_streams_beside_copies_give_the_same_bits() {
    let Some(cuda) = cuda() else { return };
    for litmus in ALL {
        if let Some(problem) = litmus.on(&cuda) {
            check_any(litmus.name, problem, &cuda, 2, true);
        }
    }
}

/// Every CTA of a launch reads the counter, and the last one to finish moves it. Over many launches with one workspace
/// every channel must have used the same count: with the same data in all channels, all statistics have the same bits.
#[test]
fn the_counter_is_one_for_all_ctas_over_many_launches() {
    let Some(cuda) = cuda() else { return };
    // Channels of one CTA each, and of several.
    let tiny = if EMULATED { (40, Shape::nchw(2, 24, 8, 8)) } else { (4000, Shape::nchw(2, 512, 8, 8)) };
    let shared = if EMULATED { (8, Shape::nchw(16, 3, 32, 32)) } else { (4000, Shape::nchw(16, 24, 32, 32)) };
    for (launches, shape) in [tiny, shared] {
        let shape = shape.unwrap();
        for strategy in strategies(&cuda) {
            check_counter(&cuda.clone().with_strategy(strategy), shape, launches);
        }
    }
}

fn check_counter(cuda: &Cuda, shape: Shape, launches: usize) {
    let (c, plane, strategy) = (shape.c(), shape.s(), cuda.strategy());
    let tracking = Some(Tracking { momentum: Momentum::Cumulative, ..Tracking::default() });
    let options = Options { tracking, ..Options::default() };
    let mut layer = BatchNorm::new(cuda.clone(), c, options).unwrap();
    layer.reserve::<f32>(shape, Epilogue::IDENTITY).unwrap();
    let mut saved = layer.saved(shape, Epilogue::IDENTITY).unwrap();
    let batches: Vec<_> = (0..4)
        .map(|batch| {
            let value = |i: usize| ((i / (plane * c) * plane + i % plane) * (batch + 3) % 29) as f32;
            cuda.upload(&(0..shape.len()).map(value).collect::<Vec<f32>>()).unwrap()
        })
        .collect();
    let mut y = cuda.upload(&vec![0.0f32; shape.len()]).unwrap();
    for launch in 0..launches {
        layer.train(shape, &batches[launch % 4], Epilogue::IDENTITY, &mut y, &mut saved).unwrap();
    }
    let running = layer.state_dict().unwrap().running.unwrap();
    assert_eq!(running.num_batches_tracked, launches as i64, "{strategy:?}");
    for values in [&running.mean, &running.var] {
        assert!(values.iter().all(|value| value.to_bits() == values[0].to_bits()), "{strategy:?} {values:?}");
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
    let alone = run(std::slice::from_ref(&*cuda));
    let streams = [0, 1].map(|_| Cuda::on(context.new_stream().unwrap()).unwrap());
    for both in run(&streams) {
        assert_eq!(both, alone[0]);
    }
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
        let problem = Problem::new(Op::Moments, shape, Dtype::F16, Epilogue::IDENTITY, 0.0, None).unwrap();
        let mut workspace = cuda.workspace(&[problem]).unwrap();
        let mut mean = cuda.upload(&vec![0.0f32; shape.c()]).unwrap();
        let mut var = cuda.upload(&vec![0.0f32; shape.c()]).unwrap();
        let moments = Moments::<Cuda, f16> { shape, x: &x, mean: &mut mean, var: &mut var };
        cuda.run_in(&mut workspace, moments).unwrap();
        let (mean, var) = (cuda.download(&mean).unwrap(), cuda.download(&var).unwrap());
        let m = shape.m() as f64;
        let (want_mean, want_var) = (1024.0 / m, 1024.0f64.powi(2) / m * (1.0 - 1.0 / m));
        let c = shape.c() - 1;
        assert!((f64::from(mean[c]) - want_mean).abs() <= 1e-5 * want_mean, "{shape}: {} not {want_mean}", mean[c]);
        assert!((f64::from(var[c]) - want_var).abs() <= 1e-5 * want_var, "{shape}: {} not {want_var}", var[c]);
        assert!(mean[..c].iter().chain(&var[..c]).all(|&value| value == 0.0), "{shape}");
    }
}

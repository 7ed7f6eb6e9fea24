//! CTAs that wait for each other must all be on the device: while other work holds multiprocessors a grid waits until they
//! are free, and then gives what it always gives. So do clusters.

#[cfg(feature = "emulate")]
use std::thread;
#[cfg(feature = "emulate")]
use std::time::{Duration, Instant};

#[cfg(not(feature = "emulate"))]
use batchnorm::bench::{Probe, Probes};
#[cfg(feature = "emulate")]
use batchnorm::op::Problem;
#[cfg(feature = "emulate")]
use batchnorm::plan::Plan;
#[cfg(feature = "emulate")]
use batchnorm::{Backend, Dtype, Epilogue, Op, Options, Shape};
use batchnorm::{BatchNorm, Cuda, Strategy};

use crate::device::{EMULATED, cuda, strategies, untracked};
use crate::step::{Operation, Step, layer};
use crate::watchdog::in_time;

/// The outputs of a training step by a strategy.
fn step(cuda: &Cuda, strategy: Option<Strategy>) -> Vec<f32> {
    let mut layer = layer(&cuda.clone().with_strategy(strategy)).unwrap();
    let mut step = Step::new(&layer).unwrap();
    step.run(&mut layer, Operation::Train).unwrap();
    step.run(&mut layer, Operation::Backward).unwrap();
    step.outputs(&layer).unwrap()
}

/// An emulated grid that fits only when the other kernel has gone waits for it, in the call that launches it: also where
/// some of its CTAs would fit.
#[cfg(feature = "emulate")]
#[test]
fn a_grid_waits_for_multiprocessors_that_another_kernel_holds() {
    let Some(cuda) = cuda().filter(|cuda| cuda.limits().cooperative) else { return };
    // Tiles of 256 KiB: each takes several CTAs, and all of them most of the device's shared memory.
    let shape = Shape::nchw(16, 2, 64, 64).unwrap();
    let train = move |held: Option<u32>| {
        let cuda = crate::device::cuda().unwrap().with_strategy(Some(Strategy::Grid));
        let mut layer = BatchNorm::new(cuda.clone(), shape.c(), Options::default()).unwrap();
        layer.reserve::<f32>(shape, Epilogue::IDENTITY).unwrap();
        let mut saved = layer.saved(shape, Epilogue::IDENTITY).unwrap();
        let x = cuda.upload(&crate::step::values(shape, 1)).unwrap();
        let mut y = cuda.upload(&vec![0.0f32; shape.len()]).unwrap();
        let release = held.map(|held| {
            let other = cuda_emulator::hold_sms(held);
            thread::spawn(move || {
                let begin = Instant::now();
                while !other.launch_waits() {
                    assert!(
                        begin.elapsed() < crate::watchdog::PATIENCE,
                        "beside {held} held multiprocessors the grid did not wait"
                    );
                    thread::sleep(Duration::from_millis(1));
                }
            })
        });
        layer.train(shape, &x, Epilogue::IDENTITY, &mut y, &mut saved).unwrap();
        release.into_iter().for_each(|release| release.join().unwrap());
        (cuda.download(&y).unwrap(), layer.state_dict().unwrap())
    };
    let problem = Problem::new(Op::Train, shape, Dtype::F32, Epilogue::IDENTITY, 1e-5, None).unwrap();
    let plan = Plan::new(&problem, &cuda.limits(), Some(Strategy::Grid)).unwrap();
    // CTAs on a multiprocessor, by shared memory and by registers: every emulated kernel is taken to need 64 a thread.
    let (t, limits) = (plan.tiling, cuda.limits());
    let resident = (limits.shared_per_sm / (t.shared_bytes + limits.shared_reserved)).min(1024 / t.threads);
    let waits = |&held: &u32| (limits.sms - held) * resident < t.teams * t.splits;
    let (half, most) = (limits.sms / 2, limits.sms - 1);
    let wanted = train(None);
    assert!(waits(&most), "{plan:?}");
    for held in [half, most, limits.sms].into_iter().filter(waits) {
        let got = in_time(&format!("a grid beside {held} held multiprocessors, {plan:?}"), move || train(Some(held)));
        assert_eq!(got, wanted, "{held} held");
    }
}

/// Two streams of a GPU, one of which copies without end while the other's grids and clusters want every SM.
#[cfg(not(feature = "emulate"))]
#[test]
fn grids_and_clusters_complete_beside_another_stream() {
    let Some(cuda) = cuda() else { return };
    for strategy in strategies(&cuda) {
        let wanted = step(&cuda, strategy);
        let context = untracked(&cuda);
        let got = in_time(&format!("a step beside copies, strategy {strategy:?}"), move || {
            let copying = Cuda::on(context.new_stream().unwrap()).unwrap();
            let ours = Cuda::on(context.new_stream().unwrap()).unwrap();
            let mut probes = Probes::new(&copying, 256 << 20).unwrap();
            (0..200).for_each(|_| probes.launch(Probe::Copy).unwrap());
            let got = step(&ours, strategy);
            copying.synchronize().unwrap();
            got
        });
        assert_eq!(got, wanted, "{strategy:?}");
    }
}

/// Very many launches on two streams at once, each with its own workspace, with events between them and without, which is
/// closer together: the bits stay the same.
#[test]
fn many_launches_in_a_row_give_the_same_bits() {
    let Some(cuda) = cuda() else { return };
    let rounds = if EMULATED { 10 } else { 2000 }; // each of two launches on each of two streams
    for strategy in strategies(&cuda) {
        let wanted = step(&cuda, strategy);
        for context in [cuda.stream().context().clone(), untracked(&cuda)] {
            let (wanted, tracks) = (wanted.clone(), context.is_event_tracking());
            let what = format!("{rounds} rounds on two streams, strategy {strategy:?}, events {tracks}");
            in_time(&what, move || {
                let streams = [0, 1].map(|_| Cuda::on(context.new_stream().unwrap()).unwrap().with_strategy(strategy));
                let mut all: Vec<(BatchNorm<Cuda>, Step<Cuda>)> = streams
                    .iter()
                    .map(|cuda| {
                        let layer = layer(cuda).unwrap();
                        let step = Step::new(&layer).unwrap();
                        (layer, step)
                    })
                    .collect();
                for round in 0..rounds {
                    for operation in [Operation::Train, Operation::Backward] {
                        all.iter_mut().for_each(|(layer, step)| step.run(layer, operation).unwrap());
                    }
                    if round % (rounds / 5).max(1) == 0 || round + 1 == rounds {
                        for (layer, step) in &all {
                            assert_eq!(step.outputs(layer).unwrap(), wanted, "{strategy:?}, round {round}");
                        }
                    }
                }
            });
        }
    }
}

//! Wavefronts of shared memory that the kernels need, as the emulated device counts them: "no bank conflicts" as a test.

use batchnorm::op::{Backward, Gradients, Problem, Statistics, Train};
use batchnorm::{Backend, Compute, Cuda, Element, Epilogue, Op, Shape, StatisticsKind};
use cuda_emulator::{Wavefronts, count_wavefronts, wavefronts, worst_wavefronts};
use half::f16;

use crate::device::{STRATEGIES, cuda, has};

/// Wavefronts for each one of the same accesses without a conflict: of all of a launch, and of the instruction with most
/// beyond that, since most of a launch's accesses are those of its tile, which have none.
const ALLOWED: f64 = 2.0;

/// The wavefronts of an operation's launches, and those of its worst instruction with its place.
fn counted(launch: impl FnOnce()) -> (Wavefronts, String, Wavefronts) {
    count_wavefronts(true);
    launch();
    count_wavefronts(false);
    let (place, worst) = worst_wavefronts().expect("kernels use shared memory");
    (wavefronts(), place, worst)
}

fn factor(counts: Wavefronts) -> f64 {
    counts.needed as f64 / counts.ideal as f64
}

fn check<T: Element<Param = f32>>(cuda: &Cuda, shape: Shape, faults: &mut Vec<String>)
where
    Cuda: Compute<T>,
{
    let values: Vec<T> = (0..shape.len()).map(|i| T::from_f64((i * 37 % 101) as f64 / 16.0 - 3.0)).collect();
    let problem = |op| Problem::new(op, shape, T::DTYPE, Epilogue::IDENTITY, 1e-5, None).unwrap();
    let problems = [problem(Op::Train), problem(Op::Backward(StatisticsKind::Batch))];
    let mut workspace = cuda.workspace(&problems).unwrap();
    let data = || cuda.upload(&values).unwrap();
    let channels = || cuda.upload(&vec![0.5f32; shape.c()]).unwrap();
    let (x, dy, mut y, mut dx) = (data(), data(), data(), data());
    let (gamma, beta, mut mean, mut inv_std) = (channels(), channels(), channels(), channels());
    let (mut dgamma, mut dbeta) = (channels(), channels());

    let train = Train::<Cuda, T> {
        shape,
        eps: 1e-5,
        x: &x,
        epilogue: Epilogue::IDENTITY,
        gamma: Some(&gamma),
        beta: Some(&beta),
        y: &mut y,
        saved_mean: &mut mean,
        saved_inv_std: &mut inv_std,
        relu_mask: None,
        running: None,
    };
    let forward = counted(|| cuda.run_in(&mut workspace, train).unwrap());
    let operation = Backward::<Cuda, T> {
        shape,
        x: &x,
        dy: &dy,
        epilogue: Epilogue::IDENTITY,
        gamma: Some(&gamma),
        beta: Some(&beta),
        statistics: Statistics::Batch { mean: &mean, inv_std: &inv_std },
        relu_mask: None,
        gradients: Gradients { dx: Some(&mut dx), dgamma: Some(&mut dgamma), dbeta: Some(&mut dbeta) },
    };
    let backward = counted(|| cuda.run_in(&mut workspace, operation).unwrap());
    for (name, (all, place, worst)) in [("train", forward), ("backward", backward)] {
        let strategy = cuda.strategy().map_or("planned".to_string(), |strategy| strategy.to_string());
        let row = format!(
            "{name} {strategy} {shape} {}: {} of {} wavefronts ({:.2}), at worst {} of {} ({:.2}) {place}",
            T::DTYPE,
            all.needed,
            all.ideal,
            factor(all),
            worst.needed,
            worst.ideal,
            factor(worst),
        );
        println!("{row}");
        if factor(all) > ALLOWED || factor(worst) > ALLOWED {
            faults.push(row);
        }
    }
}

#[test]
fn shared_memory_is_accessed_without_bank_conflicts() {
    let shapes = [
        Shape::nchw(32, 32, 14, 14),
        Shape::nchw(32, 32, 7, 7),
        Shape::nhwc(8, 14, 14, 64),
        Shape::nhwc(8, 14, 14, 24),
    ];
    let mut faults = Vec::new();
    for strategy in STRATEGIES {
        let Some(cuda) = cuda() else { return };
        if !has(&cuda.limits(), strategy) {
            continue;
        }
        let cuda = cuda.with_strategy(strategy);
        for shape in &shapes {
            let shape = *shape.as_ref().unwrap();
            check::<f16>(&cuda, shape, &mut faults);
            check::<f32>(&cuda, shape, &mut faults);
        }
    }
    assert!(faults.is_empty(), "more than {ALLOWED} times the ideal:\n{}", faults.join("\n"));
}

//! Values that are no numbers, and variances that are not positive: one meaning on every backend, under every strategy.

mod activations;

use std::collections::BTreeMap;

use batchnorm::verify::oracle::{Oracle, indices};
use batchnorm::verify::{Case, Group, Input, Inputs, Verified, compare, run};
use batchnorm::{
    Activation, Compute, Cpu, Cuda, Dtype, Element, Epilogue, Layout, Momentum, NonFinite, Op, RunningVar, Shape,
    StatisticsKind, Tracking, with_device_element,
};

use crate::device::{STRATEGIES, cuda};

const NO_F64: &str = "no kernel computes f64";

/// Shapes of one value a channel, which is reduced with no other; shapes that are taken as vectors of one channel, as vectors
/// of several, and element by element; two whose channels several CTAs share.
fn shapes() -> [Shape; 7] {
    let shape = |dims: &[usize], layout| Shape::new(dims, layout).unwrap();
    [
        shape(&[1, 8], Layout::ChannelsFirst),
        shape(&[5, 16, 8, 8], Layout::ChannelsFirst),
        shape(&[37, 24], Layout::ChannelsLast),
        shape(&[3, 9, 7, 7], Layout::ChannelsFirst),
        shape(&[4, 5, 11], Layout::ChannelsLast),
        shape(&[2, 8, 64, 64], Layout::ChannelsFirst),
        shape(&[1500, 8], Layout::ChannelsLast),
    ]
}

/// The outputs of the case; `None` where a forced strategy cannot hold it in shared memory.
fn outputs<B: Verified + Compute<T>, T: Element>(
    backend: &B,
    case: &Case,
    inputs: &Inputs<T>,
    dy: &[T],
) -> Option<BTreeMap<&'static str, Vec<f64>>> {
    match run(backend, case, inputs, dy, 0) {
        Ok(outputs) => Some(outputs),
        Err(error) => {
            let error = format!("{error:?}");
            assert!(error.contains("Strategy"), "{case}: {error}");
            None
        }
    }
}

/// Calls `with` with the device under every strategy, and a name.
fn under_every_strategy(cuda: &Cuda, mut with: impl FnMut(&Cuda, &str)) {
    for strategy in STRATEGIES {
        with(&cuda.clone().with_strategy(strategy), strategy.map_or("auto", |strategy| strategy.name()));
    }
}

/// Whether a case is one of those of its operation that test most.
fn telling(case: &Case) -> bool {
    match case.op {
        Op::Moments => true,
        Op::Train => case.affine && case.epilogue == Epilogue::IDENTITY,
        Op::Infer | Op::Backward(_) => case.affine && case.epilogue.activation() != Activation::Identity,
    }
}

#[test]
fn the_tables_special_values_hold_under_every_strategy() {
    fn check<T: Element>(cuda: &Cuda, strategy: &str) -> usize
    where
        Cuda: Compute<T>,
    {
        let mut count = 0;
        for shape in &shapes()[..5] {
            for input in [Input::Infinities, Input::Largest, Input::ZeroVariance, Input::NegativeVariance] {
                let group = Group { shape: *shape, dtype: T::DTYPE, input };
                if !input.suits(T::DTYPE) {
                    continue;
                }
                let inputs = Inputs::<T>::new(&group);
                let oracle = Oracle::new(&group, &inputs, Cuda::arithmetic(T::DTYPE));
                for case in group.cases().iter().filter(|case| telling(case)) {
                    let dy = oracle.dy_of(case);
                    let Some(outputs) = outputs(cuda, case, &inputs, &dy) else { continue };
                    let result = compare(case, &oracle.expected(case, &dy), &outputs);
                    assert!(result.is_ok(), "{strategy}: {case}: {}", result.unwrap_err());
                    count += 1;
                }
            }
        }
        count
    }
    let Some(cuda) = cuda() else { return };
    under_every_strategy(&cuda, |cuda, strategy| {
        let of = |dtype| with_device_element!(dtype, T => check::<T>(cuda, strategy), f64 => unreachable!("{NO_F64}"));
        let count: usize = Dtype::ON_CUDA.iter().copied().map(of).sum();
        assert!(strategy != "auto" || count > 300, "{count}");
    });
}

/// Mean and variance of every channel.
fn moments<B: Verified + Compute<T>, T: Element>(
    backend: &B,
    inputs: &Inputs<T>,
    group: Group,
) -> Option<[Vec<f64>; 2]> {
    let case = Case { group, op: Op::Moments, epilogue: Epilogue::IDENTITY, affine: false, tracking: None };
    let mut outputs = outputs(backend, &case, inputs, &[])?;
    Some(["mean", "var"].map(|name| outputs.remove(name).unwrap()))
}

/// Whether one channel's moments are so, and those of all others as `without`, to the bit.
fn is_alone(found: &[Vec<f64>; 2], without: &[Vec<f64>; 2], channel: usize, mean: f64) -> bool {
    let [found_mean, found_var] = found;
    let is_mean = found_mean[channel].to_bits() == mean.to_bits() || (mean.is_nan() && found_mean[channel].is_nan());
    let is_same = |c: &usize| (0..2).all(|i| found[i][*c].to_bits() == without[i][*c].to_bits());
    is_mean && found_var[channel].is_nan() && (0..found_mean.len()).filter(|c| *c != channel).all(|c| is_same(&c))
}

/// Every place of a small channel, and of a larger one some, and those around the ends of vectors, of chunks and of a thread's walk.
fn places(m: usize) -> Vec<usize> {
    let step = if m < 40 { 1 } else { m / 3 };
    (0..m).step_by(step).chain([1, 8, 63, m.saturating_sub(9), m - 1]).filter(|&place| place < m).collect()
}

#[test]
fn an_infinity_is_the_mean_of_its_channel_wherever_it_lies() {
    fn check<B: Verified + Compute<T>, T: Element>(backend: &B, name: &str, shape: Shape) -> usize {
        let group = Group { shape, dtype: T::DTYPE, input: Input::Normal };
        let (mut inputs, channel) = (Inputs::<T>::new(&group), shape.c() / 2);
        let at: Vec<usize> = indices(shape, channel).collect();
        let Some(without) = moments(backend, &inputs, group) else { return 0 };
        let mut check = |values: &[(usize, f64)], mean: f64| {
            let old: Vec<T> = values.iter().map(|(place, _)| inputs.x[at[*place]]).collect();
            values.iter().for_each(|(place, value)| inputs.x[at[*place]] = T::from_f64(*value));
            let found = moments(backend, &inputs, group).unwrap();
            assert!(
                is_alone(&found, &without, channel, mean),
                "{name} {} {shape}: {values:?} gives {found:?} in channel {channel}, beside {without:?}",
                T::DTYPE
            );
            values.iter().zip(old).for_each(|((place, _), old)| inputs.x[at[*place]] = old);
        };
        let last = at.len() - 1;
        for place in places(at.len()) {
            check(&[(place, f64::INFINITY)], f64::INFINITY);
            check(&[(place, f64::NEG_INFINITY)], f64::NEG_INFINITY);
            if place > 0 {
                check(&[(0, f64::INFINITY), (place, f64::INFINITY)], f64::INFINITY);
                check(&[(0, f64::INFINITY), (place, f64::NEG_INFINITY)], f64::NAN);
                check(&[(0, f64::NEG_INFINITY), (place, f64::NAN)], f64::NAN);
            }
            if place < last {
                check(&[(place, f64::NAN), (last, f64::INFINITY)], f64::NAN);
            }
        }
        1
    }
    let Some(cuda) = cuda() else { return };
    for shape in shapes() {
        for &dtype in Dtype::ON_CUDA {
            with_device_element!(dtype, T => check::<Cpu, T>(&Cpu, "cpu", shape), f64 => unreachable!("{NO_F64}"));
        }
        under_every_strategy(&cuda, |cuda, strategy| {
            let of = |dtype| {
                with_device_element!(
                    dtype,
                    T => check::<Cuda, T>(cuda, strategy, shape),
                    f64 => unreachable!("{NO_F64}")
                )
            };
            let count: usize = Dtype::ON_CUDA.iter().copied().map(of).sum();
            assert!(strategy != "auto" || count == Dtype::ON_CUDA.len(), "{count}");
        });
    }
}

#[test]
fn running_statistics_are_left_to_the_bit_by_a_skipped_batch_and_by_a_momentum_of_0() {
    fn check<B: Verified + Compute<f32>>(backend: &B, name: &str) {
        for (i, shape) in shapes().into_iter().enumerate().skip(1) {
            let group = Group { shape, dtype: Dtype::F32, input: Input::Infinities };
            let mut inputs = Inputs::<f32>::new(&group);
            inputs.running_mean[0] = -0.0;
            let last = shape.c() - 1;
            // A variance beyond f32 is infinite too, and so are the statistics of its channel.
            let ends: Vec<usize> = indices(shape, last).collect();
            inputs.x[ends[0]] = 1e30;
            let tracking = |momentum, non_finite| {
                let tracking = Some(Tracking { momentum, variance: RunningVar::Biased, non_finite });
                let case = Case { group, op: Op::Train, epilogue: Epilogue::IDENTITY, affine: false, tracking };
                outputs(backend, &case, &inputs, &[])
            };
            let is_kept = |outputs: &BTreeMap<&str, Vec<f64>>, c: usize| {
                let same = |name: &str, old: &[f32]| (outputs[name][c] as f32).to_bits() == old[c].to_bits();
                same("running_mean", &inputs.running_mean) && same("running_var", &inputs.running_var)
            };
            let Some(kept) = tracking(Momentum::Ema(0.0), NonFinite::Propagate) else { continue };
            assert!((0..shape.c()).all(|c| is_kept(&kept, c)), "{name} {i}: momentum 0 gives {kept:?}");
            assert_eq!(kept["num_batches_tracked"], [4.0]);
            let skipped = tracking(Momentum::Ema(0.1), NonFinite::Skip).unwrap();
            for c in 0..shape.c() {
                let is_finite = c % 8 == 7 && c != last;
                assert_eq!(is_kept(&skipped, c), !is_finite, "{name} {i}: channel {c} of {skipped:?}");
            }
        }
    }
    let Some(cuda) = cuda() else { return };
    check(&Cpu, "cpu");
    under_every_strategy(&cuda, check::<Cuda>);
}

#[test]
fn a_variance_that_is_not_positive_has_one_meaning() {
    fn check<B: Verified + Compute<T>, T: Element>(backend: &B, name: &str) {
        for shape in shapes() {
            for (input, op) in [
                (Input::NegativeVariance, Op::Infer),
                (Input::NegativeVariance, Op::Backward(StatisticsKind::Running)),
                (Input::ZeroVariance, Op::Infer),
                (Input::ZeroVariance, Op::Backward(StatisticsKind::Running)),
                (Input::ZeroVariance, Op::Train),
                (Input::ZeroVariance, Op::Backward(StatisticsKind::Batch)),
            ] {
                let group = Group { shape, dtype: T::DTYPE, input };
                let case = Case { group, op, epilogue: Epilogue::IDENTITY, affine: true, tracking: None };
                let inputs = Inputs::<T>::new(&group);
                let Some(outputs) = outputs(backend, &case, &inputs, &inputs.dy) else { continue };
                let is_frozen = matches!(op, Op::Infer | Op::Backward(StatisticsKind::Running));
                for c in 0..shape.c() {
                    let var = inputs.running_var[c].to_f64();
                    let eps = f64::from(input.eps() as f32); // in the type of per-channel values
                    let constant = input == Input::ZeroVariance && [0, 3].contains(&(c % 4));
                    // Nothing to divide by, or infinitely much; nothing to take a root of.
                    let is_zero = if is_frozen { var + eps == 0.0 || var == f64::INFINITY } else { constant };
                    let is_nan = is_frozen && (var + eps < 0.0 || var.is_nan());
                    for index in indices(shape, c) {
                        let (tensor, zero) = match op {
                            Op::Train | Op::Infer => ("y", T::from_f64(inputs.beta[c].to_f64()).to_f64()),
                            Op::Backward(_) => ("dx", 0.0),
                            Op::Moments => unreachable!("no case of it"),
                        };
                        let got = outputs[tensor][index];
                        let why = format!("{name}: {case}: {tensor}[{index}] of channel {c}, {var:e}: {got}");
                        assert!(!is_zero || got == zero, "{why}");
                        assert!(got.is_nan() == is_nan, "{why}");
                    }
                }
            }
        }
    }
    let Some(cuda) = cuda() else { return };
    for &dtype in Dtype::ON_CUDA {
        with_device_element!(dtype, T => check::<Cpu, T>(&Cpu, "cpu"), f64 => unreachable!("{NO_F64}"));
    }
    under_every_strategy(&cuda, |cuda, strategy| {
        for &dtype in Dtype::ON_CUDA {
            with_device_element!(dtype, T => check::<Cuda, T>(cuda, strategy), f64 => unreachable!("{NO_F64}"));
        }
    });
}

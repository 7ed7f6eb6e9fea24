//! Numerics that a tolerance alone would not show: exact results, bits, gradients against differences, and that the
//! table can fail.

use std::collections::BTreeMap;

use batchnorm::op::{Backward, Infer, Statistics, Train};
use batchnorm::verify::oracle::{Oracle, indices};
use batchnorm::verify::tolerance::Arithmetic;
use batchnorm::verify::{Case, Failure, Group, Input, Inputs, compare, run};
use batchnorm::{Compute, Cpu, Dtype, Element, Epilogue, Gradients, Layout, Op, Shape, StatisticsKind, with_element};

const EPS: f64 = 1e-5;

fn moments_case(dtype: Dtype, input: Input) -> Case {
    let shape = Shape::new(&[19, 7, 7, 7], Layout::ChannelsFirst).unwrap();
    let group = Group { shape, dtype, input };
    Case { group, op: Op::Moments, epilogue: Epilogue::IDENTITY, affine: false, tracking: None }
}

/// Whether a reducer of one channel to mean and variance passes the moments of this input.
fn passes<T: Element>(
    input: Input,
    arithmetic: Arithmetic,
    reduce: impl Fn(&mut dyn Iterator<Item = f64>) -> (f64, f64),
) -> bool {
    let case = moments_case(T::DTYPE, input);
    let inputs = Inputs::<T>::new(&case.group);
    let channel = |ch| reduce(&mut indices(case.group.shape, ch).map(|i| inputs.x[i].to_f64()));
    let round = |v: f64| <T::Param as Element>::from_f64(v).to_f64();
    let (mean, var): (Vec<f64>, Vec<f64>) =
        (0..case.group.shape.c()).map(channel).map(|(mean, var)| (round(mean), round(var))).unzip();
    let outputs = BTreeMap::from([("mean", mean), ("var", var)]);
    compare(&case, &Oracle::new(&case.group, &inputs, arithmetic).expected(&case, &[]), &outputs).is_ok()
}

/// E[x²] − E[x]² in f32.
fn squares_f32(x: &mut dyn Iterator<Item = f64>) -> (f64, f64) {
    let (mut m, mut sum, mut squares) = (0f32, 0f32, 0f32);
    for x in x {
        m += 1.0;
        sum += x as f32;
        squares += (x * x) as f32;
    }
    (f64::from(sum / m), f64::from(squares / m - (sum / m) * (sum / m)))
}

/// E[x²] − E[x]² in f64.
fn squares_f64(x: &mut dyn Iterator<Item = f64>) -> (f64, f64) {
    let (mut m, mut sum, mut squares) = (0f64, 0f64, 0f64);
    for x in x {
        m += 1.0;
        sum += x;
        squares += x * x;
    }
    (sum / m, squares / m - (sum / m) * (sum / m))
}

/// Two passes in f32 with the mean as a pair, as a GPU will do it.
fn two_passes_f32(x: &mut dyn Iterator<Item = f64>) -> (f64, f64) {
    let x: Vec<f32> = x.map(|x| x as f32).collect();
    let m = x.len() as f32;
    // 32 lanes, then their sum: no reducer on a GPU adds thousands of values one after the other.
    let sum =
        |f: &dyn Fn(f32) -> f32| (0..32).map(|l| x.iter().skip(l).step_by(32).map(|&x| f(x)).sum::<f32>()).sum::<f32>();
    let shift = x[0] + sum(&|v| v - x[0]) / m;
    let rest = sum(&|v| v - shift);
    let squares = sum(&|v| (v - shift) * (v - shift));
    (f64::from(shift) + f64::from(rest / m), f64::from((squares - rest * rest / m) / m))
}

#[test]
fn a_reducer_of_squares_fails_the_table_and_one_of_two_passes_does_not() {
    let off_center = [Input::Mean1e4, Input::Mean1e6, Input::Narrow];
    for input in off_center {
        assert!(!passes::<f32>(input, Arithmetic::F32, squares_f32), "f32 squares pass {input:?}");
        assert!(!passes::<f64>(input, Arithmetic::F64, squares_f64), "f64 squares pass {input:?}");
        assert!(passes::<f32>(input, Arithmetic::F32, two_passes_f32), "two passes in f32 fail {input:?}");
    }
    assert!(!passes::<f32>(Input::RestFar, Arithmetic::F32, squares_f32));
    assert!(!passes::<f32>(Input::Constant, Arithmetic::F32, squares_f32));
    for input in [Input::Normal, Input::FirstFar, Input::Constant, Input::ZeroSample] {
        assert!(passes::<f32>(input, Arithmetic::F32, two_passes_f32), "two passes in f32 fail {input:?}");
    }
}

#[test]
fn nan_never_passes_the_comparison() {
    assert!(!passes::<f32>(Input::Normal, Arithmetic::F64, |_| (f64::NAN, f64::NAN)));
    assert!(!passes::<f32>(Input::Normal, Arithmetic::F64, |_| (f64::INFINITY, 1.0)));
}

#[test]
fn the_oracle_knows_channels_without_values() {
    let shape = Shape::new(&[0, 3, 5], Layout::ChannelsFirst).unwrap();
    let group = Group { shape, dtype: Dtype::F32, input: Input::Normal };
    let inputs = Inputs::<f32>::new(&group);
    let oracle = Oracle::new(&group, &inputs, Arithmetic::F64);
    for case in group.cases() {
        let expected = oracle.expected(&case, &oracle.dy_of(&case));
        assert!(
            !expected.is_empty() && expected.iter().all(|tensor| tensor.is_data == tensor.want.is_empty()),
            "{case}"
        );
    }
}

#[test]
fn outputs_are_those_that_the_oracle_names() {
    let shape = Shape::new(&[4, 3, 5], Layout::ChannelsFirst).unwrap();
    let group = Group { shape, dtype: Dtype::F32, input: Input::Normal };
    let inputs = Inputs::<f32>::new(&group);
    let oracle = Oracle::new(&group, &inputs, Arithmetic::F64);
    for case in group.cases() {
        let dy = oracle.dy_of(&case);
        let expected = oracle.expected(&case, &dy);
        let mut outputs = run(&Cpu, &case, &inputs, &dy, 0).unwrap();
        compare(&case, &expected, &outputs).unwrap();
        for name in expected.iter().map(|expected| expected.name) {
            let values = outputs.remove(name).unwrap();
            let failure = compare(&case, &expected, &outputs).unwrap_err();
            assert!(matches!(failure, Failure::Missing { tensor } if tensor == name), "{case}: {failure}");
            outputs.insert(name, values);
        }
        outputs.insert("scale", vec![1.0; 3]);
        let failure = compare(&case, &expected, &outputs).unwrap_err();
        assert_eq!(failure.to_string(), "scale is written, and the oracle does not name it", "{case}");
    }
}

/// An infinite statistic passes as infinity of the same sign alone, and NaN as NaN alone.
#[test]
fn an_infinite_statistic_passes_as_that_alone() {
    let plain = |x: &mut dyn Iterator<Item = f64>| {
        let (m, sum) = x.fold((0.0, 0.0), |(m, sum), x| (m + 1.0, sum + x));
        (sum / m, f64::NAN)
    };
    let in_others = |is_finite: fn(f64) -> f64| {
        move |x: &mut dyn Iterator<Item = f64>| {
            let x: Vec<f64> = x.collect();
            let (mean, var) = two_passes_f32(&mut x.iter().copied());
            let special = plain(&mut x.iter().copied());
            if special.0.is_finite() { (mean, var) } else { (is_finite(special.0), special.1) }
        }
    };
    for input in [Input::Inf, Input::Infinities] {
        assert!(passes::<f32>(input, Arithmetic::F32, in_others(|mean| mean)));
        assert!(!passes::<f32>(input, Arithmetic::F32, in_others(|_| f64::NAN)));
        assert!(!passes::<f32>(input, Arithmetic::F32, in_others(|mean| -mean)));
        assert!(!passes::<f32>(input, Arithmetic::F32, in_others(f64::abs)) || input == Input::Inf);
    }
}

/// `y` of a training forward, and the saved statistics.
fn train<T: Element>(
    shape: Shape,
    eps: f64,
    x: &[T],
    beta: Option<&[T::Param]>,
) -> (Vec<T>, Vec<T::Param>, Vec<T::Param>)
where
    Cpu: Compute<T>,
{
    let mut y = vec![T::default(); x.len()];
    let (mut saved_mean, mut saved_inv_std) =
        (vec![T::Param::default(); shape.c()], vec![T::Param::default(); shape.c()]);
    Cpu.run(Train::<Cpu, T> {
        shape,
        eps,
        x,
        epilogue: Epilogue::IDENTITY,
        gamma: None,
        beta,
        y: &mut y,
        saved_mean: &mut saved_mean,
        saved_inv_std: &mut saved_inv_std,
        relu_mask: None,
        running: None,
    })
    .unwrap();
    (y, saved_mean, saved_inv_std)
}

#[test]
fn a_constant_channel_gives_exactly_beta() {
    fn check<T: Element>()
    where
        Cpu: Compute<T>,
    {
        for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
            let shape = Shape::new(&[19, 7, 11, 7], layout).unwrap();
            let case = Group { shape, dtype: T::DTYPE, input: Input::Constant };
            let inputs = Inputs::<T>::new(&case);
            for eps in [1e-5, 0.0] {
                let (y, _, inv_std) = train(shape, eps, &inputs.x, Some(&inputs.beta));
                for (ch, inv_std) in inv_std.iter().enumerate() {
                    let beta = T::from_f64(inputs.beta[ch].to_f64());
                    assert!(indices(shape, ch).all(|i| y[i].to_f64() == beta.to_f64()), "{} eps {eps}", T::DTYPE);
                    assert!(eps > 0.0 || inv_std.to_f64() == 0.0, "inv_std is 0 where var + eps = 0");
                }
            }
        }
    }
    for &dtype in Dtype::ALL {
        with_element!(dtype, T => check::<T>());
    }
}

/// The bits of every output, by name.
fn bits(outputs: &BTreeMap<&'static str, Vec<f64>>) -> Vec<(&'static str, Vec<u64>)> {
    outputs.iter().map(|(name, values)| (*name, values.iter().map(|v| v.to_bits()).collect())).collect()
}

fn every_case(shape: Shape, input: Input) -> Vec<Case> {
    Group { shape, dtype: Dtype::F32, input }.cases()
}

#[test]
fn the_bits_are_the_same_for_any_number_of_threads() {
    for (dims, layout) in [
        (&[19, 33, 14, 14][..], Layout::ChannelsFirst),
        (&[1, 1, 50_000], Layout::ChannelsFirst),
        (&[3000, 37], Layout::ChannelsFirst),
        (&[19, 28, 28, 33], Layout::ChannelsLast),
    ] {
        let shape = Shape::new(dims, layout).unwrap();
        for case in every_case(shape, Input::Normal) {
            let inputs = Inputs::<f32>::new(&case.group);
            let with_threads = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                bits(&pool.install(|| run(&Cpu, &case, &inputs, &inputs.dy, 0)).unwrap())
            };
            let one = with_threads(1);
            for threads in [2, 3, 7] {
                assert_eq!(one, with_threads(threads), "{case} with {threads} threads");
            }
        }
    }
}

/// The sum that decides is that of the type of per-channel values: 1e-5 in f64 is more than in f32.
#[test]
fn a_variance_of_minus_eps_gives_beta_in_every_type() {
    fn check<T: Element>(var: impl Fn(f64) -> f64, want: impl Fn(f64) -> f64)
    where
        Cpu: Compute<T>,
    {
        for eps in [1e-5, 1e-3, 0.1, 0.0, 1e-30, 1.0] {
            let of = |v: f64| <T::Param as Element>::from_f64(v);
            let (beta, var) = (of(0.25), of(var(of(eps).to_f64())));
            let mut y = [T::default(); 2];
            Cpu.run(Infer::<Cpu, T> {
                shape: Shape::nc(2, 1).unwrap(),
                eps,
                x: &[T::from_f64(1.0), T::from_f64(-2.0)],
                epilogue: Epilogue::IDENTITY,
                gamma: None,
                beta: Some(&[beta]),
                running_mean: &[of(0.5)],
                running_var: &[var],
                y: &mut y,
                relu_mask: None,
            })
            .unwrap();
            let want = want(eps);
            let same = |y: &T| y.to_f64() == want || (y.to_f64().is_nan() && want.is_nan());
            assert!(y.iter().all(same), "{} eps {eps:e}, var {var:?}: {y:?} for {want}", T::DTYPE);
        }
    }
    fn all<T: Element>()
    where
        Cpu: Compute<T>,
    {
        check::<T>(|eps| -eps, |_| 0.25);
        check::<T>(|eps| -1.5 * eps, |eps| if eps == 0.0 { 0.25 } else { f64::NAN });
        check::<T>(|_| f64::NAN, |_| f64::NAN);
        check::<T>(|_| f64::INFINITY, |_| 0.25);
    }
    for &dtype in Dtype::ALL {
        with_element!(dtype, T => all::<T>());
    }
}

#[test]
fn a_non_finite_value_stays_in_its_channel() {
    let shape = Shape::new(&[5, 3, 6], Layout::ChannelsFirst).unwrap();
    for input in [Input::Nan, Input::Inf] {
        for case in every_case(shape, input) {
            let poisoned = Inputs::<f32>::new(&case.group);
            let mut clean = poisoned.clone();
            clean.x.iter_mut().filter(|x| !x.is_finite()).for_each(|x| *x = 0.25);
            let (with, without) = (
                run(&Cpu, &case, &poisoned, &poisoned.dy, 0).unwrap(),
                run(&Cpu, &case, &clean, &clean.dy, 0).unwrap(),
            );
            for (name, with) in &with {
                for (i, (with, without)) in with.iter().zip(&without[name]).enumerate() {
                    let channel = if with.to_bits() == without.to_bits() { continue } else { i };
                    let channel = if without_is_data(name) { channel / 6 % 3 } else { channel };
                    assert_eq!(channel, 1, "{case}: {name}[{i}] changed");
                }
            }
        }
    }
    fn without_is_data(name: &str) -> bool {
        matches!(name, "y" | "dx" | "dz")
    }
}

/// The sum of `y * dy` of a training or frozen forward in f64: what the gradients are the derivatives of.
fn loss(frozen: bool, case: &Case, inputs: &Inputs<f64>) -> f64 {
    let op = if frozen { Op::Infer } else { Op::Train };
    let outputs = run(&Cpu, &Case { op, ..*case }, inputs, &inputs.dy, 0).unwrap();
    outputs["y"].iter().zip(&inputs.dy).map(|(y, dy)| y * dy).sum()
}

#[test]
fn gradients_are_those_of_finite_differences() {
    const STEP: f64 = 1e-5;
    for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
        let dims = if layout == Layout::ChannelsFirst { [4, 3, 5] } else { [4, 5, 3] };
        let group = Group { shape: Shape::new(&dims, layout).unwrap(), dtype: Dtype::F64, input: Input::Normal };
        for case in group.cases() {
            let frozen = case.op == Op::Backward(StatisticsKind::Running);
            if !(frozen || case.op == Op::Backward(StatisticsKind::Batch)) || !case.affine {
                continue;
            }
            let mut inputs = Inputs::<f64>::new(&group);
            // So that activations are taken on every side of their jumps.
            inputs.gamma.iter_mut().for_each(|gamma| *gamma *= 6.0);
            let outputs = run(&Cpu, &case, &inputs, &inputs.dy, 0).unwrap();
            let mut all_v = Vec::new();
            let oracle = Oracle::new(&group, &inputs, Arithmetic::F64);
            for ch in 0..group.shape.c() {
                let (channel, x, z) = oracle.channel(&case, ch);
                all_v.extend(channel.arguments(x, z));
            }
            for side in [f64::NEG_INFINITY..-3.0, -3.0..0.0, 0.0..3.0, 3.0..6.0, 6.0..f64::INFINITY] {
                assert!(all_v.iter().any(|v| side.contains(v)), "{case}: none of {all_v:?} is in {side:?}");
            }
            let difference = |change: &dyn Fn(&mut Inputs<f64>, f64)| {
                let at = |step| {
                    let mut inputs = inputs.clone();
                    change(&mut inputs, step);
                    loss(frozen, &case, &inputs)
                };
                (at(STEP) - at(-STEP)) / (2.0 * STEP)
            };
            let close = |name: &str, i: usize, want: f64| {
                let got = outputs[name][i];
                assert!((got - want).abs() <= 1e-6 * (1.0 + want.abs()), "{case}: {name}[{i}]: {got} for {want}");
            };
            for i in 0..group.shape.len() {
                close("dx", i, difference(&|inputs, step| inputs.x[i] += step));
                if case.epilogue.residual().is_some() {
                    close("dz", i, difference(&|inputs, step| inputs.z[i] += step));
                }
            }
            for ch in 0..group.shape.c() {
                close("dgamma", ch, difference(&|inputs, step| inputs.gamma[ch] += step));
                close("dbeta", ch, difference(&|inputs, step| inputs.beta[ch] += step));
            }
        }
    }
}

#[test]
fn dx_is_orthogonal_to_one_and_to_x_hat() {
    for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
        let shape = Shape::new(&[19, 7, 7, 7], layout).unwrap();
        let group = Group { shape, dtype: Dtype::F64, input: Input::Normal };
        let case = Case {
            group,
            op: Op::Backward(StatisticsKind::Batch),
            epilogue: Epilogue::IDENTITY,
            affine: true,
            tracking: None,
        };
        let inputs = Inputs::<f64>::new(&group);
        let dx = &run(&Cpu, &case, &inputs, &inputs.dy, 0).unwrap()["dx"];
        let (x_hat, ..) = train(shape, 0.0, &inputs.x, None);
        for ch in 0..shape.c() {
            let sum = |f: &dyn Fn(usize) -> f64| indices(shape, ch).map(f).sum::<f64>();
            let size = sum(&|i| dx[i].abs());
            // eps takes the second from exactly 0 by a share of eps.
            assert!(sum(&|i| dx[i]).abs() <= 1e-12 * size);
            assert!(sum(&|i| dx[i] * x_hat[i]).abs() <= 10.0 * EPS * size);
        }
    }
}

#[test]
fn given_statistics_that_are_not_those_of_x_are_taken_as_given() {
    // m = 4, mean 0 and inv_std 1 given, though x has another mean: the formula with these very numbers.
    let shape = Shape::nc(4, 1).unwrap();
    let (x, dy) = ([1.0f32, 2.0, 3.0, 4.0], [1.0f32, 0.0, -2.0, 5.0]);
    let (mut dx, mut dgamma, mut dbeta) = ([0.0; 4], [0.0], [0.0]);
    Cpu.run(Backward::<Cpu, f32> {
        shape,
        x: &x,
        dy: &dy,
        epilogue: Epilogue::IDENTITY,
        gamma: None,
        beta: None,
        statistics: Statistics::Batch { mean: &[0.0], inv_std: &[1.0] },
        relu_mask: None,
        gradients: Gradients { dx: Some(&mut dx), dgamma: Some(&mut dgamma), dbeta: Some(&mut dbeta) },
    })
    .unwrap();
    assert_eq!((dgamma, dbeta), ([15.0], [4.0]));
    assert_eq!(dx, [1.0 - 1.0 - 3.75, 0.0 - 1.0 - 7.5, -2.0 - 1.0 - 11.25, 5.0 - 1.0 - 15.0]);
}

#[test]
fn the_rounding_of_a_saved_mean_does_not_reach_the_gradients() {
    // The f32 mean alone is off by up to 5% of sigma at mean 1e4 and sigma 1e-2.
    let shape = Shape::nc(64, 1).unwrap();
    let x: Vec<f64> = (0..64).map(|i| f64::from((1e4 + 1e-2 * f64::from(i * 7919 % 64 - 32)) as f32)).collect();
    let mean = x.iter().sum::<f64>() / 64.0;
    let var = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / 64.0;
    let dy: Vec<f32> = (0..64).map(|i| (i % 5) as f32 + 1.0).collect();
    let want: f64 = x.iter().zip(&dy).map(|(x, dy)| (x - mean) / (var + EPS).sqrt() * f64::from(*dy)).sum();
    let x: Vec<f32> = x.into_iter().map(|x| x as f32).collect();
    let (_, saved_mean, saved_inv_std) = train(shape, EPS, &x, None);
    let (mut dx, mut dgamma) = ([0.0; 64], [0.0]);
    Cpu.run(Backward::<Cpu, f32> {
        shape,
        x: &x,
        dy: &dy,
        epilogue: Epilogue::IDENTITY,
        gamma: None,
        beta: None,
        statistics: Statistics::Batch { mean: &saved_mean, inv_std: &saved_inv_std },
        relu_mask: None,
        gradients: Gradients { dx: Some(&mut dx), dgamma: Some(&mut dgamma), dbeta: None },
    })
    .unwrap();
    let magnitude: f64 = dy.iter().map(|dy| f64::from(*dy)).sum();
    assert!((f64::from(dgamma[0]) - want).abs() <= 1e-6 * magnitude, "{} for {want}", dgamma[0]);
}

#[test]
fn frozen_passes_read_the_running_statistics_alone() {
    let shape = Shape::nc(1, 2).unwrap(); // One value a channel is fine here.
    let (mut y, mut dx, mut dgamma) = ([0.0f32; 2], [0.0f32; 2], [0.0f32; 2]);
    let (running_mean, running_var) = ([1.0, 2.0], [4.0, 0.0]);
    Cpu.run(Infer::<Cpu, f32> {
        shape,
        eps: 0.0,
        x: &[5.0, 7.0],
        epilogue: Epilogue::IDENTITY,
        gamma: None,
        beta: Some(&[0.5, 0.25]),
        running_mean: &running_mean,
        running_var: &running_var,
        y: &mut y,
        relu_mask: None,
    })
    .unwrap();
    assert_eq!(y, [2.5, 0.25]);
    Cpu.run(Backward::<Cpu, f32> {
        shape,
        x: &[5.0, 7.0],
        dy: &[3.0, 3.0],
        epilogue: Epilogue::IDENTITY,
        gamma: None,
        beta: None,
        statistics: Statistics::Running { mean: &running_mean, var: &running_var, eps: 0.0 },
        relu_mask: None,
        gradients: Gradients { dx: Some(&mut dx), dgamma: Some(&mut dgamma), dbeta: None },
    })
    .unwrap();
    assert_eq!((dx, dgamma), ([1.5, 0.0], [6.0, 0.0]));
}

/// A mask of no words may be absent: frameworks give the address of an empty tensor as none.
#[test]
fn add_relu_of_an_empty_batch_needs_no_mask() {
    for (dims, frozen) in [([0, 3, 5], false), ([0, 3, 5], true), ([4, 3, 0], false), ([4, 3, 0], true)] {
        let shape = Shape::new(&dims, Layout::ChannelsFirst).unwrap();
        let (mut dgamma, mut dbeta) = ([7.0f32; 3], [7.0f32; 3]);
        let gradients = Gradients::<Cpu, f32> { dx: Some(&mut []), dgamma: Some(&mut dgamma), dbeta: Some(&mut dbeta) };
        let (epilogue, ones) = (Epilogue::add_relu(&mut [][..]), [1.0f32; 3]);
        let statistics = match frozen {
            true => Statistics::Running { mean: &ones[..], var: &ones, eps: 1e-5 },
            false => Statistics::Batch { mean: &ones[..], inv_std: &ones },
        };
        let backward = Backward::<Cpu, f32> {
            shape,
            x: &[],
            dy: &[],
            epilogue,
            gamma: None,
            beta: None,
            statistics,
            relu_mask: None,
            gradients,
        };
        Cpu.run(backward).unwrap();
        assert_eq!((dgamma, dbeta), ([0.0; 3], [0.0; 3]));
    }
}

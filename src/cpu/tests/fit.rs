//! Channels for which f32 does not suffice, among channels for which it does.

use half::{bf16, f16};

use super::super::Cpu;
use super::{Inputs, values};
use crate::backend::Compute;
use crate::element::Element;
use crate::op::{Activation, Backward, Epilogue, Gradients, Infer, Statistics};
use crate::shape::{Layout, Shape};

/// A change of one channel's inputs: its last values of `x` and of `dy`, `gamma` and `beta`.
type Change = fn(&mut [f64; 4]);

/// Every change leaves the bits of all other channels as they were.
fn check_others<T: Element<Param = f32>>()
where
    Cpu: Compute<T>,
{
    let changes: [Change; 14] = [
        |v| v[0] = f64::NAN,
        |v| v[0] = f64::INFINITY,
        |v| v[0] = 1e37,
        |v| v[0] = 1e4,
        |v| v[1] = f64::NAN,
        |v| v[1] = f64::NEG_INFINITY,
        |v| v[1] = 1e37,
        |v| v[2] = f64::NAN,
        |v| v[2] = f64::INFINITY,
        |v| v[2] = 1e-41,
        |v| v[2] = 1e30,
        |v| v[3] = 1e37,
        |v| v[3] = f64::INFINITY,
        |v| [v[0], v[1]] = [-1e37, 1e-37],
    ];
    let first: [&[usize]; 3] = [&[9, 2], &[5, 3, 7, 7], &[2, 4, 40, 33]];
    let last: [&[usize]; 4] = [&[12, 1, 1, 4], &[3, 5, 7, 33], &[2, 300], &[70, 3]];
    let first = first.map(|dims| (dims, Layout::ChannelsFirst));
    let epilogues = Activation::ALL.iter().map(|&activation| Epilogue::new(activation, None));
    for (dims, layout) in first.into_iter().chain(last.map(|dims| (dims, Layout::ChannelsLast))) {
        let shape = Shape::new(dims, layout).unwrap();
        let (c, s) = (shape.c(), if layout == Layout::ChannelsFirst { shape.s() } else { 1 });
        let [x, dy] = [0x9E37_79B9_7F4A_7C15, 0xD1B5_4A32_D192_ED03].map(|seed| values::<T>(shape.len(), seed));
        let channel = |i: usize| i / s % c;
        for epilogue in epilogues.clone().chain([Epilogue::add_relu(())]) {
            let usual = Inputs::new(shape, epilogue, x.clone(), dy.clone());
            let want = usual.step();
            for (i, change) in changes.into_iter().enumerate() {
                let changed = c / 2;
                let at = (0..shape.len()).rev().find(|&i| channel(i) == changed).unwrap();
                let mut inputs = usual.clone();
                let [gamma, beta] = [inputs.gamma[changed], inputs.beta[changed]].map(f64::from);
                let mut values = [x[at].to_f64(), dy[at].to_f64(), gamma, beta];
                change(&mut values);
                (inputs.x[at], inputs.dy[at]) = (T::from_f64(values[0]), T::from_f64(values[1]));
                (inputs.gamma[changed], inputs.beta[changed]) = (values[2] as f32, values[3] as f32);
                let got = inputs.step();
                let same = |got: &[T], want: &[T]| {
                    let is_same = |(got, want): (&T, &T)| got.to_f64().to_bits() == want.to_f64().to_bits();
                    got.iter().zip(want).enumerate().all(|(i, values)| channel(i) == changed || is_same(values))
                };
                let is_same = |(got, want): (&Vec<f32>, &Vec<f32>)| {
                    (0..c).all(|ch| ch == changed || got[ch].to_bits() == want[ch].to_bits())
                };
                let are_same = got.of_channels.iter().zip(&want.of_channels).all(is_same);
                let context = format!("{} {shape} {epilogue:?}, change {i}", T::DTYPE);
                assert!(same(&got.y, &want.y), "{context}: y");
                assert!(same(&got.dx, &want.dx), "{context}: dx");
                assert!(are_same, "{context}: {:?} for {:?}", got.of_channels, want.of_channels);
            }
        }
    }
}

#[test]
fn a_channel_changes_no_bit_of_another() {
    check_others::<f16>();
    check_others::<bf16>();
    check_others::<f32>();
}

/// Inference goes through all channels at once, which a coefficient beyond f32 does not change.
#[test]
fn a_coefficient_beyond_f32_changes_no_bit_of_another_channel() {
    let shape = Shape::new(&[8, 64, 32, 32], Layout::ChannelsFirst).unwrap();
    let x: Vec<f16> = values(shape.len(), 0x9E37_79B9_7F4A_7C15);
    let of_channels =
        |first: f32, step: f32| -> Vec<f32> { (0..shape.c()).map(|ch| first + step * ch as f32).collect() };
    let [mean, var] = [of_channels(0.137, 0.0131), of_channels(0.731, 0.0213)];
    let infer = |gamma_of_5: f32| {
        let mut gamma = of_channels(1.37, 0.0173);
        gamma[5] = gamma_of_5;
        let mut y = vec![f16::ZERO; shape.len()];
        Cpu.run(Infer {
            shape,
            eps: 1e-5,
            x: &x[..],
            epilogue: Epilogue::IDENTITY,
            gamma: Some(&gamma[..]),
            beta: None,
            running_mean: &mean[..],
            running_var: &var[..],
            y: &mut y[..],
            relu_mask: None,
        })
        .unwrap();
        y
    };
    let (usual, tiny) = (infer(1.37), infer(1e-41));
    for (i, (usual, tiny)) in usual.iter().zip(&tiny).enumerate() {
        if i / shape.s() % shape.c() == 5 {
            assert_eq!(tiny.to_f64(), 0.0);
        } else {
            assert_eq!(usual.to_bits(), tiny.to_bits());
        }
    }
}

/// A training step of one channel, with the given values of gamma and eps.
fn one_channel<T: Element<Param = f32>>(x: &[f64], dy: &[f64], gamma: f32, eps: f64) -> super::Outputs<T>
where
    Cpu: Compute<T>,
{
    let shape = Shape::new(&[x.len(), 1], Layout::ChannelsFirst).unwrap();
    let [x, dy] = [x, dy].map(|values| values.iter().map(|value| T::from_f64(*value)).collect());
    let inputs = Inputs::new(shape, Epilogue::IDENTITY, x, dy);
    Inputs { eps, gamma: vec![gamma], beta: vec![0.0], ..inputs }.step()
}

#[test]
fn a_channel_of_tiny_values_is_no_constant() {
    for m in [6, 40] {
        for size in [2e-23, 1e-25, 1e-30] {
            let x: Vec<f64> = (0..m).map(|i| if i % 2 == 0 { size } else { -size }).collect();
            let outputs = one_channel::<bf16>(&x, &x, 1.0, 0.0);
            for (y, x) in outputs.y.iter().zip(&x) {
                assert_eq!(y.to_f64(), x.signum(), "{m} of {size:e}");
            }
            // With an eps that counts it is one, as good as.
            let outputs = one_channel::<bf16>(&x, &x, 1.0, 1e-5);
            assert!(outputs.of_channels[1][0] > 316.0 && outputs.y.iter().all(|y| y.to_f64().abs() < 1e-19));
        }
    }
}

#[test]
fn gradients_whose_products_are_no_f32_are_not_lost() {
    for (size, gradient) in [(1e-16, 1e-30), (1e-12, 1e-34)] {
        let signs: Vec<f64> = (0..6).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let of = |size: f64| -> Vec<f64> { signs.iter().map(|sign| sign * size).collect() };
        let outputs = one_channel::<bf16>(&of(size), &of(gradient), 1.0, 0.0);
        let want = 6.0 * bf16::from_f64(gradient).to_f64();
        assert!((f64::from(outputs.of_channels[2][0]) - want).abs() < want * 1e-6, "{:?}", outputs.of_channels);
        // The rounding of the saved statistics is left.
        let scale = gradient / size;
        assert!(outputs.dx.iter().all(|dx| dx.to_f64().abs() < scale * 1e-6), "{:?}", outputs.dx);
    }
}

#[test]
fn a_projection_that_is_no_normal_f32_keeps_its_digits() {
    let signs: Vec<f64> = values::<f32>(20, 0x9E37_79B9_7F4A_7C15).into_iter().map(f64::from).collect();
    let dys: Vec<f64> = values::<f32>(20, 0xD1B5_4A32_D192_ED03).into_iter().map(f64::from).collect();
    for (gradient, gamma) in [(2f64.powi(-124), 2f32.powi(60)), (2f64.powi(-120), 2f32.powi(20))] {
        let of = |values: &[f64], size: f64| -> Vec<f64> { values.iter().map(|value| value * size).collect() };
        let (x, dy) = (of(&signs, 2f64.powi(20)), of(&dys, gradient));
        let (got, want) = (one_channel::<bf16>(&x, &dy, gamma, 1e-5), {
            let [x, dy] =
                [&x, &dy].map(|values| values.iter().map(|value| bf16::from_f64(*value).to_f64()).collect::<Vec<_>>());
            one_channel::<f32>(&x, &dy, gamma, 1e-5)
        });
        let largest = want.dx.iter().fold(0.0f64, |largest, dx| largest.max(f64::from(dx.abs())));
        for (got, want) in got.dx.iter().zip(&want.dx) {
            let want = f64::from(*want);
            let allowed = want.abs() * 2f64.powi(-8) + largest * 2f64.powi(-21);
            assert!((got.to_f64() - want).abs() <= allowed, "{got} for {want:e}");
        }
    }
}

/// A gamma that decays to nothing leaves f32's normal numbers last.
#[test]
fn a_tiny_gamma_keeps_its_digits() {
    let x: Vec<f64> = values::<bf16>(50, 0x9E37_79B9_7F4A_7C15).into_iter().map(|x| x.to_f64()).collect();
    for gamma in [1e-20, 1e-30, 2e-38, 1e-39] {
        let got = one_channel::<bf16>(&x, &x, gamma, 1e-5);
        let want = one_channel::<f32>(&x, &x, 1.0, 1e-5);
        for (got, want) in got.y.iter().zip(&want.y).chain(got.dx.iter().zip(&want.dx)) {
            let want = f64::from(*want) * f64::from(gamma);
            // A dx of f32 has the rounding of its terms.
            let allowed =
                want.abs() * 0.502 * 2f64.powi(-7) + f64::from(gamma) * 2f64.powi(-21) + 0.5 * 2f64.powi(-133);
            assert!((got.to_f64() - want).abs() <= allowed, "{gamma:e}: {got:e} for {want:e}");
        }
    }
}

#[test]
fn an_infinite_gamma_makes_infinities() {
    let x = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    let outputs = one_channel::<f16>(&x, &x, f32::INFINITY, 1e-5);
    let signs: Vec<f64> = outputs.y.iter().map(|y| y.to_f64()).collect();
    assert_eq!(signs[0], f64::INFINITY);
    assert_eq!(signs[1..], [f64::NEG_INFINITY; 5]);
}

/// `dgamma` within the tolerance of half types where it is a small part of its terms: the mean's error enters it.
#[test]
fn a_mean_of_few_values_is_good_enough_for_dgamma() {
    let x = [-65.375, 0.0784912109375, -65.375, 0.040283203125, 65.375, 65.375, 0.198486328125];
    let dy = [-0.06903076171875, -0.427978515625, 0.0, 0.0, 0.0, 0.0, -0.8916015625];
    let seven = (one_channel::<f16>(&x, &dy, 1.0, 1e-5).of_channels, x.to_vec(), dy.to_vec());
    let x = [-0.006134033203125, 0.0028839111328125, -0.01434326171875];
    let dy = [-1.3203125, 0.0, 0.0];
    let three = (one_channel::<bf16>(&x, &dy, 1.0, 1e-5).of_channels, x.to_vec(), dy.to_vec());
    for (of_channels, x, dy) in [seven, three] {
        let m = x.len() as f64;
        let mean = x.iter().sum::<f64>() / m;
        let inv_std = f64::from(of_channels[1][0]);
        let terms = x.iter().zip(&dy).map(|(x, g)| g * (x - mean) * inv_std);
        let scale = terms.clone().map(f64::abs).sum::<f64>().max(0.1 * dy.iter().map(|g| g.abs()).sum::<f64>());
        let want: f64 = terms.sum();
        let allowed = scale * 2f64.powi(-22) + want.abs() * 2f64.powi(-24);
        assert!((f64::from(of_channels[2][0]) - want).abs() <= allowed, "{:?} for {want}", of_channels[2]);
    }
}

/// Running statistics, whose backward pass has maps of its own.
#[test]
fn running_statistics_of_a_channel_change_no_bit_of_another() {
    let shape = Shape::new(&[6, 40, 5, 5], Layout::ChannelsFirst).unwrap();
    let [x, dy] = [0x9E37_79B9_7F4A_7C15, 0xD1B5_4A32_D192_ED03].map(|seed| values::<f16>(shape.len(), seed));
    let backward = |mean_of_2: f32, var_of_2: f32| {
        let (mut mean, mut var): (Vec<f32>, Vec<f32>) =
            (0..40).map(|ch| ch as f32).map(|ch| (0.1 + 0.0131 * ch, 0.731 + 0.0213 * ch)).unzip();
        (mean[2], var[2]) = (mean_of_2, var_of_2);
        let (mut dx, mut dgamma, mut dbeta) = (vec![f16::ZERO; shape.len()], [0.0; 40], [0.0; 40]);
        Cpu.run(Backward {
            shape,
            x: &x[..],
            dy: &dy[..],
            epilogue: Epilogue::RELU,
            gamma: None,
            beta: None,
            statistics: Statistics::Running { mean: &mean[..], var: &var[..], eps: 1e-5 },
            relu_mask: None,
            gradients: Gradients { dx: Some(&mut dx[..]), dgamma: Some(&mut dgamma[..]), dbeta: Some(&mut dbeta[..]) },
        })
        .unwrap();
        let others = dx.iter().enumerate().filter(|(i, _)| i / 25 % 40 != 2).map(|(_, dx)| u32::from(dx.to_bits()));
        let of_others = (0..40).filter(|&ch| ch != 2).flat_map(|ch| [dgamma[ch].to_bits(), dbeta[ch].to_bits()]);
        others.chain(of_others).collect::<Vec<_>>()
    };
    let usual = backward(0.3, 1.2);
    for (mean, var) in [(f32::NAN, 1.0), (1e35, 1.0), (0.0, 1e38), (0.0, -1.0), (f32::INFINITY, f32::INFINITY)] {
        assert_eq!(backward(mean, var), usual, "{mean} {var}");
    }
}

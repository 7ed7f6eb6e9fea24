//! Bits that are the same on every processor, and the digits of half types' arithmetic.

use half::{bf16, f16};

use super::Cpu;
use super::level::forced::at_each_level;
use crate::backend::Compute;
use crate::element::Element;
use crate::op::{Activation, Backward, Epilogue, Gradients, Infer, Statistics, Train};
use crate::shape::{Layout, Shape};

/// Values without an order, around a mean of each channel's own.
fn values<T: Element>(len: usize, seed: u64) -> Vec<T> {
    let hash = |i: usize| (i as u64 + 1).wrapping_mul(seed) >> 40;
    (0..len).map(|i| T::from_f64(hash(i) as f64 / f64::from(1 << 22) - 1.3)).collect()
}

/// The outputs of a training step: `y` and `dx`, and all per-channel values.
fn step<T: Element<Param = f32>>(shape: Shape, activation: Activation, x: &[T], dy: &[T]) -> (Vec<T>, Vec<T>, Vec<f32>)
where
    Cpu: Compute<T>,
{
    let c = shape.c();
    let (mut y, mut dx) = (vec![T::default(); x.len()], vec![T::default(); x.len()]);
    let [mut mean, mut inv_std, mut dgamma, mut dbeta] = [(); 4].map(|()| vec![0.0; c]);
    let (gamma, beta): (Vec<f32>, Vec<f32>) = (0..c).map(|ch| (0.5 + ch as f32 / 8.0, 1.0 - ch as f32 / 4.0)).unzip();
    let (gamma, beta) = (Some(&gamma[..]), Some(&beta[..]));
    Cpu::with_threads(1, || {
        Cpu.run(Train {
            shape,
            eps: 1e-5,
            x,
            epilogue: Epilogue::new(activation, None),
            gamma,
            beta,
            y: &mut y[..],
            saved_mean: &mut mean[..],
            saved_inv_std: &mut inv_std[..],
            relu_mask: None,
            running: None,
        })
        .unwrap();
        Cpu.run(Backward {
            shape,
            x,
            dy,
            epilogue: Epilogue::new(activation, None),
            gamma,
            beta,
            statistics: Statistics::Batch { mean: &mean[..], inv_std: &inv_std[..] },
            relu_mask: None,
            gradients: Gradients { dx: Some(&mut dx[..]), dgamma: Some(&mut dgamma[..]), dbeta: Some(&mut dbeta[..]) },
        })
        .unwrap();
    });
    (y, dx, [mean, inv_std, dgamma, dbeta].concat())
}

/// A digest of the bits of a training step over shapes of every form, with every activation; the same at every level.
fn digest<T: Element<Param = f32>>() -> u64
where
    Cpu: Compute<T>,
{
    let first: [&[usize]; 3] = [&[5, 3, 7, 7], &[4, 2, 40, 33], &[70, 3, 2]];
    let last: [&[usize]; 2] = [&[3, 5, 7, 33], &[2, 300]];
    let first = first.map(|dims| (dims, Layout::ChannelsFirst));
    let mut digest = 0xcbf2_9ce4_8422_2325;
    for (dims, layout) in first.into_iter().chain(last.map(|dims| (dims, Layout::ChannelsLast))) {
        let shape = Shape::new(dims, layout).unwrap();
        let [mut x, dy] = [0x9E37_79B9_7F4A_7C15, 0xD1B5_4A32_D192_ED03].map(|seed| values::<T>(shape.len(), seed));
        x[1] = T::from_f64(3e4);
        for &activation in Activation::ALL {
            let of_levels = at_each_level(|| {
                let (y, dx, of_channels) = step(shape, activation, &x, &dy);
                let data = [y, dx].concat();
                let values = data.iter().map(|value| value.to_f64()).chain(of_channels.into_iter().map(f64::from));
                values.map(f64::to_bits).collect::<Vec<_>>()
            });
            assert!(of_levels.windows(2).all(|two| two[0] == two[1]), "{} {shape} {activation:?}", T::DTYPE);
            let fold = |digest: u64, bits: &u64| (digest.rotate_left(23) ^ bits).wrapping_mul(0x0000_0100_0000_01b3);
            digest = of_levels[0].iter().fold(digest, fold);
        }
    }
    digest
}

/// The digests are x86-64's; other processors have the same.
#[test]
fn every_level_of_every_processor_gives_the_same_bits() {
    let digests = [digest::<f32>(), digest::<f16>(), digest::<bf16>()];
    assert_eq!(digests, [0x12cd_b557_a28d_60d3, 0x97df_a9f4_c79e_2dc4, 0xeca8_6262_4a49_a985], "{digests:#x?}");
}

/// `y` within 0.501 units in the last place of the exact value where that is not far smaller than its terms; statistics within 2^-22.
#[test]
fn half_types_lose_nothing_to_f32() {
    fn check<T: Element<Param = f32>>(digits: i32)
    where
        Cpu: Compute<T>,
    {
        let shape = Shape::new(&[16, 4, 30, 31], Layout::ChannelsFirst).unwrap();
        let x: Vec<T> = values(shape.len(), 0x9E37_79B9_7F4A_7C15);
        let (y, _, of_channels) = step(shape, Activation::Identity, &x, &x);
        let m = shape.m() as f64;
        let mut count = 0;
        for ch in 0..4 {
            let of_channel = || (0..shape.len()).filter(|i| i / 930 % 4 == ch);
            let mean = of_channel().map(|i| x[i].to_f64()).sum::<f64>() / m;
            let var = of_channel().map(|i| (x[i].to_f64() - mean).powi(2)).sum::<f64>() / m;
            let inv_std = 1.0 / (var + f64::from(1e-5f32)).sqrt();
            let near = |got: f32, want: f64, scale: f64| (f64::from(got) - want).abs() <= 2f64.powi(-22) * scale;
            assert!(
                near(of_channels[ch], mean, var.sqrt()) && near(of_channels[4 + ch], inv_std, inv_std),
                "{}",
                T::DTYPE
            );
            for i in of_channel() {
                let (a, b) = ((x[i].to_f64() - mean) * inv_std * (0.5 + ch as f64 / 8.0), 1.0 - ch as f64 / 4.0);
                let want = a + b;
                if want.abs() < 0.25 * a.abs().max(b.abs()) {
                    continue;
                }
                let unit = 2f64.powi(want.abs().log2().floor() as i32 - digits + 1);
                assert!((y[i].to_f64() - want).abs() <= 0.501 * unit, "{}: {want} {:?}", T::DTYPE, y[i]);
                count += 1;
            }
        }
        assert!(count > shape.len() / 2);
    }
    check::<f16>(11);
    check::<bf16>(8);
}

/// Inference goes through all channels at once, where their coefficients suffice in f32: one that does not decides for its block alone.
#[test]
fn a_coefficient_beyond_f32_changes_no_bit_of_far_channels() {
    let shape = Shape::new(&[8, 64, 32, 32], Layout::ChannelsFirst).unwrap();
    let x: Vec<f16> = values(shape.len(), 0x9E37_79B9_7F4A_7C15);
    let of_channels =
        |first: f32, step: f32| -> Vec<f32> { (0..shape.c()).map(|ch| first + step * ch as f32).collect() };
    let [mean, var] = [of_channels(0.137, 0.0131), of_channels(0.731, 0.0213)];
    let infer = |first_gamma: f32| {
        let mut gamma = of_channels(1.37, 0.0173);
        gamma[0] = first_gamma;
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
    let (usual, tiny) = (infer(1.37), infer(1e-30));
    let of_second_half = |y: &[f16]| -> Vec<u16> {
        let rows = y.chunks(shape.c() * shape.s());
        rows.flat_map(|row| row[row.len() / 2..].iter().map(|y| y.to_bits())).collect()
    };
    assert_ne!(usual, tiny);
    assert_eq!(of_second_half(&usual), of_second_half(&tiny));
}

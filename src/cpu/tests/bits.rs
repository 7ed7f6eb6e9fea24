//! Bits that are the same on every processor, and the digests of half types' arithmetic.

use half::{bf16, f16};

use super::super::Cpu;
use super::super::level::forced::at_each_level;
use super::{Inputs, values};
use crate::backend::Compute;
use crate::element::Element;
use crate::op::{Activation, Epilogue};
use crate::shape::{Layout, Shape};

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
                let outputs = Inputs::new(shape, Epilogue::new(activation, None), x.clone(), dy.clone()).step();
                let data = [outputs.y, outputs.dx].concat();
                let of_channels = outputs.of_channels.concat();
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
        let outputs = Inputs::new(shape, Epilogue::IDENTITY, x.clone(), x.clone()).step();
        let (y, [means, inv_stds, ..]) = (outputs.y, outputs.of_channels);
        let m = shape.m() as f64;
        let mut count = 0;
        for ch in 0..4 {
            let of_channel = || (0..shape.len()).filter(|i| i / 930 % 4 == ch);
            let mean = of_channel().map(|i| x[i].to_f64()).sum::<f64>() / m;
            let var = of_channel().map(|i| (x[i].to_f64() - mean).powi(2)).sum::<f64>() / m;
            let inv_std = 1.0 / (var + f64::from(1e-5f32)).sqrt();
            let near = |got: f32, want: f64, scale: f64| (f64::from(got) - want).abs() <= 2f64.powi(-22) * scale;
            assert!(near(means[ch], mean, var.sqrt()) && near(inv_stds[ch], inv_std, inv_std), "{}", T::DTYPE);
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

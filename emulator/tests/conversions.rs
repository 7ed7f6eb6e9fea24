//! f16 and bf16, compared with the crate `half`: all patterns one way; the other way the neighbourhood of every value of
//! the half types and of every tie between two, and many others.

mod driver;

use cuda_emulator_planted as planted;
use driver::Device;
use half::{bf16, f16};

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

#[test]
fn all_patterns_to_f32() {
    for bits in 0..=u16::MAX {
        assert!(same(planted::float_from_half(bits), f16::from_bits(bits).to_f32()), "{bits:#06x}");
        assert!(same(planted::float_from_bfloat(bits), bf16::from_bits(bits).to_f32()), "{bits:#06x}");
    }
}

fn check_rounding(value: f32) {
    let (half, bfloat) = (planted::half_from_float(value), planted::bfloat_from_float(value));
    if value.is_nan() {
        assert_eq!((half, bfloat), (0x7fff, 0x7fff), "{:#010x}", value.to_bits());
        return;
    }
    assert_eq!(half, f16::from_f32(value).to_bits(), "{value} {:#010x}", value.to_bits());
    assert_eq!(bfloat, bf16::from_f32(value).to_bits(), "{value} {:#010x}", value.to_bits());
}

#[test]
fn rounding_at_every_boundary() {
    for bits in 0..=u16::MAX {
        for value in [f16::from_bits(bits).to_f32(), bf16::from_bits(bits).to_f32()] {
            // The tie to the next value lies half a unit away: 12 bits of the mantissa for f16, 15 for bf16; subnormal
            // halves have theirs at any of the bits between.
            for shift in 0..24 {
                for delta in [-1i32, 0, 1] {
                    let near = value.to_bits().wrapping_add(1 << shift).wrapping_add_signed(delta);
                    check_rounding(f32::from_bits(near));
                }
            }
        }
    }
}

#[test]
fn rounding_everywhere() {
    let mut bits = 0u32;
    for _ in 0..1 << 22 {
        bits = bits.wrapping_add(0x9e37_79b1);
        check_rounding(f32::from_bits(bits));
    }
    for value in [65519.996, 65520.0, -65520.0, f32::MAX, f32::INFINITY, 2f32.powi(-25), 2f32.powi(-25) * 1.000_001] {
        check_rounding(value);
    }
}

#[test]
fn vectors_of_halves_in_a_kernel() {
    let device = Device::open(0);
    let x: Vec<u16> = (0..256u16).map(|i| f16::from_f32(f32::from(i) * 0.37 - 40.0).to_bits()).collect();
    let (xd, y) = (device.put(&x), device.alloc::<u16>(256));
    cuda_emulator::reset_traffic();
    assert_eq!(planted::launch_double_halves(xd, y, 32), 0, "{:?}", cuda_emulator::last_report());
    let got = device.get::<u16>(y, 256);
    for (from, to) in x.iter().zip(got) {
        assert_eq!(f16::from_bits(to), f16::from_f32(2.0 * f16::from_bits(*from).to_f32()));
    }
    assert_eq!(cuda_emulator::traffic(), cuda_emulator::Traffic { loaded: 512, stored: 512 });
}

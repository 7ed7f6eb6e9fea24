//! Conversion of a tensor's elements to f64 and back, [`LANES`] at a time, in operations that become vector code. The results
//! are [`Element`]'s, bit for bit.

use half::{bf16, f16};

use crate::element::Element;

/// Neighbours taken at a time.
pub(super) const LANES: usize = 16;

/// Conversions of f16, in bits, from and to f32.
pub(super) trait F16Converter {
    fn widen(&self, halves: [u16; 8]) -> [f32; 8];
    fn narrow(&self, values: [f32; 8]) -> [u16; 8];
}

impl<W: Fn([u16; 8]) -> [f32; 8], N: Fn([f32; 8]) -> [u16; 8]> F16Converter for (W, N) {
    #[inline(always)]
    fn widen(&self, halves: [u16; 8]) -> [f32; 8] {
        self.0(halves)
    }
    #[inline(always)]
    fn narrow(&self, values: [f32; 8]) -> [u16; 8] {
        self.1(values)
    }
}

/// The [`F16Converter`] of the target that the `multiversion` function around it is compiled for.
macro_rules! f16_converter {
    () => {
        multiversion::target::match_target! {
            "x86_64+avx2+f16c" => {
                use core::arch::x86_64::{_MM_FROUND_TO_NEAREST_INT, _mm256_cvtph_ps, _mm256_cvtps_ph};
                (
                    |halves: [u16; 8]| -> [f32; 8] { bytemuck::cast(_mm256_cvtph_ps(bytemuck::cast(halves))) },
                    |values: [f32; 8]| -> [u16; 8] {
                        bytemuck::cast(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(bytemuck::cast(values)))
                    },
                )
            }
            _ => {
                (
                    |halves: [u16; 8]| -> [f32; 8] { crate::cpu::convert::widen_f16(halves) },
                    |values: [f32; 8]| -> [u16; 8] { crate::cpu::convert::narrow_f16(values) },
                )
            }
        }
    };
}
pub(super) use f16_converter;

/// An f16's bits at their places in an f32, whose exponent is then off by 112, infinity's and NaN's by as much again.
#[inline(always)]
pub(super) fn widen_f16(halves: [u16; 8]) -> [f32; 8] {
    const TWO_TO_112: f32 = f32::from_bits(0x7780_0000);
    let mut values = [0.0; 8];
    for (value, half) in values.iter_mut().zip(halves) {
        let bits = i32::from(half.cast_signed());
        let placed = (bits << 13).cast_unsigned() & 0x8FFF_E000;
        let all_ones = if bits & 0x7C00 == 0x7C00 { 0x7F80_0000 } else { 0 };
        let scaled = f32::from_bits(placed) * TWO_TO_112;
        *value = f32::from_bits(scaled.to_bits() | all_ones);
    }
    values
}

#[inline(always)]
pub(super) fn narrow_f16(values: [f32; 8]) -> [u16; 8] {
    const TWO_TO_MINUS_14: i32 = 0x3880_0000;
    const TWO_TO_16: i32 = 0x4780_0000;
    const INFINITY: i32 = 0x7F80_0000;
    let mut halves = [0; 8];
    for (half, value) in halves.iter_mut().zip(values) {
        let bits = value.to_bits().cast_signed();
        let magnitude = bits & 0x7FFF_FFFF;
        let normal = (magnitude.wrapping_add(0xFFF - 0x3800_0000) + (magnitude >> 13 & 1)) >> 13;
        // The steps of an f32 from 0.5 on are those of a subnormal f16.
        let subnormal = (value.abs() + 0.5).to_bits().cast_signed() - 0x3F00_0000;
        let finite = if magnitude < TWO_TO_MINUS_14 { subnormal } else { normal };
        let quiet = 0x7E00 | magnitude >> 13 & 0x3FF;
        let beyond = if magnitude > INFINITY { quiet } else { 0x7C00 };
        let rounded = if magnitude >= TWO_TO_16 { beyond } else { finite };
        *half = (bits >> 16 & 0x8000 | rounded) as u16;
    }
    halves
}

/// An element that loops over lanes convert.
pub(super) trait SimdElement: Element {
    /// [`Element::to_f64`] of each.
    fn widen(elements: [Self; LANES], f16_converter: &impl F16Converter) -> [f64; LANES];
    /// [`Element::from_f64`] of each.
    fn narrow(values: [f64; LANES], f16_converter: &impl F16Converter) -> [Self; LANES];
    /// Whether the value is 0 or less once it is an element; NaN is not.
    fn rounds_to_at_most_zero(value: f64) -> bool;
}

/// Whether a value is 0 or less once it is a half type's: at most half of its smallest step, a tie, which goes to even.
#[inline(always)]
fn is_at_most_half(value: f64, step: f32) -> bool {
    value as f32 <= step / 2.0
}

impl SimdElement for f64 {
    #[inline(always)]
    fn widen(elements: [Self; LANES], _: &impl F16Converter) -> [f64; LANES] {
        elements
    }
    #[inline(always)]
    fn narrow(values: [f64; LANES], _: &impl F16Converter) -> [Self; LANES] {
        values
    }
    #[inline(always)]
    fn rounds_to_at_most_zero(value: f64) -> bool {
        value <= 0.0
    }
}

impl SimdElement for f32 {
    #[inline(always)]
    fn widen(elements: [Self; LANES], _: &impl F16Converter) -> [f64; LANES] {
        let mut values = [0.0; LANES];
        for (value, element) in values.iter_mut().zip(elements) {
            *value = f64::from(element);
        }
        values
    }
    #[inline(always)]
    fn narrow(values: [f64; LANES], _: &impl F16Converter) -> [Self; LANES] {
        let mut elements = [0.0; LANES];
        for (element, value) in elements.iter_mut().zip(values) {
            *element = value as f32;
        }
        elements
    }
    #[inline(always)]
    fn rounds_to_at_most_zero(value: f64) -> bool {
        is_at_most_half(value, 0.0)
    }
}

impl SimdElement for bf16 {
    #[inline(always)]
    fn widen(elements: [Self; LANES], f16_converter: &impl F16Converter) -> [f64; LANES] {
        let mut values = [0.0; LANES];
        for (value, element) in values.iter_mut().zip(elements) {
            *value = f32::from_bits(u32::from(element.to_bits()) << 16);
        }
        f32::widen(values, f16_converter)
    }
    #[inline(always)]
    fn narrow(values: [f64; LANES], f16_converter: &impl F16Converter) -> [Self; LANES] {
        let mut elements = [Self::ZERO; LANES];
        for (element, value) in elements.iter_mut().zip(f32::narrow(values, f16_converter)) {
            let bits = value.to_bits();
            let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1));
            let quiet = bits | 0x40_0000;
            *element = Self::from_bits(((if value.is_nan() { quiet } else { rounded }) >> 16) as u16);
        }
        elements
    }
    #[inline(always)]
    fn rounds_to_at_most_zero(value: f64) -> bool {
        is_at_most_half(value, f32::from_bits(1 << 16))
    }
}

impl SimdElement for f16 {
    #[inline(always)]
    fn widen(elements: [Self; LANES], f16_converter: &impl F16Converter) -> [f64; LANES] {
        let [low, high]: [[u16; 8]; 2] = bytemuck::cast(elements);
        f32::widen(bytemuck::cast([f16_converter.widen(low), f16_converter.widen(high)]), f16_converter)
    }
    #[inline(always)]
    fn narrow(values: [f64; LANES], f16_converter: &impl F16Converter) -> [Self; LANES] {
        let [low, high]: [[f32; 8]; 2] = bytemuck::cast(f32::narrow(values, f16_converter));
        bytemuck::cast([f16_converter.narrow(low), f16_converter.narrow(high)])
    }
    #[inline(always)]
    fn rounds_to_at_most_zero(value: f64) -> bool {
        is_at_most_half(value, 1.0 / 16_777_216.0)
    }
}

#[cfg(test)]
mod tests {
    use multiversion::multiversion;

    use super::*;

    #[multiversion(targets("x86_64+avx2+f16c"))]
    fn widen<T: SimdElement>(elements: [T; LANES]) -> [f64; LANES] {
        T::widen(elements, &f16_converter!())
    }

    #[multiversion(targets("x86_64+avx2+f16c"))]
    fn narrow<T: SimdElement>(values: [f64; LANES]) -> [T; LANES] {
        T::narrow(values, &f16_converter!())
    }

    /// Holds the conversions against those of `Element`, around every value of a half type and between them, with what
    /// this processor has and without.
    fn check<T: SimdElement>(from_bits: fn(u16) -> T, to_bits: fn(T) -> u16) {
        let portable = (widen_f16, narrow_f16);
        let same = |value: f64| {
            let want = T::from_f64(value);
            for got in [narrow([value; LANES]), T::narrow([value; LANES], &portable)] {
                assert!(got.iter().all(|got| to_bits(*got) == to_bits(want)), "{value:e}: {got:?} for {want:?}");
            }
            let want = want.to_f64();
            assert_eq!(T::rounds_to_at_most_zero(value), want <= 0.0, "{value:e}");
        };
        for bits in 0..=u16::MAX {
            let want = from_bits(bits).to_f64();
            for got in [widen([from_bits(bits); LANES]), T::widen([from_bits(bits); LANES], &portable)] {
                assert!(got.iter().all(|got| got.to_bits() == want.to_bits()), "{bits:#x}: {got:?} for {want}");
            }
            let single = (want as f32).to_bits();
            for near in (0..64).map(|i| (1 << (i / 2)) | (i % 2)).flat_map(|i: u32| [i, i.wrapping_neg()]).chain([0]) {
                same(f64::from(f32::from_bits(single.wrapping_add(near))));
            }
        }
        for bits in (0..=u32::MAX).step_by(99_991) {
            same(f64::from(f32::from_bits(bits)));
        }
        let halves = [1.0 / 33_554_432.0, f64::from(f32::from_bits(1 << 15)), f64::from(f32::from_bits(1)) / 2.0];
        for value in halves.into_iter().chain([1e-300, 1e300, 65519.999999999, 65520.0, 1e-310, f64::NAN]) {
            for value in [value, value * (1.0 + f64::EPSILON), value * (1.0 + 1e-6), value * (1.0 - 1e-6)] {
                same(value);
                same(-value);
            }
        }
    }

    #[test]
    fn half_types_convert_as_elements_do() {
        check::<f16>(f16::from_bits, f16::to_bits);
        check::<bf16>(bf16::from_bits, bf16::to_bits);
    }
}

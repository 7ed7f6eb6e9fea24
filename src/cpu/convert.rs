//! Conversion of a tensor's elements to the type that they are computed in and back, a vector at a time. The results are
//! [`Element`]'s, bit for bit.

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
use fearless_simd::Level;
use fearless_simd::prelude::*;
use fearless_simd::{f32x16, u16x16, u32x16};
use half::{bf16, f16};

use super::level::by_level;
use super::stream::{AHEAD, ahead, ahead_of_stores};
use super::vector::{LANES, PerLane, Real, Vector, Wide};
use crate::element::{Dtype, Element};

/// An element, with the types that its tensors are computed in: f64, where that is asked for, and the usual one.
pub(super) trait SimdElement: Element + Convert<f64> + Convert<Self::Usual> {
    /// For a half type f32, which has all of its values and digits to spare, where its range suffices; for the others f64.
    type Usual: Real + Convert<Self::Usual>;
}

impl SimdElement for f64 {
    type Usual = Self;
}
impl SimdElement for f32 {
    type Usual = f64;
}
impl SimdElement for bf16 {
    type Usual = f32;
}
impl SimdElement for f16 {
    type Usual = f32;
}

/// The most that is 0 once it is an element of a type: half of its smallest step, a tie, which goes to 0, and for what rounds
/// through f32 the tie with the next f32 as well.
pub(super) fn largest_zero(dtype: Dtype) -> f64 {
    let tie = dtype.min_subnormal() / 2.0;
    let step = (tie * Dtype::F32.unit_roundoff()).max(Dtype::F32.min_subnormal() / 2.0);
    if dtype.rounds_through_f32() { tie + step } else { tie }
}

/// The least that is 6 or more once it is an element of a type, likewise.
pub(super) fn least_six(dtype: Dtype) -> f64 {
    let tie = 6.0 - 4.0 * dtype.unit_roundoff();
    if dtype.rounds_through_f32() { tie - 4.0 * Dtype::F32.unit_roundoff() } else { tie }
}

/// Conversion of [`LANES`] elements to a vector of a type and back.
pub(super) trait Convert<R: Real>: Copy + Default + Send + Sync + 'static {
    /// Whether the pair is so rare that formulas are compiled for it at the baseline's level only.
    const IS_RARE: bool = false;

    fn load<S: Simd>(simd: S, elements: &[Self; LANES]) -> R::Vector<S>;
    fn store<S: Simd>(simd: S, values: R::Vector<S>, elements: &mut [Self; LANES]);

    /// Converts elements to as many values.
    fn widen(elements: &[Self], values: &mut [R]) {
        by_level!(simd => {
            let (vectors, rest) = elements.as_chunks();
            let (results, rest_of_results) = values.as_chunks_mut();
            for (result, elements) in results.iter_mut().zip(vectors) {
                ahead(elements, AHEAD);
                Self::load(simd, elements).store(result);
            }
            let mut last = [Self::default(); LANES];
            last[..rest.len()].copy_from_slice(rest);
            let mut result = [R::ZERO; LANES];
            Self::load(simd, &last).store(&mut result);
            rest_of_results.copy_from_slice(&result[..rest.len()]);
        });
    }

    /// Converts values to as many elements.
    fn narrow(values: &[R], elements: &mut [Self]) {
        by_level!(simd => {
            let (vectors, rest) = values.as_chunks();
            let (results, rest_of_results) = elements.as_chunks_mut();
            for (result, values) in results.iter_mut().zip(vectors) {
                ahead_of_stores(result);
                Self::store(simd, Vector::load(simd, values), result);
            }
            let mut last = [R::ZERO; LANES];
            last[..rest.len()].copy_from_slice(rest);
            let mut result = [Self::default(); LANES];
            Self::store(simd, Vector::load(simd, &last), &mut result);
            rest_of_results.copy_from_slice(&result[..rest.len()]);
        });
    }
}

/// A type that it is computed in itself.
macro_rules! by_itself {
    ($($real:ty)*) => {$(
        impl Convert<$real> for $real {
            #[inline(always)]
            fn load<S: Simd>(simd: S, elements: &PerLane<$real>) -> <$real as Real>::Vector<S> {
                Vector::load(simd, elements)
            }
            #[inline(always)]
            fn store<S: Simd>(_: S, values: <$real as Real>::Vector<S>, elements: &mut PerLane<$real>) {
                values.store(elements);
            }
        }
    )*};
}

by_itself! { f32 f64 }

impl Convert<f64> for f32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, elements: &[Self; LANES]) -> Wide<S> {
        f32x16::load_array_ref(simd, elements).to_wide()
    }
    #[inline(always)]
    fn store<S: Simd>(_: S, values: Wide<S>, elements: &mut [Self; LANES]) {
        values.to_single().store_slice(elements);
    }
}

/// A half type and f64, by way of f32.
macro_rules! through_f32 {
    ($($half:ty)*) => {$(
        impl Convert<f64> for $half {
            const IS_RARE: bool = true;

            #[inline(always)]
            fn load<S: Simd>(simd: S, elements: &[Self; LANES]) -> Wide<S> {
                <Self as Convert<f32>>::load(simd, elements).to_wide()
            }
            #[inline(always)]
            fn store<S: Simd>(simd: S, values: Wide<S>, elements: &mut [Self; LANES]) {
                <Self as Convert<f32>>::store(simd, values.to_single(), elements);
            }
        }
    )*};
}

through_f32! { f16 bf16 }

impl Convert<f32> for bf16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, elements: &[Self; LANES]) -> f32x16<S> {
        let bits: [u16; LANES] = bytemuck::cast(*elements);
        match simd.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(token) => x86::widen_bf16(token, bits).simd_into(simd),
            _ => {
                let (low, high) = simd.widen_u16x16(u16x16::load_array(simd, bits));
                (simd.combine_u32x8(low, high) << 16).bitcast()
            }
        }
    }
    #[inline(always)]
    fn store<S: Simd>(simd: S, values: f32x16<S>, elements: &mut [Self; LANES]) {
        #[cfg(target_arch = "x86_64")]
        if let Level::Avx512(token) = simd.level() {
            *elements = bytemuck::cast(x86::narrow_bf16(token, values.into()));
            return;
        }
        let bits: u32x16<S> = values.bitcast();
        let rounded: f32x16<S> =
            (bits + ((bits >> 16 & u32x16::splat(simd, 1)) + u32x16::splat(simd, 0x7FFF))).bitcast();
        let quiet: f32x16<S> = (bits | u32x16::splat(simd, 0x40_0000)).bitcast();
        let bits = values.simd_eq(values).select(rounded, quiet).bitcast::<u32x16<S>>() >> 16;
        let (low, high) = simd.split_u32x16(bits);
        let halves: [u16; LANES] = *simd.narrow_u32x8(low, high);
        *elements = bytemuck::cast(halves);
    }
}

impl Convert<f32> for f16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, elements: &[Self; LANES]) -> f32x16<S> {
        let bits: [u16; LANES] = bytemuck::cast(*elements);
        match simd.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(token) => x86::widen_f16(token, bits).simd_into(simd),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(token) => {
                let [low, high]: [[u16; 8]; 2] = bytemuck::cast(bits);
                let [low, high] = [x86::widen_f16_avx2(token, low), x86::widen_f16_avx2(token, high)];
                simd.combine_f32x8(low.simd_into(simd), high.simd_into(simd))
            }
            _ => {
                let mut values = [0.0; LANES];
                for i in 0..LANES {
                    values[i] = widen_f16(bits[i]);
                }
                values.simd_into(simd)
            }
        }
    }
    #[inline(always)]
    fn store<S: Simd>(simd: S, values: f32x16<S>, elements: &mut [Self; LANES]) {
        let bits: [u16; LANES] = match simd.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(token) => x86::narrow_f16(token, values.into()),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(token) => {
                let (low, high) = simd.split_f32x16(values);
                bytemuck::cast([x86::narrow_f16_avx2(token, low.into()), x86::narrow_f16_avx2(token, high.into())])
            }
            _ => {
                let mut bits = [0; LANES];
                for i in 0..LANES {
                    bits[i] = narrow_f16(values[i]);
                }
                bits
            }
        };
        *elements = bytemuck::cast(bits);
    }
}

/// An f16's bits at their places in an f32, whose exponent is then off by 112, infinity's and NaN's by as much again.
#[inline(always)]
fn widen_f16(half: u16) -> f32 {
    const TWO_TO_112: f32 = f32::from_bits(0x7780_0000);
    let bits = i32::from(half.cast_signed());
    let placed = (bits << 13).cast_unsigned() & 0x8FFF_E000;
    let all_ones = if bits & 0x7C00 == 0x7C00 { 0x7F80_0000 } else { 0 };
    let scaled = f32::from_bits(placed) * TWO_TO_112;
    f32::from_bits(scaled.to_bits() | all_ones)
}

#[inline(always)]
fn narrow_f16(value: f32) -> u16 {
    const TWO_TO_MINUS_14: i32 = 0x3880_0000;
    const TWO_TO_16: i32 = 0x4780_0000;
    const INFINITY: i32 = 0x7F80_0000;
    let bits = value.to_bits().cast_signed();
    let magnitude = bits & 0x7FFF_FFFF;
    let normal = (magnitude.wrapping_add(0xFFF - 0x3800_0000) + (magnitude >> 13 & 1)) >> 13;
    // The steps of an f32 from 0.5 on are those of a subnormal f16.
    let subnormal = (value.abs() + 0.5).to_bits().cast_signed() - 0x3F00_0000;
    let finite = if magnitude < TWO_TO_MINUS_14 { subnormal } else { normal };
    let quiet = 0x7E00 | magnitude >> 13 & 0x3FF;
    let beyond = if magnitude > INFINITY { quiet } else { 0x7C00 };
    let rounded = if magnitude >= TWO_TO_16 { beyond } else { finite };
    (bits >> 16 & 0x8000 | rounded) as u16
}

#[cfg(test)]
mod tests {
    use super::super::level::forced::at_each_level;
    use super::*;

    /// Holds the conversions against those of `Element`, around every value of a half type and between them, at every level.
    fn check<T: SimdElement<Usual = f32>>(from_bits: fn(u16) -> T, to_bits: fn(T) -> u16) {
        let all: Vec<T> = (0..=u16::MAX).map(from_bits).collect();
        for got in at_each_level(|| {
            let (mut single, mut double) = (vec![0f32; all.len()], vec![0f64; all.len()]);
            T::widen(&all, &mut single);
            T::widen(&all, &mut double);
            single.into_iter().zip(double)
        }) {
            for ((single, double), element) in got.zip(&all) {
                let want = element.to_f64();
                assert_eq!((f64::from(single).to_bits(), double.to_bits()), (want.to_bits(), want.to_bits()));
            }
        }
        let near = (0..64u32).map(|i| (1 << (i / 2)) | (i % 2)).flat_map(|i| [i, i.wrapping_neg()]).chain([0]);
        let near: Vec<u32> = near.collect();
        let around = |element: &T| (element.to_f64() as f32).to_bits();
        let mut values: Vec<f64> = all
            .iter()
            .flat_map(|element| near.iter().map(|near| f64::from(f32::from_bits(around(element).wrapping_add(*near)))))
            .chain((0..=u32::MAX).step_by(99_991).map(|bits| f64::from(f32::from_bits(bits))))
            .collect();
        let halves = [1.0 / 33_554_432.0, f64::from(f32::from_bits(1 << 15)), f64::from(f32::from_bits(1)) / 2.0];
        for value in halves.into_iter().chain([1e-300, 1e300, 65519.999999999, 65520.0, 1e-310, f64::NAN]) {
            let near = [value, value * (1.0 + f64::EPSILON), value * (1.0 + 1e-6), value * (1.0 - 1e-6)];
            values.extend(near.into_iter().flat_map(|value| [value, -value]));
        }
        for got in at_each_level(|| {
            let mut elements = vec![T::default(); values.len()];
            T::narrow(&values, &mut elements);
            elements
        }) {
            for (got, value) in got.into_iter().zip(&values) {
                let want = T::from_f64(*value);
                assert_eq!(to_bits(got), to_bits(want), "{value:e}: {got:?} for {want:?}");
            }
        }
        for value in values {
            let y = T::from_f64(value);
            assert_eq!(value <= largest_zero(T::DTYPE), y.to_f64() <= 0.0, "{value:e}");
        }
    }

    #[test]
    fn half_types_convert_as_elements_do() {
        check::<f16>(f16::from_bits, f16::to_bits);
        check::<bf16>(bf16::from_bits, bf16::to_bits);
    }
}

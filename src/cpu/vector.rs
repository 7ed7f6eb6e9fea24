//! Vectors of [`LANES`] values, in f32 and in f64, that formulas are written over once.
#![expect(clippy::needless_range_loop, reason = "loops over halves: what is indexed is several arrays side by side")]

use core::any::TypeId;
use core::fmt::Debug;
use core::ops::{Add, Div, Mul, Sub};

use fearless_simd::prelude::*;
use fearless_simd::{f32x16, f64x8, u32x16, u64x8};

/// Values taken at a time.
pub(super) const LANES: usize = 16;

/// One value a lane.
pub(super) type PerLane<R> = [R; LANES];

/// A type to compute in: f32 or f64.
pub(super) trait Real: Copy + Debug + Send + Sync + 'static {
    const ZERO: Self;
    /// The most that `exp(-|v|)` is not 0 at, hardly a normal number there.
    const EXP_LIMIT: f64;
    /// Terms of the Taylor series of `exp(r)` at `|r| <= ln(2) / 2`: the first that is left out is less than half a rounding.
    const EXP_TERMS: usize;
    /// Bits of the significand behind the point.
    const FRACTION_BITS: u32;
    /// `ln(2)` in two parts. The first has bits to spare, so that its product with a whole number is exact.
    const LN_2: [f64; 2];

    type Vector<S: Simd>: Vector<S, Real = Self>;

    fn from_f64(value: f64) -> Self;
    fn to_f64(self) -> f64;
    /// A value near this one, from which differences are exact where they can be.
    fn pivot(value: f64) -> f64;
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const EXP_LIMIT: f64 = 87.0;
    const EXP_TERMS: usize = 8;
    const FRACTION_BITS: u32 = 23;
    const LN_2: [f64; 2] = [0.693_145_751_953_125, 1.428_606_765_330_187e-6];

    type Vector<S: Simd> = f32x16<S>;

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value as Self
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    /// One of 16 digits: a half type's value less this needs no more than those of an f32, unless it is far smaller.
    #[inline(always)]
    fn pivot(value: f64) -> f64 {
        f64::from(Self::from_bits((value as Self).to_bits() & !0xFF))
    }
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const EXP_LIMIT: f64 = 708.0;
    const EXP_TERMS: usize = 14;
    const FRACTION_BITS: u32 = 52;
    const LN_2: [f64; 2] = [f64::from_bits(0x3fe6_2e42_fee0_0000), 1.908_214_929_270_587_7e-10];

    type Vector<S: Simd> = Wide<S>;

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn pivot(value: f64) -> f64 {
        value
    }
}

/// Whether a type is f64.
pub(super) fn is_f64<R: Real>() -> bool {
    TypeId::of::<R>() == TypeId::of::<f64>()
}

/// A vector of a [`Real`] type. Conversions of constants and comparisons are all that differs between the two.
pub(super) trait Vector<S: Simd>:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    type Real: Real;

    fn splat(simd: S, value: f64) -> Self;
    fn load(simd: S, values: &PerLane<Self::Real>) -> Self;
    fn store(self, values: &mut PerLane<Self::Real>);
    fn magnitude(self) -> Self;
    /// `then` in the lanes where this is at most `limit`, `otherwise` in the others, and for NaN.
    fn select_at_most(self, limit: Self, then: Self, otherwise: Self) -> Self;
    /// A bit a lane of whether this is at most `limit`, which NaN is not.
    fn bits_at_most(self, limit: Self) -> u16;
    /// This in the first lanes, 0 in the others, whatever is there.
    fn first_lanes(self, simd: S, count: usize) -> Self;
    /// This times `2^n`, by the last bits of `1.5 * 2^p + n`, where p is the place of the last bit.
    fn times_two_to(self, shifted: Self) -> Self;
    fn to_wide(self) -> Wide<S>;
}

impl<S: Simd> Vector<S> for f32x16<S> {
    type Real = f32;

    #[inline(always)]
    fn splat(simd: S, value: f64) -> Self {
        (value as f32).simd_into(simd)
    }
    #[inline(always)]
    fn load(simd: S, values: &PerLane<f32>) -> Self {
        Self::load_array_ref(simd, values)
    }
    #[inline(always)]
    fn store(self, values: &mut PerLane<f32>) {
        self.store_slice(values);
    }
    #[inline(always)]
    fn magnitude(self) -> Self {
        self.abs()
    }
    #[inline(always)]
    fn select_at_most(self, limit: Self, then: Self, otherwise: Self) -> Self {
        self.simd_le(limit).select(then, otherwise)
    }
    #[inline(always)]
    fn bits_at_most(self, limit: Self) -> u16 {
        self.simd_le(limit).to_bitmask() as u16
    }
    #[inline(always)]
    fn first_lanes(self, simd: S, count: usize) -> Self {
        const INDEX: PerLane<f32> = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];
        let count: Self = (count as f32).simd_into(simd);
        Self::load(simd, &INDEX).simd_lt(count).select(self, 0.0.simd_into(simd))
    }
    #[inline(always)]
    fn times_two_to(self, shifted: Self) -> Self {
        (self.bitcast::<u32x16<S>>() + (shifted.bitcast::<u32x16<S>>() << 23)).bitcast()
    }
    #[inline(always)]
    fn to_wide(self) -> Wide<S> {
        let (low, high) = self.token().widen_f32x16(self);
        Wide([low, high])
    }
}

/// [`LANES`] values in f64.
#[derive(Clone, Copy)]
pub(super) struct Wide<S: Simd>([f64x8<S>; 2]);

impl<S: Simd> Wide<S> {
    /// The nearest in f32.
    #[inline(always)]
    pub(super) fn to_single(self) -> f32x16<S> {
        self.0[0].token().narrow_f64x8(self.0[0], self.0[1])
    }
}

macro_rules! by_halves {
    ($($trait:ident $method:ident)*) => {$(
        impl<S: Simd> $trait for Wide<S> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self([$trait::$method(self.0[0], other.0[0]), $trait::$method(self.0[1], other.0[1])])
            }
        }
    )*};
}

by_halves! { Add add Sub sub Mul mul Div div }

impl<S: Simd> Vector<S> for Wide<S> {
    type Real = f64;

    #[inline(always)]
    fn splat(simd: S, value: f64) -> Self {
        Self([value.simd_into(simd); 2])
    }
    #[inline(always)]
    fn load(simd: S, values: &PerLane<f64>) -> Self {
        let (halves, _) = values.as_chunks::<8>();
        Self([f64x8::load_array_ref(simd, &halves[0]), f64x8::load_array_ref(simd, &halves[1])])
    }
    #[inline(always)]
    fn store(self, values: &mut PerLane<f64>) {
        let (halves, _) = values.as_chunks_mut::<8>();
        self.0[0].store_slice(&mut halves[0]);
        self.0[1].store_slice(&mut halves[1]);
    }
    #[inline(always)]
    fn magnitude(self) -> Self {
        Self([self.0[0].abs(), self.0[1].abs()])
    }
    #[inline(always)]
    fn select_at_most(self, limit: Self, then: Self, otherwise: Self) -> Self {
        let mut halves = self.0;
        for i in 0..2 {
            halves[i] = self.0[i].simd_le(limit.0[i]).select(then.0[i], otherwise.0[i]);
        }
        Self(halves)
    }
    #[inline(always)]
    fn bits_at_most(self, limit: Self) -> u16 {
        let [low, high] = self.0;
        (low.simd_le(limit.0[0]).to_bitmask() | high.simd_le(limit.0[1]).to_bitmask() << 8) as u16
    }
    #[inline(always)]
    fn first_lanes(self, simd: S, count: usize) -> Self {
        const INDEX: [[f64; 8]; 2] = [[0., 1., 2., 3., 4., 5., 6., 7.], [8., 9., 10., 11., 12., 13., 14., 15.]];
        let count: f64x8<S> = (count as f64).simd_into(simd);
        let mut halves = self.0;
        for i in 0..2 {
            let index = f64x8::load_array_ref(simd, &INDEX[i]);
            halves[i] = index.simd_lt(count).select(self.0[i], 0.0.simd_into(simd));
        }
        Self(halves)
    }
    #[inline(always)]
    fn times_two_to(self, shifted: Self) -> Self {
        let mut halves = self.0;
        for i in 0..2 {
            let exponent = shifted.0[i].bitcast::<u64x8<S>>() << 52;
            halves[i] = (self.0[i].bitcast::<u64x8<S>>() + exponent).bitcast();
        }
        Self(halves)
    }
    #[inline(always)]
    fn to_wide(self) -> Self {
        self
    }
}

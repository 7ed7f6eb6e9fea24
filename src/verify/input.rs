//! The inputs of cases.

use super::cases::Group;
use super::order::indices;
use crate::element::{Dtype, Element};

/// The values of `x`, and what is special about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// Mean 0.5, sigma 1.
    Normal,
    /// Mean 1e4, sigma 1: `E[x²] − E[x]²` loses all digits of an f32.
    Mean1e4,
    /// Mean 1e6, sigma 1: `E[x²] − E[x]²` loses most digits of an f64.
    Mean1e6,
    /// Mean 20, sigma 1, for dtypes too coarse for 1e4.
    Mean20,
    /// 1e3 ± 1e-2.
    Narrow,
    /// The channel's first value is 1e4, the rest has mean 0 and sigma 1: no good value to shift by.
    FirstFar,
    /// The channel's first value is 0, the rest is far off with sigma 1: at 1e6, or at 100 in dtypes too coarse for that.
    RestFar,
    /// One value in the whole channel: `y = beta`, exactly.
    Constant,
    /// Close to ±65504, the largest f16.
    NearMax,
    /// Below the smallest normal value.
    Subnormal,
    /// One NaN in one channel.
    Nan,
    /// One infinity in one channel.
    Inf,
    /// The first sample is all zero.
    ZeroSample,
    /// Gradients so large that `dy * (x - mean)` passes 65504.
    LargeGradient,
    /// Infinities of one sign or both, and NaN: first, last, all over a channel, each in its own.
    Infinities,
    /// Close to ± the largest value of the dtype: differences, sums and squares are beyond f32. Moments alone.
    Largest,
    /// Running variances of 0, constant channels, and an `eps` of 0.
    ZeroVariance,
    /// Running variances around `-eps`, down to -1, and without a value.
    NegativeVariance,
}

/// Whether values about `mean` are rounded by less than a tenth of `sigma`.
fn resolves(dtype: Dtype, mean: f64, sigma: f64) -> bool {
    mean * dtype.unit_roundoff() < 0.1 * sigma
}

impl Input {
    /// All but [`Input::Normal`].
    pub const SPECIAL: [Self; 17] = [
        Self::Mean1e4,
        Self::Mean1e6,
        Self::Mean20,
        Self::Narrow,
        Self::FirstFar,
        Self::RestFar,
        Self::Constant,
        Self::NearMax,
        Self::Subnormal,
        Self::Nan,
        Self::Inf,
        Self::ZeroSample,
        Self::LargeGradient,
        Self::Infinities,
        Self::Largest,
        Self::ZeroVariance,
        Self::NegativeVariance,
    ];

    /// Whether the dtype can hold it.
    pub fn suits(self, dtype: Dtype) -> bool {
        match self {
            Self::Mean1e4 => resolves(dtype, 1e4, 1.0),
            Self::Mean1e6 => resolves(dtype, 1e6, 1.0),
            Self::Narrow => resolves(dtype, 1e3, 1e-2),
            Self::Mean20 => resolves(dtype, 20.0, 1.0) && !resolves(dtype, 1e4, 1.0),
            Self::Largest => (0.5..=1.0).contains(&(dtype.max() / Dtype::F32.max())),
            Self::Normal
            | Self::FirstFar
            | Self::RestFar
            | Self::Constant
            | Self::NearMax
            | Self::Subnormal
            | Self::Nan
            | Self::Inf
            | Self::ZeroSample
            | Self::LargeGradient
            | Self::Infinities
            | Self::ZeroVariance
            | Self::NegativeVariance => true,
        }
    }

    /// The constant that is added to the variance.
    pub fn eps(self) -> f64 {
        if self == Self::ZeroVariance { 0.0 } else { 1e-5 }
    }

    /// Whether more than moments can be had of it: what f32 cannot hold it cannot normalize.
    pub(super) fn normalizes(self) -> bool {
        self != Self::Largest
    }

    /// The value of `x` at `place` (counted within the channel) of `channel`, before rounding.
    fn x(self, group: &Group, channel: usize, place: usize, normal: f64) -> f64 {
        let in_odd_channel = channel == group.shape.c() / 2;
        let in_middle = in_odd_channel && place == group.shape.m() / 2;
        match self {
            Self::Normal => 0.5 + normal,
            Self::Mean1e4 => 1e4 + normal,
            Self::Mean1e6 => 1e6 + normal,
            Self::Mean20 => 20.0 + normal,
            Self::Narrow => 1e3 + 1e-2 * normal,
            Self::FirstFar => {
                if place == 0 {
                    1e4
                } else {
                    normal
                }
            }
            Self::RestFar if place == 0 => 0.0,
            Self::RestFar if resolves(group.dtype, 1e6, 1.0) => 1e6 + normal,
            Self::RestFar => 100.0 + normal,
            Self::Constant => 0.1 * (1 + channel) as f64,
            Self::NearMax => (65504.0 - 300.0 * normal.abs()).copysign(normal),
            Self::Subnormal => group.dtype.min_subnormal() * (20.0 * normal).round(),
            Self::Nan => {
                if in_middle {
                    f64::NAN
                } else {
                    normal
                }
            }
            Self::Inf => {
                if in_middle {
                    f64::INFINITY
                } else {
                    normal
                }
            }
            Self::ZeroSample => {
                if place < group.shape.s() {
                    0.0
                } else {
                    3.0 + normal
                }
            }
            Self::LargeGradient => 20.0 * normal,
            Self::Infinities => {
                let (is_first, is_last) = (place == 0, place + 1 == group.shape.m());
                match channel % 8 {
                    0 if is_first => f64::NEG_INFINITY,
                    1 if is_last => f64::INFINITY,
                    2 if is_first => f64::INFINITY,
                    2 if is_last => f64::NEG_INFINITY,
                    3 if place % 5 == 2 => f64::NEG_INFINITY,
                    4 => f64::INFINITY,
                    5 if is_first => f64::NAN,
                    5 if is_last => f64::INFINITY,
                    6 if place % 64 == 8 => f64::INFINITY,
                    _ => normal,
                }
            }
            // Of both signs, of one, and as much as it fits.
            Self::Largest => {
                let size = group.dtype.max() * (1.0 - 0.2 * normal.abs().min(1.0));
                if channel.is_multiple_of(2) { size.copysign(normal) } else { -size }
            }
            Self::ZeroVariance if channel.is_multiple_of(4) || channel % 4 == 3 => 0.25 * (1 + channel % 64) as f64,
            Self::ZeroVariance | Self::NegativeVariance => normal,
        }
    }

    /// The running variance of `channel` before rounding, where a positive one would do.
    fn running_var(self, channel: usize, positive: f64, rounded_eps: f64) -> f64 {
        match self {
            Self::ZeroVariance => [0.0, positive, -0.0, positive][channel % 4],
            Self::NegativeVariance => {
                let a_hair_above = -rounded_eps * (1.0 - 1.0 / 1_048_576.0);
                [-rounded_eps, positive, a_hair_above, -1.0, f64::NAN, 0.0, f64::INFINITY][channel % 7]
            }
            _ => positive,
        }
    }
}

/// The data of a group.
#[derive(Clone, Debug)]
pub struct Inputs<T: Element> {
    /// Data.
    pub x: Vec<T>,
    /// Residual.
    pub z: Vec<T>,
    /// Gradient of `y`.
    pub dy: Vec<T>,
    /// Scale.
    pub gamma: Vec<T::Param>,
    /// Offset.
    pub beta: Vec<T::Param>,
    /// Running mean before.
    pub running_mean: Vec<T::Param>,
    /// Running variance before.
    pub running_var: Vec<T::Param>,
    /// Batches counted before.
    pub num_batches_tracked: i64,
}

impl<T: Element> Inputs<T> {
    /// The data of this group: the same on every call and on every machine.
    pub fn new(group: &Group) -> Self {
        let shape = group.shape;
        let mut x = vec![T::default(); shape.len()];
        for channel in 0..shape.c() {
            for (place, index) in indices(shape, channel).enumerate() {
                let value = group.input.x(group, channel, place, normal(1, index));
                x[index] = T::from_f64(value.clamp(-group.dtype.max(), group.dtype.max()));
                if value.is_infinite() {
                    x[index] = T::from_f64(value);
                }
            }
        }
        let gradient = if group.input == Input::LargeGradient { 1e4 } else { 1.0 };
        let data = |seed, scale: f64| (0..shape.len()).map(|i| T::from_f64(scale * normal(seed, i))).collect();
        let channels = |seed, mean: f64, scale: f64| -> Vec<T::Param> {
            (0..shape.c()).map(|i| <T::Param as Element>::from_f64(mean + scale * normal(seed, i))).collect()
        };
        let rounded = <T::Param as Element>::from_f64;
        let running_var = |i| group.input.running_var(i, 0.5 + normal(7, i).abs(), rounded(group.input.eps()).to_f64());
        Self {
            x,
            z: data(2, 1.0),
            dy: data(3, gradient),
            gamma: channels(4, 0.7, 0.7),
            beta: channels(5, 0.0, 1.0),
            running_mean: channels(6, 0.3, 1.0),
            running_var: (0..shape.c()).map(|i| rounded(running_var(i))).collect(),
            num_batches_tracked: 3,
        }
    }
}

/// Roughly normal, mean 0 and sigma 1, within ±3.5: the sum of four uniform values out of one hash.
fn normal(seed: u64, index: usize) -> f64 {
    // splitmix64
    let mut h = (index as u64).wrapping_add(seed << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    h = (h ^ (h >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    h ^= h >> 31;
    let sum: u64 = (0..4).map(|i| h >> (16 * i) & 0xFFFF).sum();
    (sum as f64 / 65536.0 - 2.0) * 3f64.sqrt()
}

//! The values of tensors: data in f32, f16, bf16 or (on the CPU) f64, per-channel values in f32 or f64.

use core::fmt;

use half::{bf16, f16};

use crate::backend::Sealed;
use crate::named::named;

/// The type of a tensor's values.
#[cfg_attr(not(feature = "exhaustive"), non_exhaustive)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    Bf16,
    /// IEEE binary64, on the CPU only.
    F64,
}

named! {
    Dtype {
        F32 => "f32",
        F16 => "f16",
        Bf16 => "bf16",
        F64 => "f64",
    }
}

impl Dtype {
    /// The dtypes that `Cuda` computes.
    pub const ON_CUDA: &'static [Self] = &[Self::F32, Self::F16, Self::Bf16];

    /// Whether `Cuda` computes it; the CPU computes all.
    pub fn is_on_cuda(self) -> bool {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => true,
            Self::F64 => false,
        }
    }

    /// The name in NumPy, PyTorch, TensorFlow and JAX.
    pub fn array_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::F64 => "float64",
        }
    }

    /// The dtype of per-channel values that go with such data: that of [`Element::Param`].
    pub fn param(self) -> Self {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => Self::F32,
            Self::F64 => Self::F64,
        }
    }

    /// The size of a value.
    pub fn bytes(self) -> u32 {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// The unit roundoff: the largest relative error of rounding to nearest.
    pub fn unit_roundoff(self) -> f64 {
        match self {
            Self::F32 => f64::EPSILON * 536_870_912.0 / 2.0, // 2^-24
            Self::F16 => 1.0 / 2048.0,                       // 2^-11
            Self::Bf16 => 1.0 / 256.0,                       // 2^-8
            Self::F64 => f64::EPSILON / 2.0,                 // 2^-53
        }
    }

    /// Whether a result is rounded to f32 first and then to it, as a GPU does.
    pub fn rounds_through_f32(self) -> bool {
        match self {
            Self::F16 | Self::Bf16 => true,
            Self::F32 | Self::F64 => false,
        }
    }

    /// The largest finite value.
    pub fn max(self) -> f64 {
        match self {
            Self::F32 => f64::from(f32::MAX),
            Self::F16 => f16::MAX.to_f64(),
            Self::Bf16 => bf16::MAX.to_f64(),
            Self::F64 => f64::MAX,
        }
    }

    /// The smallest positive subnormal: the spacing of values around zero.
    pub fn min_subnormal(self) -> f64 {
        match self {
            Self::F32 => f64::from(f32::from_bits(1)),
            Self::F16 => f16::from_bits(1).to_f64(),
            Self::Bf16 => bf16::from_bits(1).to_f64(),
            Self::F64 => f64::from_bits(1),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A type that a buffer of any backend may hold. Sealed, so that what a feature adds to it is no breaking change.
#[cfg(not(feature = "cuda"))]
pub trait Stored: Sealed + Copy + Default + fmt::Debug + Send + Sync + bytemuck::Pod {}

/// A type that a buffer of any backend may hold. Sealed, so that what a feature adds to it is no breaking change.
#[cfg(feature = "cuda")]
pub trait Stored:
    Sealed
    + Copy
    + Default
    + fmt::Debug
    + Send
    + Sync
    + bytemuck::Pod
    + cudarc::driver::DeviceRepr
    + cudarc::driver::ValidAsZeroBits
{
}

/// The type of per-channel values (`gamma`, `beta`, `running_*`, `saved_*`, `dgamma`, `dbeta`): f32 or f64. Sealed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no type of parameters",
    label = "expected f32 or f64",
    note = "parameters are f32 (f64 for f64 data), also of a layer for f16 and bf16 data"
)]
pub trait Param: Element<Param = Self> {}

/// The type of a tensor's data (`x`, `y`, `z`, `dy`, `dx`, `dz`): f32, f16, bf16, and f64 on the CPU. Sealed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no type of data",
    label = "expected f32, f64, `half::f16` or `half::bf16`",
    note = "data is f32, f16 or bf16, and on the CPU f64; f16 and bf16 are those of `batchnorm::half`"
)]
pub trait Element: Stored {
    /// The dtype's name at run time.
    const DTYPE: Dtype;
    /// The type of per-channel values beside this data: f32, and f64 for f64.
    type Param: Param;
    /// The value, exactly.
    fn to_f64(self) -> f64;
    /// The nearest value of this type, ties to even. Half types round through f32, as a GPU does.
    fn from_f64(value: f64) -> Self;
}

macro_rules! element {
    ($($type:ty, $dtype:ident, $param:ty, |$v:ident| $to:expr, $from:expr;)*) => {$(
        impl Sealed for $type {}
        impl Stored for $type {}
        impl Element for $type {
            const DTYPE: Dtype = Dtype::$dtype;
            type Param = $param;
            #[inline]
            fn to_f64(self) -> f64 {
                let $v = self;
                $to
            }
            #[inline]
            fn from_f64($v: f64) -> Self {
                $from
            }
        }
    )*};
}

element! {
    f32, F32, f32, |v| f64::from(v), v as f32;
    f16, F16, f32, |v| f64::from(v.to_f32()), f16::from_f32(v as f32);
    bf16, Bf16, f32, |v| f64::from(v.to_f32()), bf16::from_f32(v as f32);
    f64, F64, f64, |v| v, v;
}

impl Param for f32 {}
impl Param for f64 {}

/// The dtypes once more, for the macros: of these a caller's `match` must know all.
#[doc(hidden)]
#[allow(missing_docs)]
pub enum __Known {
    F32,
    F16,
    Bf16,
    F64,
}

#[doc(hidden)]
pub fn __known(dtype: Dtype) -> __Known {
    match dtype {
        Dtype::F32 => __Known::F32,
        Dtype::F16 => __Known::F16,
        Dtype::Bf16 => __Known::Bf16,
        Dtype::F64 => __Known::F64,
    }
}

/// An expression over the type of a [`Dtype`] that is known at run time only: it is compiled once for each type, under
/// the name that stands before `=>`.
///
/// ```
/// use batchnorm::{Dtype, Element, with_element};
///
/// /// The nearest value of this dtype.
/// fn rounded(dtype: Dtype, value: f64) -> f64 {
///     with_element!(dtype, T => T::from_f64(value).to_f64())
/// }
///
/// let each: Vec<_> = Dtype::ALL.iter().map(|dtype| rounded(*dtype, 1.003)).collect();
/// assert_eq!(each, [1.003f32.into(), 1.0029296875, 1.0, 1.003]);
/// ```
#[macro_export]
macro_rules! with_element {
    ($dtype:expr, $T:ident => $run:expr $(,)?) => {
        $crate::with_device_element!($dtype, $T => $run, f64 => {
            type $T = f64;
            $run
        })
    };
}

/// As [`with_element!`](crate::with_element) for the types that `Cuda` computes, whose parameters are f32; and what is to be done
/// with f64, which the CPU alone computes.
///
/// ```
/// use batchnorm::{Dtype, Element, with_device_element};
///
/// fn bytes_of_a_channel<T: Element<Param = f32>>(values: usize) -> usize {
///     values * size_of::<T>()
/// }
///
/// let bytes = |dtype| {
///     with_device_element!(dtype, T => Ok(bytes_of_a_channel::<T>(10)), f64 => Err("expected f32, f16 or bf16, got f64"))
/// };
/// assert_eq!(bytes(Dtype::Bf16), Ok(20));
/// assert!(bytes(Dtype::F64).is_err());
/// ```
#[macro_export]
macro_rules! with_device_element {
    ($dtype:expr, $T:ident => $run:expr, f64 => $otherwise:expr $(,)?) => {
        match $crate::__known($dtype) {
            $crate::__Known::F32 => {
                type $T = f32;
                $run
            }
            $crate::__Known::F16 => {
                type $T = $crate::half::f16;
                $run
            }
            $crate::__Known::Bf16 => {
                type $T = $crate::half::bf16;
                $run
            }
            $crate::__Known::F64 => $otherwise,
        }
    };
}

impl Sealed for i64 {}
impl Stored for i64 {}
impl Sealed for u32 {}
impl Stored for u32 {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dtypes_on_cuda_are_those_that_say_so() {
        assert!(Dtype::ALL.iter().filter(|dtype| dtype.is_on_cuda()).eq(Dtype::ON_CUDA));
    }

    #[test]
    fn constants_of_a_dtype_are_those_of_its_type() {
        fn check<T: Element>() {
            let (u, max, tiny) = (T::DTYPE.unit_roundoff(), T::DTYPE.max(), T::DTYPE.min_subnormal());
            assert_eq!(T::from_f64(1.0 + u).to_f64(), 1.0, "a tie goes to even");
            assert_eq!(T::from_f64(1.0 + 2.0 * u).to_f64(), 1.0 + 2.0 * u);
            assert_eq!(T::from_f64(max).to_f64(), max);
            assert!(T::DTYPE == Dtype::F64 || T::from_f64(max * (1.0 + 2.0 * u)).to_f64().is_infinite());
            assert_eq!(T::from_f64(tiny).to_f64(), tiny);
            assert_eq!(T::from_f64(tiny / 4.0).to_f64(), 0.0);
            assert!(T::from_f64(f64::NAN).to_f64().is_nan());
            assert_eq!(T::DTYPE.bytes() as usize, size_of::<T>());
            assert_eq!(T::DTYPE.param(), T::Param::DTYPE);
            // A hair above a tie of T, which an f32 cannot hold so close to 1: it is the tie for what goes through f32.
            let above = T::from_f64(1.0 + u + 2f64.powi(-40)).to_f64();
            assert_eq!(above == 1.0, T::DTYPE.rounds_through_f32(), "{}", T::DTYPE);
        }
        check::<f32>();
        check::<f16>();
        check::<bf16>();
        check::<f64>();
    }
}

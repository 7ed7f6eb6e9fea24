//! The comparison: one rule for every tensor, with a message that says where and what.

use core::fmt;

use super::oracle::{Expected, indices};
use super::tolerance::rounding;
use super::{Case, Outputs};
use crate::{Dtype, Error, Layout, Shape};

/// Why a case did not hold.
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure {
    /// The operation returned an error.
    Refused(Error),
    /// The forward pass before the operation returned an error.
    Forward(Error),
    /// It did not run: the device was lost before, or the time was over.
    NotReached,
    /// A tensor is missing, or has another length.
    Missing {
        /// The tensor's name.
        tensor: &'static str,
    },
    /// A tensor was written that the oracle does not name: nothing would hold its values against anything.
    Unexpected {
        /// The tensor's name.
        tensor: &'static str,
    },
    /// A value is too far from the oracle's.
    Mismatch {
        /// The tensor's name.
        tensor: &'static str,
        /// The index in memory.
        index: usize,
        /// Sample, channel and place within the plane; the channel alone for a per-channel tensor.
        place: [usize; 3],
        /// The backend's value.
        got: f64,
        /// The oracle's value.
        want: f64,
        /// How far apart they may be.
        allowed: f64,
    },
}

impl Failure {
    /// Whether a forced strategy has no room for the case, or the device does not have it.
    pub fn is_left_out(&self) -> bool {
        let is_strategy = |error: &Error| matches!(error, Error::Strategy { .. } | Error::NoStrategy { .. });
        matches!(self, Self::Refused(error) | Self::Forward(error) if is_strategy(error))
    }

    /// Whether the device was lost with it: see [`Error::is_device_lost`].
    pub fn is_device_lost(&self) -> bool {
        matches!(self, Self::Refused(error) | Self::Forward(error) if error.is_device_lost())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "refused: {error}"),
            Self::Forward(error) => write!(f, "refused in its forward pass: {error}"),
            Self::NotReached => f.write_str("not reached"),
            Self::Missing { tensor } => write!(f, "{tensor} is missing or has another length"),
            Self::Unexpected { tensor } => write!(f, "{tensor} is written, and the oracle does not name it"),
            Self::Mismatch { tensor, index, place: [n, c, s], got, want, allowed } => write!(
                f,
                "{tensor}[{index}] at (n, c, s) = ({n}, {c}, {s}): got {got:e}, want {want:e} within {allowed:e}"
            ),
        }
    }
}

/// Holds what a backend gave against the oracle: the largest error as a share of what is allowed, or the first failure.
///
/// # Errors
/// [`Failure::Missing`], [`Failure::Unexpected`], [`Failure::Mismatch`].
pub fn compare(case: &Case, expected: &[Expected], outputs: &Outputs) -> Result<f64, Failure> {
    let is_named = |tensor: &str| expected.iter().any(|expected| expected.name == tensor);
    if let Some(tensor) = outputs.keys().find(|tensor| !is_named(tensor)) {
        return Err(Failure::Unexpected { tensor });
    }
    let mut worst: f64 = 0.0;
    for Expected { name, dtype, is_data, want, slack } in expected {
        let got = outputs.get(name).filter(|got| got.len() == want.len());
        let got = got.ok_or(Failure::Missing { tensor: name })?;
        for (channel, slack) in slack.iter().enumerate() {
            let mut check = |index: usize| {
                let (got, want) = (got[index], want[index]);
                let allowed = rounding(*dtype, want) + slack;
                let share = share(got, want, allowed, *dtype);
                #[expect(clippy::neg_cmp_op_on_partial_ord, reason = "written so that NaN fails")]
                if !(share <= 1.0) {
                    let place = place(case.group.shape, index, *is_data);
                    return Err(Failure::Mismatch { tensor: name, index, place, got, want, allowed });
                }
                worst = worst.max(share);
                Ok(())
            };
            match is_data {
                true => indices(case.group.shape, channel).try_for_each(check)?,
                false => check(channel)?,
            }
        }
    }
    Ok(worst)
}

/// The error as a share of what is allowed; NaN where no error would do.
fn share(got: f64, want: f64, allowed: f64, dtype: Dtype) -> f64 {
    match want.is_finite() {
        // Beyond what the dtype can hold, rounding gives an infinity.
        true if want.abs() > dtype.max() && got == f64::INFINITY.copysign(want) => 0.0,
        true => (got - want).abs() / allowed,
        // NaN where NaN, the same infinity where an infinity.
        false if want.to_bits() == got.to_bits() || (want.is_nan() && got.is_nan()) => 0.0,
        false => f64::NAN,
    }
}

/// Sample, channel and place within the plane of an index.
fn place(shape: Shape, index: usize, is_data: bool) -> [usize; 3] {
    let (c, s) = (shape.c(), shape.s());
    match shape.layout() {
        _ if !is_data => [0, index, 0],
        Layout::ChannelsFirst => [index / (c * s), index / s % c, index % s],
        Layout::ChannelsLast => [index / (c * s), index % c, index / c % s],
    }
}

//! The comparison: one rule for every tensor, with a message that says where and what.

use core::fmt;

use super::oracle::Expected;
use super::order::{index, try_each_channel};
use super::reduce::largest;
use super::run::Written;
use super::tolerance::rounding;
use super::{Case, Outputs};
use crate::{Element, Error, Layout, Shape};

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
    let of_name = |name: &str| outputs.get(name).map(Vec::as_slice);
    compare_by_name(case, expected, outputs.keys().copied(), of_name, of_name)
}

/// [`compare`] for outputs of which data is as it was written.
pub(super) fn compare_written<T: Element>(
    case: &Case,
    expected: &[Expected],
    written: &Written<T>,
) -> Result<f64, Failure> {
    let Written { data, channels } = written;
    let names = data.iter().map(|(name, _)| *name).chain(channels.keys().copied());
    let of_data = |name: &str| data.iter().find(|(of, _)| *of == name).map(|(_, values)| &values[..]);
    compare_by_name(case, expected, names, of_data, |name| channels.get(name).map(Vec::as_slice))
}

/// [`compare`] for outputs of these names, of which one function gives data and the other what has a value for each channel.
fn compare_by_name<'a, T: Element>(
    case: &Case,
    expected: &[Expected],
    mut names: impl Iterator<Item = &'static str>,
    of_data: impl Fn(&str) -> Option<&'a [T]>,
    of_channels: impl Fn(&str) -> Option<&'a [f64]>,
) -> Result<f64, Failure> {
    if let Some(tensor) = names.find(|name| !expected.iter().any(|expected| expected.name == *name)) {
        return Err(Failure::Unexpected { tensor });
    }
    let shape = case.group.shape;
    let mut worst: f64 = 0.0;
    for Expected { name: tensor, dtype, is_data, want, slack } in expected {
        let (rounding, max) = (rounding(*dtype), dtype.max());
        let mut compare = |channel: usize, got: &[f64]| {
            let (want, slack) = (&want[channel * got.len()..][..got.len()], slack[channel]);
            // As if all were finite, in vectors; where that does not hold, one by one.
            let of_finite = largest([got, want], |[got, want]| (got - want).abs() / (rounding(want) + slack));
            if of_finite <= 1.0 {
                worst = worst.max(of_finite);
                return Ok(());
            }
            let share = |[got, want]: [f64; 2]| share(got, want, rounding(want) + slack, max);
            worst = worst.max(largest([got, want], share));
            let failed = got.iter().zip(want).position(|(got, want)| share([*got, *want]) > 1.0);
            let Some(sample) = failed else { return Ok(()) };
            let index = if *is_data { index(shape, channel, sample) } else { channel };
            let (place, got, want) = (place(shape, index, *is_data), got[sample], want[sample]);
            Err(Failure::Mismatch { tensor, index, place, got, want, allowed: rounding(want) + slack })
        };
        if *is_data {
            let got = of_data(tensor).filter(|got| got.len() == want.len()).ok_or(Failure::Missing { tensor })?;
            try_each_channel(shape, got, compare)?;
        } else {
            let got = of_channels(tensor).filter(|got| got.len() == want.len()).ok_or(Failure::Missing { tensor })?;
            got.chunks(1).enumerate().try_for_each(|(channel, got)| compare(channel, got))?;
        }
    }
    Ok(worst)
}

/// The error as a share of what is allowed; infinite where no error would do, and for NaN. `max` is the largest value that can be got.
fn share(got: f64, want: f64, allowed: f64, max: f64) -> f64 {
    // NaN where NaN, the same infinity where an infinity.
    let is_same = want.to_bits() == got.to_bits() || (want.is_nan() && got.is_nan());
    // Rounding gives an infinity there.
    let is_beyond = want.abs() > max && got == f64::INFINITY.copysign(want);
    let share = (got - want).abs() / allowed;
    match (is_same || is_beyond, share.is_finite()) {
        (true, _) => 0.0,
        (false, true) => share,
        (false, false) => f64::INFINITY,
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

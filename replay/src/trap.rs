//! The reason why an execution stops.

use std::fmt;

/// A thing that the PTX must not do, or that is not known here, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trap(Box<str>);

impl Trap {
    /// The first words where a thread has executed as many instructions as it may.
    pub const NO_END: &str = "no end after";

    /// A trap with this message, made one line.
    pub(crate) fn new(what: impl AsRef<str>) -> Self {
        Self(what.as_ref().split_whitespace().collect::<Vec<_>>().join(" ").into())
    }

    /// The same, at a place.
    pub(crate) fn at(self, place: &str) -> Self {
        Self(format!("{} at {place}", self.0).into())
    }
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Trap {}

/// A result of what may trap.
pub(crate) type Result<T> = std::result::Result<T, Trap>;

/// Ends the function with a trap.
macro_rules! trap {
    ($($format:tt)*) => { return Err(crate::trap::Trap::new(format!($($format)*))) };
}
pub(crate) use trap;

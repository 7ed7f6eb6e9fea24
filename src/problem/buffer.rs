//! The facts of a buffer that a [`Problem`](super::Problem) is checked over, read off whatever a backend's buffers are.

/// What a buffer holds, and so how long it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `n * c * s` values.
    Data,
    /// `c` values.
    Channel,
    /// One value.
    Counter,
    /// One bit an element.
    ReluMask,
    /// Scratch memory of any length.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only a device gives its buffers a place"))]
    Workspace,
}

/// Whether an operation writes a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// The facts of one argument, read off whatever the backend's buffers are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) access: Access,
    pub(crate) address: usize,
    pub(crate) len: usize,
    pub(crate) bytes: usize,
    /// Where it is, for memory of a device.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only a device gives its buffers a place"))]
    pub(crate) place: Option<Place>,
}

/// The stream that work on a device buffer is ordered by, or that an operation runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The device's number.
    pub(crate) device: usize,
    /// The handle of the device's context.
    pub(crate) context: usize,
    /// The handle of the stream.
    pub(crate) stream: usize,
    /// Whether the context keeps its streams in order, by events.
    pub(crate) is_tracked: bool,
}

impl Buffer {
    /// How many bytes two buffers have in common.
    pub(super) fn overlap(&self, other: &Self) -> usize {
        let start = self.address.max(other.address);
        let end = (self.address + self.bytes).min(other.address + other.bytes);
        end.saturating_sub(start)
    }
}

//! Every way a call can be refused, one variant a cause, with the numbers in it.

use crate::{Op, Shape};

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// Why a call was refused. Whatever the variant, nothing was written: buffers, statistics and files are as they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A shape has fewer than 2 or more than 5 dimensions.
    #[error("shape {dims:?}: expected 2 to 5 dimensions, got {}", dims.len())]
    Rank {
        /// The dimensions as given.
        dims: Vec<usize>,
    },
    /// A shape has no channels.
    #[error("shape {dims:?}: expected at least 1 channel, got 0")]
    ZeroChannels {
        /// The dimensions as given.
        dims: Vec<usize>,
    },
    /// The product of the dimensions does not fit the address space.
    #[error("shape {dims:?}: expected at most {limit} values, got more")]
    SizeOverflow {
        /// The dimensions as given.
        dims: Vec<usize>,
        /// The largest number of values a tensor may hold.
        limit: usize,
    },
    /// A buffer has the wrong number of values.
    #[error("{tensor}: expected {expected} values, got {actual}")]
    Length {
        /// The argument's name.
        tensor: &'static str,
        /// The number that the shape asks for.
        expected: usize,
        /// The number that the buffer holds.
        actual: usize,
    },
    /// An output overlaps another argument in memory.
    #[error("{output} overlaps {other}: expected separate memory, got {bytes} bytes in common")]
    Aliasing {
        /// The output's name.
        output: &'static str,
        /// The name of the argument that it overlaps.
        other: &'static str,
        /// How many bytes they share.
        bytes: usize,
    },
    /// An optional argument is absent where the operation cannot do without it.
    #[error("{tensor} is missing: {reason}")]
    Missing {
        /// The argument's name.
        tensor: &'static str,
        /// Why it is needed.
        reason: &'static str,
    },
    /// An optional argument is present where the operation has no use for it.
    #[error("{tensor} is not expected: {reason}")]
    Unexpected {
        /// The argument's name.
        tensor: &'static str,
        /// Why it has no place.
        reason: &'static str,
    },
    /// Training with one value a channel, where the unbiased running variance would divide by zero.
    #[error("shape {shape}: expected at least 2 values per channel to train with an unbiased running variance, got 1")]
    OneValuePerChannel {
        /// The shape of the call.
        shape: Shape,
    },
    /// `eps` is negative or not finite.
    #[error("eps: expected a finite value >= 0, got {actual}")]
    Eps {
        /// The value given.
        actual: f64,
    },
    /// `momentum` is outside [0, 1] or not finite.
    #[error("momentum: expected a value in [0, 1], got {actual}")]
    Momentum {
        /// The value given.
        actual: f64,
    },
    /// The operation takes no such epilogue.
    #[error("{op:?}: expected no epilogue, got {actual}")]
    Epilogue {
        /// The operation.
        op: Op,
        /// The epilogue's name.
        actual: &'static str,
    },
    /// A tensor's channels are not the layer's.
    #[error("shape {shape}: expected {expected} channels, got {}", shape.c())]
    Channels {
        /// The shape of the call.
        shape: Shape,
        /// The layer's channels.
        expected: usize,
    },
    /// A call's shape, or its layout, is not that of the forward pass whose statistics it was given.
    #[error("saved statistics: expected {expected}, got {actual}")]
    SavedShape {
        /// The shape that the statistics were made for.
        expected: Shape,
        /// The shape of the call.
        actual: Shape,
    },
    /// A layer that tracks no running statistics was asked to use them.
    #[error("the layer tracks no running statistics: expected `Options::tracking`, got `None`")]
    NotTracking,
    /// A dtype name that this crate does not know, or a dtype that has no place here.
    #[error("{tensor}: expected {expected}, got dtype {actual}")]
    Dtype {
        /// The tensor's name.
        tensor: String,
        /// The dtypes that would do.
        expected: String,
        /// The dtype found.
        actual: String,
    },
    /// A file has no tensor of that name.
    #[error("{tensor}: expected in the file, which has {actual}")]
    TensorMissing {
        /// The tensor's name.
        tensor: String,
        /// The names the file has, abbreviated.
        actual: String,
    },
    /// A file has a tensor that the layer has no place for.
    #[error("{tensor}: not expected in the file, since the layer was built without it")]
    TensorUnexpected {
        /// The tensor's name.
        tensor: String,
    },
    /// A file's tensor has the wrong dimensions.
    #[error("{tensor}: expected dimensions {expected:?}, got {actual:?}")]
    TensorShape {
        /// The tensor's name.
        tensor: String,
        /// The dimensions asked for.
        expected: Vec<usize>,
        /// The dimensions found.
        actual: Vec<usize>,
    },
    /// A count of batches is negative.
    #[error("{tensor}: expected a count >= 0, got {actual}")]
    NegativeCount {
        /// The tensor's name.
        tensor: String,
        /// The count found.
        actual: i64,
    },
    /// The bytes are no safetensors file.
    #[error("not a safetensors file: expected a header and the tensors it names, got {reason}")]
    Format {
        /// What the parser found.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file's path.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn dtype(tensor: &str, expected: &str, actual: impl ToString) -> Self {
        Self::Dtype { tensor: tensor.into(), expected: expected.into(), actual: actual.to_string() }
    }
}

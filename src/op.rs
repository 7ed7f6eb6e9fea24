//! What can be computed: the operations, and what is fused behind the normalization.

use core::fmt;

use crate::{Error, Result};

/// The operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Mean and biased variance of each channel.
    Moments,
    /// The forward pass with the batch's statistics, updating the running ones.
    Train,
    /// The forward pass with the running statistics.
    Infer,
    /// The backward pass of [`Op::Train`].
    Backward,
    /// The backward pass of [`Op::Infer`].
    BackwardFrozen,
}

impl Op {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Moments => "moments",
            Self::Train => "train",
            Self::Infer => "infer",
            Self::Backward => "backward",
            Self::BackwardFrozen => "backward-frozen",
        }
    }
}

/// What is fused behind the normalization. `Z` is the residual's buffer, or its gradient's, or `()` for the kind alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Epilogue<Z> {
    /// `y = v`
    Identity,
    /// `y = max(v, 0)`; NaN stays NaN.
    Relu,
    /// `y = v + z`
    Add(Z),
    /// `y = max(v + z, 0)`; NaN stays NaN.
    AddRelu(Z),
}

impl<Z> Epilogue<Z> {
    /// The kind alone.
    pub fn kind(&self) -> Epilogue<()> {
        match self {
            Self::Identity => Epilogue::Identity,
            Self::Relu => Epilogue::Relu,
            Self::Add(_) => Epilogue::Add(()),
            Self::AddRelu(_) => Epilogue::AddRelu(()),
        }
    }

    /// The same kind with another buffer.
    pub fn map<W>(self, f: impl FnOnce(Z) -> W) -> Epilogue<W> {
        match self {
            Self::Identity => Epilogue::Identity,
            Self::Relu => Epilogue::Relu,
            Self::Add(z) => Epilogue::Add(f(z)),
            Self::AddRelu(z) => Epilogue::AddRelu(f(z)),
        }
    }

    /// The buffer, where the kind has one.
    pub fn residual(&self) -> Option<&Z> {
        match self {
            Self::Add(z) | Self::AddRelu(z) => Some(z),
            Self::Identity | Self::Relu => None,
        }
    }

    /// The name on the command line and in error messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Relu => "relu",
            Self::Add(_) => "add",
            Self::AddRelu(_) => "add-relu",
        }
    }
}

impl Epilogue<()> {
    /// This kind with its residual, or the residual's gradient, where it has one. `tensor` is the argument's name.
    ///
    /// # Errors
    /// [`Error::Missing`] for a kind with a residual and no buffer, [`Error::Unexpected`] for a buffer without use.
    pub fn with<Z>(self, tensor: &'static str, buffer: Option<Z>) -> Result<Epilogue<Z>> {
        match (self, buffer) {
            (Self::Identity, None) => Ok(Epilogue::Identity),
            (Self::Relu, None) => Ok(Epilogue::Relu),
            (Self::Add(()), Some(buffer)) => Ok(Epilogue::Add(buffer)),
            (Self::AddRelu(()), Some(buffer)) => Ok(Epilogue::AddRelu(buffer)),
            (Self::Add(()) | Self::AddRelu(()), None) => {
                Err(Error::Missing { tensor, reason: "the epilogue has a residual" })
            }
            (Self::Identity | Self::Relu, Some(_)) => {
                Err(Error::Unexpected { tensor, reason: "the epilogue has no residual" })
            }
        }
    }
}

/// A forward pass that has a backward pass, with what was fused behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ForwardPass {
    /// [`BatchNorm::train`](crate::BatchNorm::train), whose backward pass is
    /// [`BatchNorm::backward`](crate::BatchNorm::backward).
    Train(Epilogue<()>),
    /// [`BatchNorm::frozen`](crate::BatchNorm::frozen), whose backward pass is
    /// [`BatchNorm::backward_frozen`](crate::BatchNorm::backward_frozen).
    Frozen(Epilogue<()>),
}

impl fmt::Display for ForwardPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Train(epilogue) => write!(f, "`train` with the epilogue {}", epilogue.name()),
            Self::Frozen(epilogue) => write!(f, "`frozen` with the epilogue {}", epilogue.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epilogue_takes_a_buffer_where_it_has_one() {
        assert_eq!(Epilogue::Identity.with::<u8>("z", None).unwrap(), Epilogue::Identity);
        assert_eq!(Epilogue::Relu.with::<u8>("z", None).unwrap(), Epilogue::Relu);
        assert_eq!(Epilogue::Add(()).with("z", Some(1)).unwrap(), Epilogue::Add(1));
        assert_eq!(Epilogue::AddRelu(()).with("z", Some(2)).unwrap(), Epilogue::AddRelu(2));
        for kind in [Epilogue::Add(()), Epilogue::AddRelu(())] {
            assert!(matches!(kind.with::<u8>("dz", None), Err(Error::Missing { tensor: "dz", .. })));
        }
        for kind in [Epilogue::Identity, Epilogue::Relu] {
            assert!(matches!(kind.with("z", Some(0)), Err(Error::Unexpected { tensor: "z", .. })));
        }
    }
}

//! What can be computed: the operations, and what is fused behind the normalization.

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

//! Options that choose from a list, or parse a number.

use batchnorm::{Momentum, StatisticsKind};
use clap::ValueEnum;

use crate::failure::Failure;

/// `--op`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Op {
    /// Normalize with the batch's statistics; update the running ones
    Train,
    /// Normalize with the running statistics
    Infer,
    /// The gradients of train
    Backward,
    /// The gradients of infer
    BackwardFrozen,
    /// Mean and biased variance of each channel
    Moments,
}

impl From<Op> for batchnorm::Op {
    fn from(op: Op) -> Self {
        match op {
            Op::Train => Self::Train,
            Op::Infer => Self::Infer,
            Op::Backward => Self::Backward(StatisticsKind::Batch),
            Op::BackwardFrozen => Self::Backward(StatisticsKind::Running),
            Op::Moments => Self::Moments,
        }
    }
}

/// `--layout`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Layout {
    /// N, C, then the spatial dimensions
    #[value(alias = "nchw")]
    ChannelsFirst,
    /// N, the spatial dimensions, then C
    #[value(alias = "nhwc")]
    ChannelsLast,
}

impl From<Layout> for batchnorm::Layout {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::ChannelsFirst => Self::ChannelsFirst,
            Layout::ChannelsLast => Self::ChannelsLast,
        }
    }
}

/// `--dtype`, of what has no file to tell it.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Dtype {
    F32,
    F16,
    Bf16,
}

impl From<Dtype> for batchnorm::Dtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

/// `--strategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Strategy {
    /// What is predicted to take the least time
    Auto,
    /// A channel is held by one block
    Block,
    /// A channel is held by a cluster of blocks
    Cluster,
    /// A channel is held by blocks of a cooperative grid, as far as it fits
    Grid,
    /// The data is read twice
    TwoRead,
}

impl Strategy {
    /// The failure of a strategy that has no place here.
    pub(crate) fn refused(self, expected: &str) -> Failure {
        let given = self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        Failure::new(format!("--strategy: expected {expected}, got {given}"))
    }

    /// The strategies that were asked for, each once; all of them where none was.
    #[cfg(feature = "cuda")]
    pub(crate) fn all_or(asked: &[Self]) -> Vec<Self> {
        let is_asked = |strategy: &Self| asked.is_empty() || asked.contains(strategy);
        Self::value_variants().iter().copied().filter(is_asked).collect()
    }

    /// The strategy of the library, where one is forced.
    #[cfg(feature = "cuda")]
    pub(crate) fn forced(self) -> Option<batchnorm::Strategy> {
        match self {
            Self::Auto => None,
            Self::Block => Some(batchnorm::Strategy::Block),
            Self::Cluster => Some(batchnorm::Strategy::Cluster),
            Self::Grid => Some(batchnorm::Strategy::Grid),
            Self::TwoRead => Some(batchnorm::Strategy::TwoRead),
        }
    }
}

/// `--running-var`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum RunningVar {
    /// var * m / (m - 1)
    Unbiased,
    /// var
    Biased,
}

impl From<RunningVar> for batchnorm::RunningVar {
    fn from(variance: RunningVar) -> Self {
        match variance {
            RunningVar::Unbiased => Self::Unbiased,
            RunningVar::Biased => Self::Biased,
        }
    }
}

/// `--epilogue`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Epilogue {
    /// Nothing behind the normalization
    Identity,
    /// max(y, 0)
    Relu,
    /// y + z
    Add,
    /// max(y + z, 0)
    AddRelu,
}

impl From<Epilogue> for batchnorm::Epilogue<()> {
    fn from(epilogue: Epilogue) -> Self {
        match epilogue {
            Epilogue::Identity => Self::IDENTITY,
            Epilogue::Relu => Self::RELU,
            Epilogue::Add => Self::ADD,
            Epilogue::AddRelu => Self::ADD_RELU,
        }
    }
}

/// `--eps`. Its range is the library's to check.
pub(crate) fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "expected a number".into())
}

/// `--momentum`. Its range is the library's to check.
pub(crate) fn momentum(text: &str) -> Result<Momentum, String> {
    match text {
        "cumulative" => Ok(Momentum::Cumulative),
        _ => text.parse().map(Momentum::Ema).map_err(|_| "expected a number or cumulative".into()),
    }
}

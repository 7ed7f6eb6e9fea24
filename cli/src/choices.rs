//! Options that choose from a list, or parse a number.

use batchnorm::Momentum;
use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::failure::Failure;

/// A value of the library's as an option's: the library lists the values and names them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed<T>(pub(crate) T);

/// A type of the library's whose values are [`Listed`].
pub(crate) trait Choice: Copy + 'static {
    /// Every value, in the order of `--help`.
    const ALL: &'static [Listed<Self>];
    /// The name, and what `--help` says of it.
    fn shown(self) -> PossibleValue;
}

impl<T: Choice> ValueEnum for Listed<T> {
    fn value_variants<'a>() -> &'a [Self] {
        T::ALL
    }
    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(self.0.shown())
    }
}

const fn listed<T: Copy, const N: usize>(values: &[T]) -> [Listed<T>; N] {
    let (mut all, mut i) = ([Listed(values[0]); N], 0);
    while i < N {
        all[i] = Listed(values[i]);
        i += 1;
    }
    all
}

/// `--op`.
pub(crate) type Op = Listed<batchnorm::Op>;

impl Choice for batchnorm::Op {
    const ALL: &'static [Op] = &listed::<_, { Self::ALL.len() }>(Self::ALL);
    fn shown(self) -> PossibleValue {
        PossibleValue::new(self.name()).help(self.summary())
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

/// `--dtype`, of what has no file to tell it: a plan is a device's.
pub(crate) type Dtype = Listed<batchnorm::Dtype>;

impl Choice for batchnorm::Dtype {
    const ALL: &'static [Dtype] = &listed::<_, { Self::ON_CUDA.len() }>(Self::ON_CUDA);
    fn shown(self) -> PossibleValue {
        PossibleValue::new(self.name())
    }
}

/// `--strategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Strategy {
    /// Strategy with the least predicted time
    Auto,
    /// A channel tile is held by one CTA
    Block,
    /// A channel tile is held by a cluster of CTAs
    Cluster,
    /// A channel tile is held by CTAs of a cooperative grid, as far as it fits
    Grid,
    /// The data is read twice
    #[value(name = batchnorm::Strategy::TwoPass.name())]
    TwoPass,
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
            Self::TwoPass => Some(batchnorm::Strategy::TwoPass),
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
pub(crate) type Epilogue = Listed<batchnorm::Epilogue<()>>;

impl Choice for batchnorm::Epilogue<()> {
    const ALL: &'static [Epilogue] = &listed::<_, { Self::ALL.len() }>(Self::ALL);
    fn shown(self) -> PossibleValue {
        let help = if self == Self::IDENTITY { "Nothing behind the normalization".into() } else { self.formula("y") };
        PossibleValue::new(self.name()).help(help)
    }
}

/// The dimensions of a tensor.
#[derive(Clone, Debug)]
pub(crate) struct Dimensions(pub(crate) Vec<usize>);

/// `--plan` and `--shape`. What a tensor may have is the library's to check.
pub(crate) fn dimensions(text: &str) -> Result<Dimensions, String> {
    let all: Result<Vec<usize>, _> = text.split('x').map(str::parse).collect();
    all.map(Dimensions).map_err(|_| "expected dimensions such as 256x64x56x56".into())
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

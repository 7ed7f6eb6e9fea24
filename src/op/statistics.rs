//! The statistics that normalized, as a backward pass takes them.

use core::fmt;

use super::Epilogue;

/// The statistics that a forward pass normalized by, one vector `V` of a value a channel each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Statistics<V> {
    /// The batch's, as [`Train`](super::Train) saved them: `dx` depends on `x` through them too.
    Batch {
        /// The batch mean, rounded.
        mean: V,
        /// `1 / sqrt(var + eps)`
        inv_std: V,
    },
    /// Running ones, as [`Infer`](super::Infer) read them: constants.
    Running {
        /// The running mean.
        mean: V,
        /// The running variance.
        var: V,
        /// The constant that is added to the variance, in the type of per-channel values; finite, at least 0.
        eps: f64,
    },
}

impl<V> Statistics<V> {
    /// The kind alone.
    pub fn kind(&self) -> StatisticsKind {
        match self {
            Self::Batch { .. } => StatisticsKind::Batch,
            Self::Running { .. } => StatisticsKind::Running,
        }
    }

    /// The same by reference.
    pub(crate) fn as_ref(&self) -> Statistics<&V> {
        match self {
            Self::Batch { mean, inv_std } => Statistics::Batch { mean, inv_std },
            Self::Running { mean, var, eps } => Statistics::Running { mean, var, eps: *eps },
        }
    }

    /// The same over other vectors, made one after the other.
    pub(crate) fn map<W>(self, mut f: impl FnMut(V) -> W) -> Statistics<W> {
        match self {
            Self::Batch { mean, inv_std } => Statistics::Batch { mean: f(mean), inv_std: f(inv_std) },
            Self::Running { mean, var, eps } => Statistics::Running { mean: f(mean), var: f(var), eps },
        }
    }
}

/// Which statistics normalize.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StatisticsKind {
    /// The batch's own.
    Batch,
    /// Running ones.
    Running,
}

/// A forward pass that has a backward pass: by which statistics, and what was fused behind.
#[cfg_attr(not(feature = "exhaustive"), non_exhaustive)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ForwardPass {
    /// The batch's of [`BatchNorm::train`](crate::BatchNorm::train), running ones of
    /// [`BatchNorm::frozen`](crate::BatchNorm::frozen).
    pub statistics: StatisticsKind,
    /// The epilogue that was fused behind.
    pub epilogue: Epilogue<()>,
}

impl fmt::Display for ForwardPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.statistics {
            StatisticsKind::Batch => "train",
            StatisticsKind::Running => "frozen",
        };
        write!(f, "`{name}` with the epilogue {}", self.epilogue.name())
    }
}

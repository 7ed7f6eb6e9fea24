//! The options of a layer.

use crate::op::Tracking;

/// Options that a layer is built with: [`Options::new`], changed by the method of each field's name.
///
/// ```
/// use batchnorm::{Momentum, Options, RunningVar, Tracking};
///
/// const KERAS: Options = Options::new()
///     .eps(1e-3)
///     .tracking(Some(Tracking::new().momentum(Momentum::from_decay(0.99)).variance(RunningVar::Biased)));
/// assert!(KERAS.gamma && KERAS.beta);
/// ```
#[cfg_attr(not(feature = "exhaustive"), non_exhaustive)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// The constant that is added to the variance; finite, at least 0. PyTorch, Flax and ONNX use 1e-5, Keras 1e-3.
    pub eps: f64,
    /// Whether the layer has a scale.
    #[doc(alias = "weight")]
    #[doc(alias = "affine")]
    pub gamma: bool,
    /// Whether the layer has an offset.
    #[doc(alias = "bias")]
    #[doc(alias = "affine")]
    pub beta: bool,
    /// The update of the running statistics by a batch; `None` for a layer without running statistics.
    #[doc(alias = "track_running_stats")]
    pub tracking: Option<Tracking>,
}

impl Default for Options {
    /// [`Options::new`].
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// PyTorch's: eps 1e-5, scale and offset, tracking with momentum 0.1.
    pub const fn new() -> Self {
        Self { eps: 1e-5, gamma: true, beta: true, tracking: Some(Tracking::new()) }
    }

    /// The same with this constant added to the variance; finite, at least 0.
    #[must_use]
    pub const fn eps(self, eps: f64) -> Self {
        Self { eps, ..self }
    }

    /// The same with or without a scale.
    #[must_use]
    pub const fn gamma(self, gamma: bool) -> Self {
        Self { gamma, ..self }
    }

    /// The same with or without an offset.
    #[must_use]
    pub const fn beta(self, beta: bool) -> Self {
        Self { beta, ..self }
    }

    /// The same with this update of the running statistics; `None` for a layer without.
    #[must_use]
    pub const fn tracking(self, tracking: Option<Tracking>) -> Self {
        Self { tracking, ..self }
    }
}

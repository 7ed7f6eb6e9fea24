//! The settings of a layer, and their checks.

use batchnorm::op::Problem;
use batchnorm::{Momentum, NonFinite, RunningVar, Tracking};
use candle_core::{Error, Result};
use candle_nn::BatchNormConfig;

/// The settings of [`batch_norm()`](crate::batch_norm()): candle_nn's, and those that only this layer has.
///
/// It begins as `eps` alone, with candle_nn's defaults for the rest, or as a [`BatchNormConfig`]:
///
/// ```
/// use candle_batchnorm::{Config, NonFinite, batch_norm};
/// use candle_core::{DType, Device};
/// use candle_nn::{VarBuilder, VarMap};
///
/// let vars = VarMap::new();
/// let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
/// let config = Config::from(1e-3).momentum(0.03).non_finite(NonFinite::Skip);
/// let norm = batch_norm(64, config, vb.pp("norm"))?;
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// [`batch_norm()`](crate::batch_norm()) checks the values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    pub(crate) eps: f64,
    pub(crate) momentum: f64,
    pub(crate) affine: bool,
    pub(crate) running_var: RunningVar,
    pub(crate) non_finite: NonFinite,
    pub(crate) max_sms: Option<u32>,
    remove_mean: bool,
}

impl Config {
    /// The weight of a new batch in the running statistics, from 0 to 1. The default is 0.1.
    #[must_use]
    pub fn momentum(self, momentum: f64) -> Self {
        Self { momentum, ..self }
    }

    /// Whether the layer has a weight and a bias. The default is that it has.
    #[must_use]
    pub fn affine(self, affine: bool) -> Self {
        Self { affine, ..self }
    }

    /// Which variance the running one follows. The default is the unbiased one, as candle_nn's and PyTorch's; with the biased
    /// one, as Keras and Flax have it, a batch of one value a channel trains too.
    #[must_use]
    pub fn running_var(self, running_var: RunningVar) -> Self {
        Self { running_var, ..self }
    }

    /// The effect of a batch whose mean or variance is NaN or infinite on the running statistics of its channel. By default it
    /// enters them, as candle_nn's; with [`NonFinite::Skip`] they stay as they are.
    #[must_use]
    pub fn non_finite(self, non_finite: NonFinite) -> Self {
        Self { non_finite, ..self }
    }

    /// At most this many multiprocessors, at least 1, for each operation of the layer on a CUDA device: the others are left to
    /// work on other streams. By default an operation may take all of them. Elsewhere it has no effect.
    #[must_use]
    pub fn max_sms(self, max_sms: u32) -> Self {
        Self { max_sms: Some(max_sms), ..self }
    }

    /// How a training forward moves the running statistics.
    pub(crate) fn tracking(&self) -> Tracking {
        let momentum = Momentum::Ema(self.momentum);
        Tracking::new().momentum(momentum).variance(self.running_var).non_finite(self.non_finite)
    }

    /// These settings, if a layer of `num_features` channels can have them.
    pub(crate) fn checked(self, num_features: usize) -> Result<Self> {
        if !self.remove_mean {
            candle_core::bail!(
                "batch-norm: expected remove_mean = true, got false: the kernels always remove the mean"
            );
        }
        match Problem::check_options(self.eps, Some(self.tracking())) {
            Ok(()) => {}
            Err(batchnorm::Error::Eps { actual, .. }) => {
                candle_core::bail!("batch-norm: expected a finite eps of at least 0, got {actual}")
            }
            Err(batchnorm::Error::Momentum { actual, .. }) => {
                candle_core::bail!("batch-norm: expected a momentum from 0 to 1, got {actual}")
            }
            Err(other) => return Err(Error::wrap(other)),
        }
        if self.max_sms == Some(0) {
            candle_core::bail!("batch-norm: expected max_sms of at least 1, got 0");
        }
        if num_features == 0 {
            candle_core::bail!("batch-norm: expected at least 1 feature, got 0");
        }
        Ok(self)
    }
}

impl Default for Config {
    fn default() -> Self {
        BatchNormConfig::default().into()
    }
}

impl From<BatchNormConfig> for Config {
    fn from(BatchNormConfig { eps, remove_mean, affine, momentum }: BatchNormConfig) -> Self {
        let (running_var, non_finite) = (RunningVar::Unbiased, NonFinite::Propagate);
        Self { eps, momentum, affine, running_var, non_finite, max_sms: None, remove_mean }
    }
}

impl From<f64> for Config {
    fn from(eps: f64) -> Self {
        BatchNormConfig::from(eps).into()
    }
}

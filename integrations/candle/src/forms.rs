//! Forms of a layer for candle's traits: with an activation behind it, and for inference alone.

use batchnorm::Activation;
use candle_core::{Result, Tensor};
use candle_nn::{Module, ModuleT};

use crate::BatchNorm;

/// A [`BatchNorm`] and an activation in one operation: see [`BatchNorm::with_activation`].
#[derive(Clone, Debug)]
pub struct BatchNormActivation {
    norm: BatchNorm,
    activation: Activation,
}

/// A [`BatchNorm`] that normalizes by its running statistics, with an activation or none: see [`BatchNorm::inference`] and
/// [`BatchNormActivation::inference`].
#[derive(Clone, Debug)]
pub struct Inference(BatchNormActivation);

impl BatchNorm {
    /// The layer in inference, as a [`Module`]. It shares parameters and statistics.
    ///
    /// The layer itself can be no [`Module`]: every [`Module`] is a [`ModuleT`] that ignores `train`.
    pub fn inference(&self) -> Inference {
        self.with_activation(Activation::Identity).inference()
    }

    /// The layer with a relu behind it, as a [`ModuleT`]. It shares parameters and statistics.
    pub fn with_relu(&self) -> BatchNormActivation {
        self.with_activation(Activation::Relu)
    }

    /// The layer with an activation behind it, as a [`ModuleT`]. It shares parameters and statistics.
    pub fn with_activation(&self, activation: Activation) -> BatchNormActivation {
        BatchNormActivation { norm: self.clone(), activation }
    }
}

impl BatchNormActivation {
    /// Both in inference, as a [`Module`]. It shares parameters and statistics.
    pub fn inference(&self) -> Inference {
        Inference(self.clone())
    }
}

impl ModuleT for BatchNormActivation {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.norm.activate(x, self.activation, train)
    }
}

impl Inference {
    /// `activation(batch_norm(x) + z)` in one operation, with a residual `z` as `x`.
    ///
    /// # Errors
    /// As [`BatchNorm::add_activate`]'s.
    pub fn add(&self, x: &Tensor, z: &Tensor) -> Result<Tensor> {
        self.0.norm.add_activate(x, z, self.0.activation, false)
    }
}

impl Module for Inference {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward_t(x, false)
    }
}

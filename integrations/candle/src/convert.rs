//! The layer as candle_nn's, and variables out of a file of another dtype.

use std::path::Path;
use std::sync::PoisonError;

use candle_core::{DType, Device, Error, Result, Tensor, Var};
use candle_nn::VarMap;

use crate::BatchNorm;

impl BatchNorm {
    /// candle_nn's layer of these parameters and statistics, which it shares, and of the same `eps` and momentum:
    /// `conv.absorb_bn(&norm.to_candle_nn()?)`.
    ///
    /// Training either moves the statistics of both; candle_nn's does so by its own rules, whatever the
    /// [`Config`](crate::Config).
    /// Where `running_var + eps` is 0 candle_nn gives infinities or NaN: [`BatchNorm::fold_conv2d`] does not.
    ///
    /// # Errors
    /// Those of candle, for instance where its device fails.
    pub fn to_candle_nn(&self) -> Result<candle_nn::BatchNorm> {
        self.to_candle_nn_in(self.running_mean().dtype())
    }

    /// [`BatchNorm::to_candle_nn`] in a dtype, for a model in half: that of the convolution that is to absorb it.
    ///
    /// In the dtype of the layer it shares parameters and statistics. In another one it has copies without gradients, rounded to
    /// that dtype: a variance above 65,504 is infinite in f16.
    ///
    /// # Errors
    /// Those of candle, for instance where its device fails.
    pub fn to_candle_nn_in(&self, dtype: DType) -> Result<candle_nn::BatchNorm> {
        let shared_or_copied = |tensor: &Tensor| {
            if tensor.dtype() == dtype { Ok(tensor.clone()) } else { tensor.detach().to_dtype(dtype) }
        };
        let [mean, var] = [shared_or_copied(self.running_mean())?, shared_or_copied(self.running_var())?];
        let (c, eps, momentum) = (self.num_features(), self.eps(), self.momentum());
        match self.weight_and_bias() {
            Some((weight, bias)) => {
                let (weight, bias) = (shared_or_copied(weight)?, shared_or_copied(bias)?);
                candle_nn::BatchNorm::new_with_momentum(c, mean, var, weight, bias, eps, momentum)
            }
            None => candle_nn::BatchNorm::new_no_bias_with_momentum(c, mean, var, eps, momentum),
        }
    }
}

/// [`VarMap::load`] that converts: gives each variable the values of the tensor of its name in a safetensors file, in the
/// variable's dtype.
///
/// So weights of a model with candle_nn's layers load into one with these, and back, also in half, where these keep f32. From f32
/// to f16 or bf16 they are rounded: a variance above 65,504 is infinite in f16. Integers are not converted.
///
/// ```no_run
/// use candle_core::{DType, Device};
/// use candle_nn::{VarBuilder, VarMap};
///
/// let vars = VarMap::new();
/// let vb = VarBuilder::from_varmap(&vars, DType::BF16, &Device::Cpu);
/// let norm = candle_batchnorm::batch_norm(64, 1e-5, vb.pp("norm"))?;
/// candle_batchnorm::load(&vars, "model_of_candle_nn_in_bf16.safetensors")?;
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// An error if the file cannot be read, or has not each variable's name, with its shape, as floats for floats. After these no
/// variable has changed.
pub fn load<P: AsRef<Path>>(vars: &VarMap, path: P) -> Result<()> {
    let path = path.as_ref();
    let file = candle_core::safetensors::load(path, &Device::Cpu).map_err(|error| error.with_path(path))?;
    let vars = vars.data().lock().unwrap_or_else(PoisonError::into_inner);
    let converted = |(name, var): (&String, &Var)| {
        let path = path.display();
        let Some(tensor) = file.get(name) else {
            return Err(Error::Msg(format!("batch-norm: expected a tensor {name} in {path}, got none")).bt());
        };
        if tensor.dims() != var.dims() {
            let (expected, got) = (var.dims(), tensor.dims());
            candle_core::bail!("batch-norm: expected {name} of shape {expected:?} in {path}, got {got:?}");
        }
        let (expected, got) = (var.dtype(), tensor.dtype());
        if expected != got && !(expected.is_float() && got.is_float()) {
            candle_core::bail!("batch-norm: expected {name} in {expected:?} in {path}, got {got:?}");
        }
        Ok((var.clone(), tensor.to_dtype(expected)?.to_device(var.device())?))
    };
    // All are read before the first is written.
    let read = vars.iter().map(converted).collect::<Result<Vec<_>>>()?;
    read.into_iter().try_for_each(|(var, tensor)| var.set(&tensor))
}

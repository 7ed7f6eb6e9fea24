//! Folding the layer in inference into the convolution or dense layer before it.

use batchnorm::{Param, Running, StateDict};
use candle_core::{DType, Device, Error, Result, Tensor};
use candle_nn::{Conv1d, Conv2d, Linear};

use crate::BatchNorm;
use crate::layer::same_device;

impl BatchNorm {
    /// A convolution that gives what `conv` and this layer in inference give, one after the other:
    ///
    /// ```text
    /// scale  = weight_of_layer / sqrt(running_var + eps)              0 where running_var + eps = 0, NaN below
    /// weight = weight_of_conv * scale
    /// bias   = (bias_of_conv - running_mean) * scale + bias_of_layer
    /// ```
    ///
    /// In the dtype of the convolution's weight; scale and bias are computed in f64 on the host. It shares nothing with either.
    ///
    /// # Errors
    /// An error if the convolution has another number of outputs than the layer has channels, or is on another device.
    pub fn fold_conv2d(&self, conv: &Conv2d) -> Result<Conv2d> {
        let (weight, bias) = self.fold(conv.weight(), conv.bias())?;
        Ok(Conv2d::new(weight, Some(bias), *conv.config()))
    }

    /// [`BatchNorm::fold_conv2d`] for a convolution in one dimension.
    ///
    /// # Errors
    /// As [`BatchNorm::fold_conv2d`].
    pub fn fold_conv1d(&self, conv: &Conv1d) -> Result<Conv1d> {
        let (weight, bias) = self.fold(conv.weight(), conv.bias())?;
        Ok(Conv1d::new(weight, Some(bias), *conv.config()))
    }

    /// [`BatchNorm::fold_conv2d`] for a dense layer.
    ///
    /// # Errors
    /// As [`BatchNorm::fold_conv2d`].
    pub fn fold_linear(&self, linear: &Linear) -> Result<Linear> {
        let (weight, bias) = self.fold(linear.weight(), linear.bias())?;
        Ok(Linear::new(weight, Some(bias)))
    }

    /// The layer in inference as one product and one sum, for folding by hand into whatever is linear before it:
    ///
    /// ```text
    /// y = x * scale + shift
    /// scale = weight / sqrt(running_var + eps)              0 where running_var + eps = 0, NaN below
    /// shift = bias - running_mean * scale
    /// ```
    ///
    /// Both are `[c]`, on the layer's device, without gradients, computed in f64 on the host and rounded once to `dtype`: that of
    /// the weights to fold into. They are of the statistics as they now are.
    ///
    /// # Errors
    /// An error if `dtype` has no fractions, and those of candle, for instance where its device fails.
    pub fn scale_and_shift(&self, dtype: DType) -> Result<(Tensor, Tensor)> {
        if !dtype.is_float() {
            candle_core::bail!("batch-norm: expected a dtype of floats for scale and shift, got {dtype:?}");
        }
        let c = self.num_features();
        let (scale, shift) = self.folded(vec![0.0; c])?;
        let of_channels = |values| {
            Tensor::from_vec(values, c, &Device::Cpu)?.to_dtype(dtype)?.to_device(self.running_mean().device())
        };
        Ok((of_channels(scale)?, of_channels(shift)?))
    }

    /// The folded weights `[c, …]`, and the bias.
    fn fold(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let (c, outputs) = (self.num_features(), weight.dim(0)?);
        if outputs != c {
            candle_core::bail!("batch-norm: expected a layer of {c} outputs to fold into, got {outputs}");
        }
        same_device(self.running_mean(), weight)?;
        let dtype = self.running_mean().dtype();
        let old = match bias {
            Some(bias) => host(bias)?,
            None => vec![0.0; c],
        };
        let (scale, bias) = self.folded(old)?;
        let of_channels =
            |values, dtype| Tensor::from_vec(values, c, &Device::Cpu)?.to_dtype(dtype)?.to_device(weight.device());
        let folded_bias = of_channels(bias, weight.dtype())?;
        let mut of_rows = vec![1; weight.rank()];
        of_rows[0] = c;
        let scale = of_channels(scale, dtype)?.reshape(of_rows)?;
        let folded = weight.detach().to_dtype(dtype)?.broadcast_mul(&scale)?;
        Ok((folded.to_dtype(weight.dtype())?, folded_bias))
    }

    /// The factors of the weights, and the folded bias, in the type of the statistics.
    fn folded(&self, bias: Vec<f64>) -> Result<(Vec<f64>, Vec<f64>)> {
        if self.running_mean().dtype() == DType::F64 {
            self.fold_channels::<f64>(bias)
        } else {
            self.fold_channels::<f32>(bias)
        }
    }

    /// [`BatchNorm::folded`] by the crate's formula in f64.
    fn fold_channels<P: Param>(&self, mut bias: Vec<f64>) -> Result<(Vec<f64>, Vec<f64>)> {
        let values = |tensor: &Tensor| Ok::<_, Error>(host(tensor)?.into_iter().map(P::from_f64).collect());
        let parameters = self.weight_and_bias();
        let state = StateDict::<P> {
            gamma: parameters.map(|(weight, _)| values(weight)).transpose()?,
            beta: parameters.map(|(_, bias)| values(bias)).transpose()?,
            running: Some(Running {
                mean: values(self.running_mean())?,
                var: values(self.running_var())?,
                num_batches_tracked: 0,
            }),
        };
        let scale = state.fold_channels(self.eps(), &mut bias).map_err(Error::wrap)?;
        Ok((scale, bias))
    }
}

/// The values of a tensor on the host.
fn host(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1()
}

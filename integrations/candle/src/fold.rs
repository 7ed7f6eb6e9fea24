//! Folding the layer in inference into the convolution or dense layer before it.

use candle_core::{Result, Tensor};
use candle_nn::{Conv1d, Conv2d, Linear};

use crate::BatchNorm;

impl BatchNorm {
    /// A convolution that gives what `conv` and this layer in inference give, one after the other:
    ///
    /// ```text
    /// scale  = weight_of_layer / sqrt(running_var + eps)              0 where running_var + eps = 0, NaN below
    /// weight = weight_of_conv * scale
    /// bias   = (bias_of_conv - running_mean) * scale + bias_of_layer
    /// ```
    ///
    /// In the dtype of the convolution's weight, computed in that of the statistics. It shares nothing with either.
    ///
    /// # Errors
    /// Where the convolution has another number of outputs than the layer has channels, or is on another device.
    pub fn fold_conv2d(&self, conv: &Conv2d) -> Result<Conv2d> {
        let (weight, bias) = self.fold(conv.weight(), conv.bias())?;
        Ok(Conv2d::new(weight, Some(bias), *conv.config()))
    }

    /// As [`BatchNorm::fold_conv2d`], of a convolution in one dimension.
    ///
    /// # Errors
    /// As [`BatchNorm::fold_conv2d`].
    pub fn fold_conv1d(&self, conv: &Conv1d) -> Result<Conv1d> {
        let (weight, bias) = self.fold(conv.weight(), conv.bias())?;
        Ok(Conv1d::new(weight, Some(bias), *conv.config()))
    }

    /// As [`BatchNorm::fold_conv2d`], of a dense layer.
    ///
    /// # Errors
    /// As [`BatchNorm::fold_conv2d`].
    pub fn fold_linear(&self, linear: &Linear) -> Result<Linear> {
        let (weight, bias) = self.fold(linear.weight(), linear.bias())?;
        Ok(Linear::new(weight, Some(bias)))
    }

    /// Of weights `[c, …]`.
    fn fold(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let (c, outputs) = (self.num_features(), weight.dim(0)?);
        if outputs != c {
            candle_core::bail!("batch-norm: expected a layer of {c} outputs to fold into, got {outputs}");
        }
        let (mean, var) = (self.running_mean().detach(), self.running_var().detach());
        let dtype = mean.dtype();
        let var = (var + self.eps())?;
        // 0 where there is nothing to divide by, as in the layer.
        let inv_std = var.ne(0.0)?.where_cond(&var.sqrt()?.recip()?, &var.zeros_like()?)?;
        let (scale, offset) = match self.weight_and_bias() {
            Some((weight, bias)) => ((inv_std * weight.detach())?, bias.detach()),
            None => (inv_std, mean.zeros_like()?),
        };
        let centred = match bias {
            Some(bias) => (bias.detach().to_dtype(dtype)? - mean)?,
            None => mean.neg()?,
        };
        let folded_bias = ((centred * &scale)? + offset)?.to_dtype(weight.dtype())?;
        let mut of_rows = vec![1; weight.rank()];
        of_rows[0] = c;
        let folded = weight.detach().to_dtype(dtype)?.broadcast_mul(&scale.reshape(of_rows)?)?;
        Ok((folded.to_dtype(weight.dtype())?, folded_bias))
    }
}

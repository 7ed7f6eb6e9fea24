//! Folding a batch norm in inference into the convolution or dense layer before it.

use super::StateDict;
use crate::element::{Element, Param};
use crate::error::{Error, Result};
use crate::memory;
use crate::op::check_eps;
use crate::shape::{Layout, Shape};

impl<P: Param> StateDict<P> {
    /// Folds the normalization by running statistics into the layer before it, which then gives the same without a batch
    /// norm behind it:
    ///
    /// ```text
    /// scale  = gamma / sqrt(running_var + eps)              0 where running_var + eps = 0, NaN below
    /// weight <- weight * scale
    /// bias   <- (bias - running_mean) * scale + beta
    /// ```
    ///
    /// Computed in f64 and rounded once to the type of the weights.
    ///
    /// # Shapes
    /// `shape` is that of `weight`, seen so that its channels are the layer's outputs; `bias` is `[c]`, of zeros for a layer
    /// that had none:
    ///
    /// | weights | `shape` |
    /// |---|---|
    /// | convolution `[out, in, kernel…]`, dense `[out, in]` (PyTorch) | `Shape::new(&[1, out, in * kernel…], ChannelsFirst)` |
    /// | convolution `[kernel…, in, out]`, dense `[in, out]` (TensorFlow) | `Shape::nc(kernel… * in, out)` |
    /// | transposed convolution `[in, out, kernel…]` (PyTorch) | `Shape::new(&[in, out, kernel…], ChannelsFirst)` |
    ///
    /// # Errors
    /// [`Error::Missing`] for a state without running statistics, [`Error::Length`], [`Error::Eps`], [`Error::OutOfMemory`]. After an error nothing
    /// has changed.
    ///
    /// ```
    /// use batchnorm::{Options, Shape, StateDict};
    ///
    /// let state = StateDict::<f32>::new(2, &Options::default())?; // A layer's is `layer.state_dict()?`.
    /// let (mut weight, mut bias) = ([1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [0.5f32, -0.5]);
    /// state.fold_into(1e-5, Shape::nc(3, 2)?, &mut weight, &mut bias)?;
    /// # Ok::<(), batchnorm::Error>(())
    /// ```
    pub fn fold_into<T: Element>(&self, eps: f64, shape: Shape, weight: &mut [T], bias: &mut [T]) -> Result<()> {
        check_lengths(&[("weight", shape.len(), weight.len()), ("bias", shape.c(), bias.len())])?;
        let mut wide = memory::room(bias.len())?;
        wide.extend(bias.iter().map(|bias| bias.to_f64()));
        let scale = self.fold_channels(eps, &mut wide)?;
        // A channel's neighbours in memory: of channels-last each is of another channel.
        let run = match shape.layout() {
            Layout::ChannelsFirst => shape.s().max(1),
            Layout::ChannelsLast => 1,
        };
        for (i, weight) in weight.iter_mut().enumerate() {
            *weight = T::from_f64(weight.to_f64() * scale[i / run % shape.c()]);
        }
        bias.iter_mut().zip(wide).for_each(|(bias, wide)| *bias = T::from_f64(wide));
        Ok(())
    }

    /// The part of [`StateDict::fold_into`] that is a value a channel: folds `bias`, and gives `scale`, which the weights of each
    /// output are to be multiplied by.
    ///
    /// # Errors
    /// Those of [`StateDict::fold_into`].
    pub fn fold_channels(&self, eps: f64, bias: &mut [f64]) -> Result<Vec<f64>> {
        check_eps(eps)?;
        let reason = "folding takes the running statistics, and the layer was built without them";
        let running = self.running.as_ref().ok_or(Error::Missing { tensor: "running_mean", reason })?;
        let c = bias.len();
        check_lengths(&[
            ("running_mean", c, running.mean.len()),
            ("running_var", c, running.var.len()),
            ("gamma", c, self.gamma.as_ref().map_or(c, Vec::len)),
            ("beta", c, self.beta.as_ref().map_or(c, Vec::len)),
        ])?;
        let mut scales = memory::room(c)?;
        for (ch, bias) in bias.iter_mut().enumerate() {
            let var = running.var[ch].to_f64() + P::from_f64(eps).to_f64(); // as inference adds them
            let gamma = self.gamma.as_ref().map_or(1.0, |gamma| gamma[ch].to_f64());
            let beta = self.beta.as_ref().map_or(0.0, |beta| beta[ch].to_f64());
            let scale = if var == 0.0 { 0.0 } else { gamma / var.sqrt() };
            *bias = (*bias - running.mean[ch].to_f64()) * scale + beta;
            scales.push(scale);
        }
        Ok(scales)
    }
}

fn check_lengths(lengths: &[(&'static str, usize, usize)]) -> Result<()> {
    match lengths.iter().find(|(_, expected, actual)| expected != actual) {
        Some(&(tensor, expected, actual)) => Err(Error::Length { tensor, expected, actual }),
        None => Ok(()),
    }
}

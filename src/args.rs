//! The arguments of the functions over a caller's buffers, by name: eleven positional pointers cannot be reviewed.
//!
//! `In` and `Out` are the backend's: slices on the CPU. Data tensors hold `shape.len()` values, per-channel ones
//! `shape.c()`. `gamma: None` is 1, `beta: None` is 0. No output may overlap another argument.

use crate::{Backend, Element, Epilogue, Shape, Stored, Tracking};

/// Arguments of [`Compute::moments`](crate::Compute::moments).
pub struct MomentsArgs<'a, B: Backend, T: Element> {
    /// The shape of `x`.
    pub shape: Shape,
    /// The data.
    pub x: B::In<'a, T>,
    /// Written: the mean of each channel.
    pub mean: B::Out<'a, T::Param>,
    /// Written: the biased variance of each channel.
    pub var: B::Out<'a, T::Param>,
    /// Scratch memory, of [`Backend::workspace`].
    pub workspace: &'a mut B::Workspace,
}

/// Running statistics to be updated by a training forward.
pub struct RunningArgs<'a, B: Backend, P: Stored> {
    /// How they follow the batch.
    pub tracking: Tracking,
    /// Updated: the running mean.
    pub mean: B::Out<'a, P>,
    /// Updated: the running variance.
    pub var: B::Out<'a, P>,
    /// Updated: the number of batches, one value.
    pub num_batches_tracked: B::Out<'a, i64>,
}

/// Arguments of [`Compute::train`](crate::Compute::train).
pub struct TrainArgs<'a, B: Backend, T: Element> {
    /// The shape of the data tensors.
    pub shape: Shape,
    /// What is added to the variance, in the type of per-channel values; finite, at least 0.
    pub eps: f64,
    /// The data.
    pub x: B::In<'a, T>,
    /// What is fused behind, with the residual `z`.
    pub epilogue: Epilogue<B::In<'a, T>>,
    /// The scale of each channel.
    pub gamma: Option<B::In<'a, T::Param>>,
    /// The offset of each channel.
    pub beta: Option<B::In<'a, T::Param>>,
    /// Written: the result.
    pub y: B::Out<'a, T>,
    /// Written: the batch mean of each channel.
    pub saved_mean: B::Out<'a, T::Param>,
    /// Written: `1 / sqrt(var + eps)` of each channel.
    pub saved_inv_std: B::Out<'a, T::Param>,
    /// Written, with [`Epilogue::AddRelu`]: one bit an element, for the backward pass.
    pub relu_mask: Option<B::Out<'a, u32>>,
    /// Updated: the running statistics, where they are tracked.
    pub running: Option<RunningArgs<'a, B, T::Param>>,
    /// Scratch memory, of [`Backend::workspace`].
    pub workspace: &'a mut B::Workspace,
}

/// Arguments of [`Compute::infer`](crate::Compute::infer).
pub struct InferArgs<'a, B: Backend, T: Element> {
    /// The shape of the data tensors.
    pub shape: Shape,
    /// What is added to the variance, in the type of per-channel values; finite, at least 0.
    pub eps: f64,
    /// The data.
    pub x: B::In<'a, T>,
    /// What is fused behind, with the residual `z`.
    pub epilogue: Epilogue<B::In<'a, T>>,
    /// The scale of each channel.
    pub gamma: Option<B::In<'a, T::Param>>,
    /// The offset of each channel.
    pub beta: Option<B::In<'a, T::Param>>,
    /// The running mean.
    pub running_mean: B::In<'a, T::Param>,
    /// The running variance.
    pub running_var: B::In<'a, T::Param>,
    /// Written: the result.
    pub y: B::Out<'a, T>,
    /// Written, with [`Epilogue::AddRelu`]: one bit an element, for the backward pass.
    pub relu_mask: Option<B::Out<'a, u32>>,
}

/// What a backward pass writes.
pub struct Gradients<'a, B: Backend, T: Element> {
    /// Written: the gradient of `x`.
    pub dx: B::Out<'a, T>,
    /// Written: the gradient of `gamma`, computed whether or not there is one.
    pub dgamma: Option<B::Out<'a, T::Param>>,
    /// Written: the gradient of `beta`, computed whether or not there is one.
    pub dbeta: Option<B::Out<'a, T::Param>>,
}

/// Arguments of [`Compute::backward`](crate::Compute::backward).
pub struct BackwardArgs<'a, B: Backend, T: Element> {
    /// The shape of the data tensors.
    pub shape: Shape,
    /// The data that the forward pass read.
    pub x: B::In<'a, T>,
    /// The gradient of `y`.
    pub dy: B::In<'a, T>,
    /// What was fused behind, with the residual's gradient `dz`, written. With [`Epilogue::Add`] it equals `dy`: who
    /// needs no copy passes [`Epilogue::Identity`] and uses `dy`.
    pub epilogue: Epilogue<B::Out<'a, T>>,
    /// The scale of each channel.
    pub gamma: Option<B::In<'a, T::Param>>,
    /// The offset of each channel: with [`Epilogue::Relu`] the mask is computed again from `x`.
    pub beta: Option<B::In<'a, T::Param>>,
    /// The batch mean that the forward pass saved.
    pub saved_mean: B::In<'a, T::Param>,
    /// The `1 / sqrt(var + eps)` that the forward pass saved.
    pub saved_inv_std: B::In<'a, T::Param>,
    /// With [`Epilogue::AddRelu`]: the mask that the forward pass wrote.
    pub relu_mask: Option<B::In<'a, u32>>,
    /// Written: the gradients.
    pub gradients: Gradients<'a, B, T>,
    /// Scratch memory, of [`Backend::workspace`].
    pub workspace: &'a mut B::Workspace,
}

/// Arguments of [`Compute::backward_frozen`](crate::Compute::backward_frozen).
pub struct BackwardFrozenArgs<'a, B: Backend, T: Element> {
    /// The shape of the data tensors.
    pub shape: Shape,
    /// What is added to the variance, in the type of per-channel values; finite, at least 0.
    pub eps: f64,
    /// The data that the forward pass read.
    pub x: B::In<'a, T>,
    /// The gradient of `y`.
    pub dy: B::In<'a, T>,
    /// What was fused behind, with the residual's gradient `dz`, written.
    pub epilogue: Epilogue<B::Out<'a, T>>,
    /// The scale of each channel.
    pub gamma: Option<B::In<'a, T::Param>>,
    /// The offset of each channel: with [`Epilogue::Relu`] the mask is computed again from `x`.
    pub beta: Option<B::In<'a, T::Param>>,
    /// The running mean that the forward pass read.
    pub running_mean: B::In<'a, T::Param>,
    /// The running variance that the forward pass read.
    pub running_var: B::In<'a, T::Param>,
    /// With [`Epilogue::AddRelu`]: the mask that the forward pass wrote.
    pub relu_mask: Option<B::In<'a, u32>>,
    /// Written: the gradients.
    pub gradients: Gradients<'a, B, T>,
    /// Scratch memory, of [`Backend::workspace`].
    pub workspace: &'a mut B::Workspace,
}

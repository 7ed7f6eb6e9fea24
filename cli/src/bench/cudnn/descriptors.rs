//! Descriptors of cuDNN's tensors, each destroyed with its owner, and the sizes that it asks for.

use core::ffi::c_int;

use batchnorm::bench::Row;
use batchnorm::{Dtype, Layout};
use cudarc::cudnn::result::{self, CudnnError};
use cudarc::cudnn::sys;

/// A status in words.
pub(super) fn status(call: &'static str) -> impl Fn(CudnnError) -> String {
    move |CudnnError(status)| format!("{call}: {status:?}")
}

pub(super) fn checked(call: &'static str, status_of: sys::cudnnStatus_t) -> Result<(), String> {
    status_of.result().map_err(status(call))
}

/// A handle, destroyed with its last owner.
pub(super) struct Handle(pub(super) sys::cudnnHandle_t);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made by create_handle, and nobody else destroys it. A failure has nobody to hear of it.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

/// A tensor's dimensions and strides, destroyed with its owner.
pub(super) struct Descriptor(pub(super) sys::cudnnTensorDescriptor_t);

impl Descriptor {
    fn new(dtype: sys::cudnnDataType_t, dims: &[c_int], strides: &[c_int]) -> Result<Self, String> {
        let descriptor = Self(result::create_tensor_descriptor().map_err(status("cudnnCreateTensorDescriptor"))?);
        let count = dims.len() as c_int;
        // SAFETY: the descriptor was just made, and both arrays have `count` values.
        unsafe { result::set_tensornd_descriptor(descriptor.0, dtype, count, dims.as_ptr(), strides.as_ptr()) }
            .map_err(status("cudnnSetTensorNdDescriptor"))?;
        Ok(descriptor)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made by create_tensor_descriptor, and nobody else destroys it.
        let _ = unsafe { result::destroy_tensor_descriptor(self.0) };
    }
}

/// The activation's descriptor, destroyed with its owner.
pub(super) struct Activation(pub(super) sys::cudnnActivationDescriptor_t);

impl Activation {
    pub(super) fn relu() -> Result<Self, String> {
        let made = Self(result::create_activation_descriptor().map_err(status("cudnnCreateActivationDescriptor"))?);
        let (mode, nan) =
            (sys::cudnnActivationMode_t::CUDNN_ACTIVATION_RELU, sys::cudnnNanPropagation_t::CUDNN_PROPAGATE_NAN);
        // SAFETY: the descriptor was just made.
        unsafe { result::set_activation_descriptor(made.0, mode, nan, 0.0) }
            .map_err(status("cudnnSetActivationDescriptor"))?;
        Ok(made)
    }
}

impl Drop for Activation {
    fn drop(&mut self) {
        // SAFETY: made by create_activation_descriptor, and nobody else destroys it.
        let _ = unsafe { sys::cudnnDestroyActivationDescriptor(self.0) };
    }
}

/// The descriptors of the tensor, as N, C, H, W or N, C, D, H, W with the strides of its layout, and of its channels.
pub(super) fn descriptors(row: &Row) -> Result<(Descriptor, Descriptor), String> {
    let shape = row.shape;
    let (dims, is_first) = (shape.dims(), shape.layout() == Layout::ChannelsFirst);
    let spatial = if is_first { &dims[2..] } else { &dims[1..dims.len() - 1] };
    let mut logical = vec![shape.n(), shape.c()];
    logical.extend(spatial);
    logical.resize(logical.len().max(4), 1);
    let mut strides = vec![1; logical.len()];
    // The dimensions from the innermost out: the last spatial one, or channels, comes first.
    let order: Vec<usize> = match is_first {
        true => (0..logical.len()).rev().collect(),
        false => [1].into_iter().chain((2..logical.len()).rev()).chain([0]).collect(),
    };
    let mut stride = 1;
    for dimension in order {
        strides[dimension] = stride;
        stride *= logical[dimension];
    }
    let ints = |values: &[usize]| values.iter().map(|&value| c_int::try_from(value)).collect::<Result<Vec<_>, _>>();
    let too_large = |_| format!("expected sizes and strides below 2^31, got {logical:?}");
    let (dims, strides) = (ints(&logical).map_err(too_large)?, ints(&strides).map_err(too_large)?);
    let dtype = match row.dtype {
        Dtype::F16 => sys::cudnnDataType_t::CUDNN_DATA_HALF,
        Dtype::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        Dtype::F32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        Dtype::F64 => sys::cudnnDataType_t::CUDNN_DATA_DOUBLE,
    };
    let mut of_channels = vec![1; dims.len()];
    of_channels[1] = dims[1];
    let mut channel_strides = vec![1; dims.len()];
    channel_strides[0] = dims[1];
    let data = Descriptor::new(dtype, &dims, &strides)?;
    Ok((data, Descriptor::new(sys::cudnnDataType_t::CUDNN_DATA_FLOAT, &of_channels, &channel_strides)?))
}

/// Bytes of workspace forward and backward, and of reserve space.
pub(super) fn sizes(
    handle: &Handle,
    mode: sys::cudnnBatchNormMode_t,
    ops: sys::cudnnBatchNormOps_t,
    data: &Descriptor,
    channel: &Descriptor,
    activation: &Activation,
) -> Result<[usize; 3], String> {
    let [mut forward, mut backward, mut reserve] = [0usize; 3];
    let (handle, data, channel, activation) = (handle.0, data.0, channel.0, activation.0);
    // SAFETY: handle and descriptors are alive, and each call writes one size.
    unsafe {
        checked(
            "cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize",
            sys::cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(
                handle,
                mode,
                ops,
                data,
                data,
                data,
                channel,
                activation,
                &mut forward,
            ),
        )?;
        checked(
            "cudnnGetBatchNormalizationBackwardExWorkspaceSize",
            sys::cudnnGetBatchNormalizationBackwardExWorkspaceSize(
                handle,
                mode,
                ops,
                data,
                data,
                data,
                data,
                data,
                channel,
                activation,
                &mut backward,
            ),
        )?;
        checked(
            "cudnnGetBatchNormalizationTrainingExReserveSpaceSize",
            sys::cudnnGetBatchNormalizationTrainingExReserveSpaceSize(
                handle,
                mode,
                ops,
                activation,
                data,
                &mut reserve,
            ),
        )?;
    }
    Ok([forward, backward, reserve])
}

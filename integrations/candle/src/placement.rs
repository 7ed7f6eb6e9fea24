//! The backend that a layer computes on.

use batchnorm::Cpu;
use candle_core::{DType, Device, Error, Result};

/// The backend of a layer's device.
pub(crate) enum Placement {
    Cpu(Cpu),
    #[cfg(feature = "cuda")]
    Cuda(batchnorm::Cuda),
}

impl Placement {
    /// The backend of a device, for parameters and statistics of a dtype. On CUDA it uses the stream that candle uses.
    pub(crate) fn on(device: &Device, dtype: DType) -> Result<Self> {
        match device {
            Device::Cpu => Ok(Self::Cpu(Cpu)),
            Device::Cuda(_) if dtype == DType::F64 => Err(no_backend("f64 on a CUDA device")),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => Ok(Self::Cuda(batchnorm::Cuda::on(device.cuda_stream()).map_err(Error::wrap)?)),
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => Err(no_backend("a CUDA device, for which candle-batchnorm needs its feature `cuda`")),
            Device::Metal(_) => Err(no_backend("a Metal device")),
        }
    }
}

pub(crate) fn no_backend(got: &str) -> Error {
    Error::Msg(format!("batch-norm: expected tensors on the CPU or on a CUDA device, got {got}")).bt()
}

//! The backend of a layer, by its device.

use std::sync::Arc;

use batchnorm::Cpu;
use batchnorm::plan::PlanTable;
use candle_core::{DType, Device, Error, Result};

/// The way in which a layer is computed.
pub(crate) enum Placement {
    /// By the crate's kernels.
    Kernels(Kernels),
    /// By candle's own operations: see [`composite`](crate::composite).
    Composite,
}

/// The backend of a device that the crate has kernels for.
#[derive(Clone)]
pub(crate) enum Kernels {
    Cpu(Cpu),
    #[cfg(feature = "cuda")]
    Cuda(batchnorm::Cuda),
}

impl Placement {
    /// That of a device, for parameters and statistics of a dtype. On CUDA it uses the stream that candle uses, and at most
    /// `max_sms` multiprocessors.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    pub(crate) fn on(device: &Device, dtype: DType, max_sms: Option<u32>) -> Result<Self> {
        match device {
            Device::Cpu => Ok(Self::Kernels(Kernels::Cpu(Cpu))),
            Device::Cuda(_) if dtype == DType::F64 => Err(no_backend("f64 on a CUDA device")),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => {
                let cuda = batchnorm::Cuda::on(device.cuda_stream()).map_err(Error::wrap)?;
                Ok(Self::Kernels(Kernels::Cuda(match max_sms {
                    Some(max_sms) => cuda.with_max_sms(max_sms),
                    None => cuda,
                })))
            }
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => Err(no_backend("a CUDA device, for which candle-batchnorm needs its feature `cuda`")),
            Device::Metal(_) => Ok(Self::Composite),
        }
    }

    /// The same with the plans of a table, on CUDA: elsewhere nothing is planned.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    pub(crate) fn with_plans(&self, plans: &Arc<PlanTable>) -> Result<Self> {
        match self {
            Self::Kernels(Kernels::Cpu(cpu)) => Ok(Self::Kernels(Kernels::Cpu(*cpu))),
            #[cfg(feature = "cuda")]
            Self::Kernels(Kernels::Cuda(cuda)) => {
                let tuned = cuda.clone().with_plans(Arc::clone(plans)).map_err(Error::wrap)?;
                Ok(Self::Kernels(Kernels::Cuda(tuned)))
            }
            Self::Composite => Ok(Self::Composite),
        }
    }
}

pub(crate) fn no_backend(got: &str) -> Error {
    Error::Msg(format!("batch-norm: expected tensors on the CPU, or on a CUDA or Metal device, got {got}")).bt()
}

#[cfg(all(test, not(feature = "cuda")))]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_kernels_is_candles_and_cuda_needs_its_feature() {
        let on = |device| Placement::on(&device, DType::F32, None);
        assert!(matches!(on(Device::Cpu), Ok(Placement::Kernels(Kernels::Cpu(_)))));
        assert!(matches!(on(Device::Metal(candle_core::MetalDevice)), Ok(Placement::Composite)));
        let text = on(Device::Cuda(candle_core::CudaDevice)).err().map(|error| error.to_string());
        let expected = "batch-norm: expected tensors on the CPU, or on a CUDA or Metal device, \
                        got a CUDA device, for which candle-batchnorm needs its feature `cuda`";
        assert!(text.as_deref().is_some_and(|text| text.starts_with(expected)), "{text:?}");
    }
}

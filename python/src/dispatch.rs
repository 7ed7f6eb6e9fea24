//! From a call to the backend and the type that it runs with.

use batchnorm::{Cpu, Dtype, Layout, Shape, with_element};
#[cfg(feature = "cuda")]
use batchnorm::{Cuda, with_device_element};
use pyo3::{Borrowed, FromPyObject, PyAny, PyErr, PyResult};

use crate::call::Call;
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::error::Refusal;

/// The device that computes.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// The CPU, with how many threads may compute.
    Cpu { threads: usize },
    /// A CUDA device, by its number, and one of its streams.
    Cuda {
        #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "a build without kernels refuses any device"))]
        ordinal: usize,
        #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "a build without kernels refuses any device"))]
        stream: u64,
    },
}

/// The device, dtype and shape of a call's data tensors.
#[derive(Clone, Copy)]
pub(crate) struct At {
    pub(crate) target: Target,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Shape,
}

/// As Python has it: a device's number or `None`, and its stream, or how many threads may compute; the dtype's name; batch,
/// channels and the other dimensions' product; whether channels are last.
impl<'py> FromPyObject<'_, 'py> for At {
    type Error = PyErr;
    fn extract(at: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let (place, dtype, dims, is_last): (_, String, _, bool) = at.extract()?;
        let (ordinal, number): (Option<usize>, u64) = place;
        let Some(dtype) = Dtype::ALL.iter().copied().find(|known| known.array_name() == dtype) else {
            let text = format!("batchnorm: expected a dtype of floats from 16 to 64 bits, got {dtype}");
            return Err(Refusal::value(text).into());
        };
        let target = match ordinal {
            Some(ordinal) => Target::Cuda { ordinal, stream: number },
            None => Target::Cpu { threads: usize::try_from(number).unwrap_or(1) },
        };
        Ok(Self { target, dtype, shape: shape(dims, is_last)? })
    }
}

/// The shape of batch, channels and the other dimensions' product.
pub(crate) fn shape((n, c, s): (usize, usize, usize), channels_last: bool) -> Result<Shape, Refusal> {
    Ok(if channels_last {
        Shape::new(&[n, s, c], Layout::ChannelsLast)?
    } else {
        Shape::new(&[n, c, s], Layout::ChannelsFirst)?
    })
}

/// Runs a call on the backend of its device over data of its dtype. The thread's current device stays what it was.
pub(crate) fn dispatch<C: Call>(At { target, dtype, shape }: At, call: &C) -> Result<C::Output, Refusal> {
    match target {
        Target::Cpu { threads } => {
            Cpu::with_threads(threads, || with_element!(dtype, T => call.run::<Cpu, T>(&Cpu, shape)))
        }
        #[cfg(feature = "cuda")]
        Target::Cuda { ordinal, stream } => with_device_element!(
            dtype,
            T => cuda::keeping_the_current_device(|| call.run::<Cuda, T>(&cuda::on(ordinal, stream)?, shape)),
            f64 => Err(Refusal::value(format!(
                "batchnorm: expected {} on CUDA, got {}",
                crate::error::one_of(&Dtype::ON_CUDA.iter().copied().map(Dtype::array_name).collect::<Vec<_>>()),
                dtype.array_name()
            ))),
        ),
        #[cfg(not(feature = "cuda"))]
        Target::Cuda { .. } => Err(without_cuda()),
    }
}

/// The refusal of who asks for CUDA where there is none.
#[cfg(not(feature = "cuda"))]
pub(crate) fn without_cuda() -> Refusal {
    Refusal::runtime("batchnorm: this build has no CUDA kernels; build it with BATCHNORM_CUDA=1".into())
}

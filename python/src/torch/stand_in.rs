//! A stand-in for a CUDA device, for tests: PyTorch's own kernels cannot run on the emulated device, so that tensors in its memory are
//! the CPU's to PyTorch, and the device's here.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cudarc::driver::result::{malloc_sync, memset_d8_sync};
use pyo3::pyfunction;

use super::tensor::{Code, Place, Tensor};
use crate::dispatch::Target;
use crate::error::Refusal;

/// The stream of the device that tensors are on, where they are on one.
static STREAM: Mutex<Option<u64>> = Mutex::new(None);
static IS_CAPTURING: AtomicBool = AtomicBool::new(false);
/// The workspaces that were made for graphs.
static WORKSPACES: AtomicUsize = AtomicUsize::new(0);

/// Takes tensors of the CPU for those of device 0 with this current stream, or again for the CPU's; gives how many workspaces were
/// made for graphs so far.
#[pyfunction]
pub(crate) fn stand_in(stream: Option<u64>, is_capturing: bool) -> usize {
    *STREAM.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = stream;
    IS_CAPTURING.store(is_capturing, Ordering::Relaxed);
    WORKSPACES.load(Ordering::Relaxed)
}

pub(super) fn target() -> Option<Target> {
    let stream = *STREAM.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    stream.map(|stream| Target::Cuda { ordinal: 0, stream })
}

pub(super) fn is_capturing() -> bool {
    IS_CAPTURING.load(Ordering::Relaxed)
}

/// A tensor in the device's memory, which stays there for as long as the process.
pub(super) fn empty(code: Code, place: Place, sizes: &[i64], strides: &[i64]) -> Result<Option<Tensor>, Refusal> {
    let bytes = sizes.iter().product::<i64>() as usize * size_of::<f64>(); // Of any dtype.
    if target().is_none() || bytes == 0 {
        return Ok(None);
    }
    if code == Code::uint8() {
        WORKSPACES.fetch_add(1, Ordering::Relaxed);
    }
    let cuda = crate::cuda::on(0, 0)?;
    let told = |error| Refusal::runtime(format!("batchnorm: cuMemAlloc: {error}"));
    cuda.stream().context().bind_to_thread().map_err(told)?;
    // SAFETY: nothing frees it.
    let address = unsafe { malloc_sync(bytes) }.map_err(told)?;
    if code == Code::uint8() || code == Code::int64() {
        // By the driver, which then knows that it was written.
        // SAFETY: the memory that was just allocated.
        unsafe { memset_d8_sync(address, 0, bytes) }.map_err(told)?;
    }
    // SAFETY: nothing frees it.
    unsafe { Tensor::over(address, code, place, sizes, strides) }.map(Some)
}

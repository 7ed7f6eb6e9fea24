//! PyTorch's CUDA devices and streams.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use batchnorm::{Cuda, CudaWorkspace, DeviceRef, Problem, Result, Stored};
use cudarc::driver::{DevicePtr, DevicePtrMut};
use pyo3::PyResult;

use crate::buffers::{Raw, Scratch};
use crate::check::error;

/// The backend of a device's stream, made once for each: torch keeps its streams for ever.
pub(crate) fn on(ordinal: usize, stream: u64) -> PyResult<Cuda> {
    static KNOWN: LazyLock<Mutex<HashMap<(usize, u64), Cuda>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(cuda) = known.get(&(ordinal, stream)) {
        return Ok(cuda.clone());
    }
    let mut cuda = Cuda::new(ordinal).map_err(error)?; // On the default stream.
    if stream != 0 {
        let raw = core::ptr::with_exposed_provenance_mut(stream as usize);
        // SAFETY: a stream of this device's primary context, torch's, which it never destroys.
        let of_torch = unsafe { cuda.stream().context().wrap_borrowed_stream(raw) };
        cuda = Cuda::on(of_torch).map_err(error)?;
    }
    known.insert((ordinal, stream), cuda.clone());
    Ok(cuda)
}

impl Raw for Cuda {
    type Read<'a, T: Stored> = DeviceRef<'a, T>;
    type Write<'a, T: Stored> = DeviceRef<'a, T>;

    unsafe fn read<'a, T: Stored>(&self, address: usize, len: usize) -> DeviceRef<'a, T> {
        // SAFETY: the caller's; torch's tensors are of the stream's device, and of work that is ordered with it.
        unsafe { DeviceRef::from_raw(address as u64, len, self.stream()) }
    }
    unsafe fn write<'a, T: Stored>(&self, address: usize, len: usize) -> DeviceRef<'a, T> {
        // SAFETY: as above.
        unsafe { DeviceRef::from_raw(address as u64, len, self.stream()) }
    }
    fn scratch_bytes(&self, problem: &Problem) -> Result<usize> {
        self.workspace_bytes(problem)
    }
    unsafe fn with_scratch(
        &self,
        problem: &Problem,
        memory: Scratch,
        operation: impl FnOnce(&mut CudaWorkspace) -> Result<()>,
    ) -> Result<()> {
        match memory {
            None => self.with_thread_workspace(problem, operation),
            Some((address, bytes)) => {
                // SAFETY: the caller's; torch aligns what it allocates to 512 bytes.
                let mut workspace = unsafe { CudaWorkspace::from_raw(address as u64, bytes, self.stream()) };
                operation(&mut workspace)
            }
        }
    }
    fn reads<'a, T: Stored>(memory: &'a DeviceRef<'_, T>) -> &'a dyn DevicePtr<T> {
        memory
    }
    fn writes<'a, T: Stored>(memory: &'a mut DeviceRef<'_, T>) -> &'a mut dyn DevicePtrMut<T> {
        memory
    }
}

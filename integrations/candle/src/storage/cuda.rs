//! Candle's tensors on a CUDA device.

use batchnorm::{Cuda, CudaWorkspace, Problem};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, Error, Result, Storage, Tensor};
use cudarc::driver::{CudaSlice, CudaView, CudaViewMut, DevicePtr, DevicePtrMut};

use super::{CandleBackend, Value, beyond, elsewhere, write};

impl CandleBackend for Cuda {
    type Storage = CudaStorage;
    type Values<'a, T: Value> = CudaView<'a, T>;
    type ValuesMut<'a, T: Value> = CudaViewMut<'a, T>;

    fn of(storage: &Storage) -> Result<&CudaStorage> {
        match storage {
            Storage::Cuda(storage) => Ok(storage),
            Storage::Cpu(_) | Storage::Metal(_) => Err(elsewhere()),
        }
    }
    fn of_cpu_mut(_: &mut CpuStorage) -> Result<&mut CudaStorage> {
        Err(elsewhere())
    }
    fn of_cuda_mut(storage: &mut CudaStorage) -> Result<&mut CudaStorage> {
        Ok(storage)
    }
    fn into_any(storage: CudaStorage) -> Storage {
        Storage::Cuda(storage)
    }

    fn values<T: Value>(storage: &CudaStorage, start: usize, len: usize) -> Result<CudaView<'_, T>> {
        let values = storage.as_cuda_slice::<T>()?;
        values.try_slice(start..start + len).ok_or_else(|| beyond(start, len, values.len()))
    }
    fn values_mut<T: Value>(storage: &mut CudaStorage, start: usize, len: usize) -> Result<CudaViewMut<'_, T>> {
        let values = storage.as_cuda_slice_mut::<T>()?;
        let held = values.len();
        values.try_slice_mut(start..start + len).ok_or_else(|| beyond(start, len, held))
    }
    fn reads<'a, T: Value>(values: &'a CudaView<'_, T>) -> &'a dyn DevicePtr<T> {
        values
    }
    fn writes<'a, T: Value>(values: &'a mut CudaViewMut<'_, T>) -> &'a mut dyn DevicePtrMut<T> {
        values
    }

    fn update<P: Value>(
        [first, second]: [&Tensor; 2],
        counter: &Tensor,
        f: impl FnOnce(CudaViewMut<'_, P>, CudaViewMut<'_, P>, CudaViewMut<'_, i64>) -> Result<()>,
    ) -> Result<()> {
        // In place: the locks are held for as long as it takes to launch.
        let len = first.elem_count();
        write::<Self, _>(first, |storage, layout| {
            let first = Self::values_mut::<P>(storage, layout.start_offset(), len)?;
            write::<Self, _>(second, |storage, layout| {
                let second = Self::values_mut::<P>(storage, layout.start_offset(), len)?;
                write::<Self, _>(counter, |counter, _| f(first, second, Self::values_mut::<i64>(counter, 0, 1)?))
            })
        })
    }
    fn with_scratch(
        &self,
        problem: Problem,
        operation: impl FnOnce(&mut CudaWorkspace) -> batchnorm::Result<()>,
    ) -> Result<()> {
        self.with_thread_workspace(&problem, operation).map_err(Error::wrap)
    }
    #[allow(unsafe_code)]
    fn alloc<T: Value>(beside: &CudaStorage, len: usize) -> Result<CudaSlice<T>> {
        // An allocation of no bytes is an error to drivers.
        // SAFETY: whatever is allocated here is an output of an operation, which writes all of it before it is read.
        unsafe { beside.device().alloc::<T>(len.max(1)) }
    }
    fn split<T: Value>(buf: &mut CudaSlice<T>, len: usize) -> [CudaViewMut<'_, T>; 2] {
        buf.split_at_mut(len).into()
    }
    fn wrap<T: Value>(beside: &CudaStorage, buf: CudaSlice<T>) -> CudaStorage {
        CudaStorage::wrap_cuda_slice(buf, beside.device().clone())
    }
}

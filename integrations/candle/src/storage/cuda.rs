//! Candle's tensors on a CUDA device.

use batchnorm::Cuda;
use batchnorm::op::RawSlice;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, Result, Storage, Tensor};
use cudarc::driver::{DevicePtr, DevicePtrMut, SyncOnDrop};

use super::{CandleBackend, Value, elsewhere, part, write};

impl CandleBackend for Cuda {
    type Storage = CudaStorage;
    type Guard<'a> = SyncOnDrop<'a>;

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
    #[allow(unsafe_code)]
    fn alloc<T: Value>(like: &CudaStorage, len: usize) -> Result<CudaStorage> {
        // An allocation of no bytes is an error to drivers.
        // SAFETY: whatever is allocated here is an output of an operation, which writes all of it before it is read.
        let values = unsafe { like.device().alloc::<T>(len.max(1)) }?;
        Ok(CudaStorage::wrap_cuda_slice(values, like.device().clone()))
    }

    fn values<'a, T: Value>(&'a self, storage: &'a CudaStorage) -> Result<(RawSlice<T>, SyncOnDrop<'a>)> {
        let values = storage.as_cuda_slice::<T>()?;
        let (address, guard) = values.device_ptr(self.stream());
        Ok((RawSlice::new(address as usize, values.len()), guard))
    }
    fn values_mut<'a, T: Value>(&'a self, storage: &'a mut CudaStorage) -> Result<(RawSlice<T>, SyncOnDrop<'a>)> {
        let values = storage.as_cuda_slice_mut::<T>()?;
        let len = values.len();
        let (address, guard) = values.device_ptr_mut(self.stream());
        Ok((RawSlice::new(address as usize, len), guard))
    }

    fn update<P: Value>(
        &self,
        [first, second]: [&Tensor; 2],
        counter: &Tensor,
        f: impl FnOnce([RawSlice<P>; 2], RawSlice<i64>) -> Result<()>,
    ) -> Result<()> {
        // The operation works in place: the locks are held for as long as it takes to launch.
        let len = first.elem_count();
        write::<Self, _>(first, |storage, layout| {
            let (first, _guard) = self.values_mut::<P>(storage)?;
            let first = part(first, layout.start_offset(), len)?;
            write::<Self, _>(second, |storage, layout| {
                let (second, _guard) = self.values_mut::<P>(storage)?;
                let second = part(second, layout.start_offset(), len)?;
                write::<Self, _>(counter, |storage, _| {
                    let (count, _guard) = self.values_mut::<i64>(storage)?;
                    f([first, second], count)
                })
            })
        })
    }
}

//! Candle's tensors as the buffers of a backend.

#[cfg(feature = "cuda")]
mod cuda;

use core::marker::PhantomData;
use std::cell::RefCell;

use batchnorm::{Compute, Cpu, Element, Problem, Stored};
use candle_core::{CpuStorage, CudaStorage, Error, InplaceOp1, Layout, Result, Storage, Tensor, WithDType};
use half::{bf16, f16};

/// What candle and the crate both keep in memory.
pub(crate) trait Value: Stored + WithDType + CudaValue {
    /// The values of a storage of this type.
    fn of_cpu_mut(storage: &mut CpuStorage) -> Result<&mut [Self]>;
}

#[cfg(feature = "cuda")]
pub(crate) use candle_core::cuda_backend::CudaDType as CudaValue;
/// What candle keeps on a CUDA device: without the feature `cuda`, nothing is asked.
#[cfg(not(feature = "cuda"))]
pub(crate) trait CudaValue {}

macro_rules! values {
    ($($type:ty, $dtype:ident;)*) => {$(
        #[cfg(not(feature = "cuda"))]
        impl CudaValue for $type {}
        impl Value for $type {
            fn of_cpu_mut(storage: &mut CpuStorage) -> Result<&mut [Self]> {
                match storage {
                    CpuStorage::$dtype(values) => Ok(values),
                    other => Err(Error::UnexpectedDType {
                        msg: "batch-norm: a buffer that is written",
                        expected: <$type as WithDType>::DTYPE,
                        got: candle_core::backend::BackendStorage::dtype(other),
                    }
                    .bt()),
                }
            }
        }
    )*};
}

values! { f32, F32; f16, F16; bf16, BF16; f64, F64; u32, U32; i64, I64; }

/// The values of a data tensor.
pub(crate) trait Data: Value + Element<Param: Value> {}

impl<T: Value + Element<Param: Value>> Data for T {}

/// A backend whose buffers candle's tensors can hold.
pub(crate) trait CandleBackend: Compute<f32> + Compute<f16> + Compute<bf16> {
    /// What candle keeps a tensor of this backend in.
    type Storage;
    /// Values of a storage, to be read.
    type Values<'a, T: Value>;
    /// Values of a storage, to be written.
    type ValuesMut<'a, T: Value>;

    /// The storage of a tensor, which is to be on this backend.
    fn of(storage: &Storage) -> Result<&Self::Storage>;
    /// The same of what candle gives to an operation on the CPU.
    fn of_cpu_mut(storage: &mut CpuStorage) -> Result<&mut Self::Storage>;
    /// The same of what candle gives to an operation on a CUDA device.
    fn of_cuda_mut(storage: &mut CudaStorage) -> Result<&mut Self::Storage>;
    /// For a tensor.
    fn into_any(storage: Self::Storage) -> Storage;

    /// These values of a storage.
    fn values<T: Value>(storage: &Self::Storage, start: usize, len: usize) -> Result<Self::Values<'_, T>>;
    /// These values of a storage.
    fn values_mut<T: Value>(storage: &mut Self::Storage, start: usize, len: usize) -> Result<Self::ValuesMut<'_, T>>;
    /// As an argument.
    fn reads<'a, T: Value>(values: &'a Self::Values<'_, T>) -> Self::In<'a, T>;
    /// As an argument.
    fn writes<'a, T: Value>(values: &'a mut Self::ValuesMut<'_, T>) -> Self::Out<'a, T>;

    /// Runs `f` over the values of two tensors and of a counter, which it may write. After an error they have not changed.
    fn update<P: Value>(
        tensors: [&Tensor; 2],
        counter: &Tensor,
        f: impl FnOnce(Self::ValuesMut<'_, P>, Self::ValuesMut<'_, P>, Self::ValuesMut<'_, i64>) -> Result<()>,
    ) -> Result<()>;
    /// Runs an operation with scratch memory for its problem, which no other thread uses.
    fn with_scratch(
        &self,
        problem: Problem,
        operation: impl FnOnce(&mut Self::Workspace) -> batchnorm::Result<()>,
    ) -> Result<()>;
    /// A buffer of `len` values on the device of a storage, at least one: what is in it is to be written before it is read.
    fn alloc<T: Value>(beside: &Self::Storage, len: usize) -> Result<Self::Buf<T>>;
    /// The first `len` values of a buffer, and the rest.
    fn split<T: Value>(buf: &mut Self::Buf<T>, len: usize) -> [Self::ValuesMut<'_, T>; 2];
    /// A buffer as the storage of a tensor on the device of another.
    fn wrap<T: Value>(beside: &Self::Storage, buf: Self::Buf<T>) -> Self::Storage;
}

impl CandleBackend for Cpu {
    type Storage = CpuStorage;
    type Values<'a, T: Value> = &'a [T];
    type ValuesMut<'a, T: Value> = &'a mut [T];

    fn of(storage: &Storage) -> Result<&CpuStorage> {
        match storage {
            Storage::Cpu(storage) => Ok(storage),
            Storage::Cuda(_) | Storage::Metal(_) => Err(elsewhere()),
        }
    }
    fn of_cpu_mut(storage: &mut CpuStorage) -> Result<&mut CpuStorage> {
        Ok(storage)
    }
    fn of_cuda_mut(_: &mut CudaStorage) -> Result<&mut CpuStorage> {
        Err(elsewhere())
    }
    fn into_any(storage: CpuStorage) -> Storage {
        Storage::Cpu(storage)
    }

    fn values<T: Value>(storage: &CpuStorage, start: usize, len: usize) -> Result<&[T]> {
        let values = T::cpu_storage_as_slice(storage)?;
        values.get(start..start + len).ok_or_else(|| beyond(start, len, values.len()))
    }
    fn values_mut<T: Value>(storage: &mut CpuStorage, start: usize, len: usize) -> Result<&mut [T]> {
        let values = T::of_cpu_mut(storage)?;
        let held = values.len();
        values.get_mut(start..start + len).ok_or_else(|| beyond(start, len, held))
    }
    fn reads<'a, T: Value>(values: &'a &[T]) -> &'a [T] {
        values
    }
    fn writes<'a, T: Value>(values: &'a mut &mut [T]) -> &'a mut [T] {
        values
    }

    fn update<P: Value>(
        [first, second]: [&Tensor; 2],
        counter: &Tensor,
        f: impl FnOnce(&mut [P], &mut [P], &mut [i64]) -> Result<()>,
    ) -> Result<()> {
        // In copies, so that no lock is held while threads compute, one of which could want it.
        let (mut a, mut b, mut count) = (copy::<P>(first)?, copy::<P>(second)?, copy::<i64>(counter)?);
        f(&mut a, &mut b, &mut count)?;
        store(first, &a)?;
        store(second, &b)?;
        store(counter, &count)
    }
    fn with_scratch(&self, _: Problem, operation: impl FnOnce(&mut ()) -> batchnorm::Result<()>) -> Result<()> {
        operation(&mut ()).map_err(Error::wrap)
    }
    fn alloc<T: Value>(_: &CpuStorage, len: usize) -> Result<Vec<T>> {
        Ok(vec![T::default(); len])
    }
    fn split<T: Value>(buf: &mut Vec<T>, len: usize) -> [&mut [T]; 2] {
        buf.split_at_mut(len).into()
    }
    fn wrap<T: Value>(_: &CpuStorage, buf: Vec<T>) -> CpuStorage {
        T::to_cpu_storage_owned(buf)
    }
}

/// The values of a tensor on the CPU.
fn copy<T: Value>(tensor: &Tensor) -> Result<Vec<T>> {
    let (storage, layout) = tensor.storage_and_layout();
    Ok(Cpu::values::<T>(Cpu::of(&storage)?, layout.start_offset(), tensor.elem_count())?.to_vec())
}

/// Gives a tensor on the CPU these values.
fn store<T: Value>(tensor: &Tensor, values: &[T]) -> Result<()> {
    write::<Cpu, _>(tensor, |storage, layout| {
        Cpu::values_mut::<T>(storage, layout.start_offset(), values.len())?.copy_from_slice(values);
        Ok(())
    })
}

/// A tensor of the layer is on another device than the layer: the checks of the layer let none pass.
pub(crate) fn elsewhere() -> Error {
    Error::Msg("batch-norm: expected every tensor on the device of the layer, got one on another".into()).bt()
}

fn beyond(start: usize, len: usize, held: usize) -> Error {
    Error::Msg(format!("batch-norm: expected {len} values from {start} on, got a tensor of {held}")).bt()
}

/// Runs `f` over the storage of a tensor, which it may write. Candle lends it to operations in place alone.
fn write<B: CandleBackend, F>(tensor: &Tensor, f: F) -> Result<()>
where
    F: FnOnce(&mut B::Storage, &Layout) -> Result<()>,
{
    struct Write<B, F>(RefCell<Option<F>>, PhantomData<B>);
    impl<B: CandleBackend, F: FnOnce(&mut B::Storage, &Layout) -> Result<()>> Write<B, F> {
        fn run(&self, storage: &mut B::Storage, layout: &Layout) -> Result<()> {
            self.0.take().map_or(Ok(()), |f| f(storage, layout)) // Candle runs an operation once.
        }
    }
    impl<B: CandleBackend, F: FnOnce(&mut B::Storage, &Layout) -> Result<()>> InplaceOp1 for Write<B, F> {
        fn name(&self) -> &'static str {
            "batch-norm"
        }
        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            self.run(B::of_cpu_mut(storage)?, layout)
        }
        fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
            self.run(B::of_cuda_mut(storage)?, layout)
        }
    }
    tensor.inplace_op1(&Write::<B, F>(RefCell::new(Some(f)), PhantomData))
}

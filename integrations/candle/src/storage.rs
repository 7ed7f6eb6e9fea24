//! Candle's tensors as raw memory of a backend, for as long as they are borrowed.

#[cfg(feature = "cuda")]
mod cuda;

use core::marker::PhantomData;
use std::cell::RefCell;

use batchnorm::op::RawSlice;
use batchnorm::{Compute, Cpu, Element, Stored};
use candle_core::{CpuStorage, CudaStorage, Error, InplaceOp1, Layout, Result, Storage, Tensor, WithDType};
use half::{bf16, f16};

/// A type that candle and the crate both keep in memory.
pub(crate) trait Value: Stored + WithDType + CudaValue {
    /// The values of a storage of this type.
    fn of_cpu_mut(storage: &mut CpuStorage) -> Result<&mut [Self]>;
}

#[cfg(feature = "cuda")]
pub(crate) use candle_core::cuda_backend::CudaDType as CudaValue;
/// A type that candle keeps on a CUDA device: without the feature `cuda`, nothing is asked.
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

/// A backend whose memory candle's tensors can be.
pub(crate) trait CandleBackend: Compute<f32> + Compute<f16> + Compute<bf16> {
    /// Memory of a tensor of this backend, as candle has it.
    type Storage;
    /// The order of streams, kept until it is dropped.
    type Guard<'a>;

    /// The storage of a tensor, which is to be on this backend.
    fn of(storage: &Storage) -> Result<&Self::Storage>;
    /// The same of the storage that candle lends to an operation in place on the CPU.
    fn of_cpu_mut(storage: &mut CpuStorage) -> Result<&mut Self::Storage>;
    /// The same of the storage that candle lends to an operation in place on a CUDA device.
    fn of_cuda_mut(storage: &mut CudaStorage) -> Result<&mut Self::Storage>;
    /// The storage as candle's enum, for a tensor.
    fn into_any(storage: Self::Storage) -> Storage;
    /// `len` values on the device of a storage. They are to be written before they are read.
    fn alloc<T: Value>(like: &Self::Storage, len: usize) -> Result<Self::Storage>;

    /// The values of a storage, to be read while the guard is there.
    fn values<'a, T: Value>(&'a self, storage: &'a Self::Storage) -> Result<(RawSlice<T>, Self::Guard<'a>)>;
    /// The same, to be written.
    fn values_mut<'a, T: Value>(&'a self, storage: &'a mut Self::Storage) -> Result<(RawSlice<T>, Self::Guard<'a>)>;

    /// Runs `f` over the values of two tensors and of a counter, which it may write. After an error they have not changed.
    fn update<P: Value>(
        &self,
        tensors: [&Tensor; 2],
        counter: &Tensor,
        f: impl FnOnce([RawSlice<P>; 2], RawSlice<i64>) -> Result<()>,
    ) -> Result<()>;
}

/// Memory that is lent for one operation.
pub(crate) struct Lent<'a, B: CandleBackend> {
    backend: &'a B,
    guards: Vec<B::Guard<'a>>,
}

impl<'a, B: CandleBackend> Lent<'a, B> {
    pub(crate) fn by(backend: &'a B) -> Self {
        Self { backend, guards: Vec::new() }
    }

    /// `len` values of a storage from `start` on, to be read.
    pub(crate) fn read<T: Value>(
        &mut self,
        (storage, start): (&'a B::Storage, usize),
        len: usize,
    ) -> Result<RawSlice<T>> {
        let (values, guard) = self.backend.values(storage)?;
        self.guards.push(guard);
        part(values, start, len)
    }

    /// The values of a storage, to be written.
    pub(crate) fn write<T: Value>(&mut self, storage: &'a mut B::Storage) -> Result<RawSlice<T>> {
        let (values, guard) = self.backend.values_mut(storage)?;
        self.guards.push(guard);
        Ok(values)
    }
}

fn part<T>(values: RawSlice<T>, start: usize, len: usize) -> Result<RawSlice<T>> {
    if start.checked_add(len).is_some_and(|end| end <= values.len()) {
        return Ok(values.slice(start, len));
    }
    let held = values.len();
    Err(Error::Msg(format!("batch-norm: expected {len} values from {start} on, got a tensor of {held}")).bt())
}

impl CandleBackend for Cpu {
    type Storage = CpuStorage;
    type Guard<'a> = ();

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
    fn alloc<T: Value>(_: &CpuStorage, len: usize) -> Result<CpuStorage> {
        Ok(T::to_cpu_storage_owned(vec![T::default(); len]))
    }

    fn values<T: Value>(&self, storage: &CpuStorage) -> Result<(RawSlice<T>, ())> {
        let values = T::cpu_storage_as_slice(storage)?;
        Ok((RawSlice::new(values.as_ptr().expose_provenance(), values.len()), ()))
    }
    fn values_mut<T: Value>(&self, storage: &mut CpuStorage) -> Result<(RawSlice<T>, ())> {
        Ok((of_slice(T::of_cpu_mut(storage)?), ()))
    }

    fn update<P: Value>(
        &self,
        [first, second]: [&Tensor; 2],
        counter: &Tensor,
        f: impl FnOnce([RawSlice<P>; 2], RawSlice<i64>) -> Result<()>,
    ) -> Result<()> {
        // The operation works on copies, so that no lock is held while threads compute, one of which could want it.
        let (mut a, mut b, mut count) = (copy::<P>(first)?, copy::<P>(second)?, copy::<i64>(counter)?);
        f([of_slice(&mut a), of_slice(&mut b)], of_slice(&mut count))?;
        store(first, &a)?;
        store(second, &b)?;
        store(counter, &count)
    }
}

fn of_slice<T>(values: &mut [T]) -> RawSlice<T> {
    RawSlice::new(values.as_mut_ptr().expose_provenance(), values.len())
}

/// The values of a tensor on the CPU.
fn copy<T: Value>(tensor: &Tensor) -> Result<Vec<T>> {
    let (storage, layout) = tensor.storage_and_layout();
    let (start, len) = (layout.start_offset(), tensor.elem_count());
    let values = T::cpu_storage_as_slice(Cpu::of(&storage)?)?;
    values.get(start..start + len).map(<[T]>::to_vec).ok_or_else(elsewhere)
}

/// Gives a tensor on the CPU these values.
fn store<T: Value>(tensor: &Tensor, values: &[T]) -> Result<()> {
    write::<Cpu, _>(tensor, |storage, layout| {
        let start = layout.start_offset();
        let stored = T::of_cpu_mut(storage)?.get_mut(start..start + values.len()).ok_or_else(elsewhere)?;
        stored.copy_from_slice(values);
        Ok(())
    })
}

/// The error for a tensor on another device than the layer: the checks of the layer let none pass.
pub(crate) fn elsewhere() -> Error {
    Error::Msg("batch-norm: expected every tensor on the device of the layer, got one on another".into()).bt()
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

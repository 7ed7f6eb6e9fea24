//! Memory that someone else owns.

use core::fmt;
use core::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::sys::{CUdeviceptr, CUresult};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, DeviceSlice, DriverError, SyncOnDrop};

/// Device memory that someone else owns, borrowed for `'a` and never freed: another framework's tensor, for instance.
///
/// It can be passed wherever [`Cuda`](crate::Cuda) takes a buffer, to read or to write.
///
/// It records no events, so it is good on its own stream only. On another stream of a context that tracks events, an
/// operation is refused with [`Error::Driver`](crate::Error::Driver) and the code of an invalid handle, 400; where the
/// context does not, with [`Error::ForeignStream`](crate::Error::ForeignStream).
///
/// ```no_run
/// use batchnorm::{Backend, Cuda, DeviceRef};
///
/// let cuda = Cuda::new(0)?;
/// let (address, len) = (0x7000_0000_0000, 1024); // From the other framework.
/// // SAFETY: the tensor has 1024 floats, lives longer than `x`, and that framework works on the same stream.
/// let x = unsafe { DeviceRef::<f32>::from_raw(address, len, cuda.stream()) };
/// # Ok::<(), batchnorm::Error>(())
/// ```
pub struct DeviceRef<'a, T> {
    address: CUdeviceptr,
    len: usize,
    stream: Arc<CudaStream>,
    memory: PhantomData<&'a mut [T]>,
}

impl<T: DeviceRepr> DeviceRef<'_, T> {
    /// `len` values of type `T` at a device address.
    ///
    /// # Safety
    /// 1. From `address` on there are `len` values of type `T`, aligned as `T` is, in memory of the stream's context,
    ///    for as long as `'a` lasts and for as long as work that was put on the stream meanwhile runs.
    /// 2. The values are initialized, unless they are written before they are read.
    /// 3. Whatever else reads or writes them is ordered with `stream`; nothing else writes them during `'a`, and nothing
    ///    else reads them either, if this is passed to be written.
    #[allow(unsafe_code)]
    pub unsafe fn from_raw(address: u64, len: usize, stream: &Arc<CudaStream>) -> Self {
        Self { address, len, stream: Arc::clone(stream), memory: PhantomData }
    }

    /// The address. Where it is used on another stream, that stream's context is told, which refuses the operation.
    fn address_on(&self, stream: &CudaStream) -> CUdeviceptr {
        if self.len > 0 && *stream != *self.stream {
            stream.context().record_err::<()>(Err(DriverError(CUresult::CUDA_ERROR_INVALID_HANDLE)));
        }
        self.address
    }
}

impl<T> fmt::Debug for DeviceRef<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceRef")
            .field("address", &format_args!("{:#x}", self.address))
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl<T> DeviceSlice<T> for DeviceRef<'_, T> {
    fn len(&self) -> usize {
        self.len
    }
    fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }
}

impl<T: DeviceRepr> DevicePtr<T> for DeviceRef<'_, T> {
    fn device_ptr<'a>(&'a self, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        (self.address_on(stream), SyncOnDrop::Record(None))
    }
}

impl<T: DeviceRepr> DevicePtrMut<T> for DeviceRef<'_, T> {
    fn device_ptr_mut<'a>(&'a mut self, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        (self.address_on(stream), SyncOnDrop::Record(None))
    }
}

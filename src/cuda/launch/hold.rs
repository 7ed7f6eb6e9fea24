//! Memory that is held while an operation is put on the stream: its addresses, and the guards that order streams.

use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, SyncOnDrop};

use crate::cuda::Cuda;
use crate::element::Stored;
use crate::op::{Map, Memory, Raw, RawSlice, Role, Tensor};

/// Memory of a device, which has addresses on a stream.
pub(in crate::cuda) trait DeviceMemory: Memory {
    /// The address, and the guard that is to be dropped after the launches are on the stream. Makes the stream wait for
    /// other streams' work on the memory, where events track it.
    fn hold<'a: 's, 's, T: Stored>(memory: Self::In<'a, T>, stream: &'s CudaStream) -> (usize, Option<SyncOnDrop<'s>>);
    /// The same of memory that is written.
    fn hold_mut<'a: 's, 's, T: Stored>(
        memory: Self::Out<'a, T>,
        stream: &'s CudaStream,
    ) -> (usize, Option<SyncOnDrop<'s>>);
}

impl DeviceMemory for Cuda {
    fn hold<'a: 's, 's, T: Stored>(
        memory: &'a dyn DevicePtr<T>,
        stream: &'s CudaStream,
    ) -> (usize, Option<SyncOnDrop<'s>>) {
        let (address, guard) = memory.device_ptr(stream);
        (address as usize, Some(guard))
    }
    fn hold_mut<'a: 's, 's, T: Stored>(
        memory: &'a mut dyn DevicePtrMut<T>,
        stream: &'s CudaStream,
    ) -> (usize, Option<SyncOnDrop<'s>>) {
        let (address, guard) = memory.device_ptr_mut(stream);
        (address as usize, Some(guard))
    }
}

impl DeviceMemory for Raw {
    fn hold<'a: 's, 's, T: Stored>(memory: RawSlice<T>, _: &'s CudaStream) -> (usize, Option<SyncOnDrop<'s>>) {
        (memory.address(), None)
    }
    fn hold_mut<'a: 's, 's, T: Stored>(memory: RawSlice<T>, _: &'s CudaStream) -> (usize, Option<SyncOnDrop<'s>>) {
        (memory.address(), None)
    }
}

/// Holds the tensors of an operation, in the order of its list, and notes their addresses.
pub(super) struct Hold<'s, 't> {
    stream: &'s CudaStream,
    tensors: core::slice::IterMut<'t, Tensor>,
    guards: Vec<SyncOnDrop<'s>>,
}

impl<'s, 't> Hold<'s, 't> {
    pub(super) fn new(stream: &'s CudaStream, tensors: &'t mut [Tensor]) -> Self {
        Self { stream, guards: Vec::with_capacity(tensors.len()), tensors: tensors.iter_mut() }
    }

    /// Scratch memory, which comes last.
    pub(super) fn write_bytes(&mut self, memory: &'s mut dyn DevicePtrMut<u8>) -> RawSlice<u8> {
        let (address, guard) = memory.device_ptr_mut(self.stream);
        self.note(address as usize, Some(guard))
    }

    /// The guards, to be kept until the launches are on the stream.
    pub(super) fn guards(self) -> Vec<SyncOnDrop<'s>> {
        self.guards
    }

    fn note<T>(&mut self, address: usize, guard: Option<SyncOnDrop<'s>>) -> RawSlice<T> {
        self.guards.extend(guard);
        let len = self.tensors.next().map_or(0, |tensor| {
            tensor.extent.address = address;
            tensor.extent.len
        });
        RawSlice::new(address, len)
    }
}

impl<'a: 's, 's, M: DeviceMemory> Map<'a, 's, M, Raw> for Hold<'s, '_> {
    fn read<T: Stored>(&mut self, _: &'static str, _: Role, memory: M::In<'a, T>) -> RawSlice<T> {
        let (address, guard) = M::hold(memory, self.stream);
        self.note(address, guard)
    }
    fn write<T: Stored>(&mut self, _: &'static str, _: Role, memory: M::Out<'a, T>) -> RawSlice<T> {
        let (address, guard) = M::hold_mut(memory, self.stream);
        self.note(address, guard)
    }
}

//! The arguments of an operation: their facts, and their addresses.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, DeviceSlice, SyncOnDrop};

use super::super::CudaWorkspace;
use crate::problem::{Access, Buffer, Kind, Place};

/// A named argument. Its type says what it holds and whether it is written.
pub(super) struct Argument<'a, T> {
    name: &'static str,
    memory: Memory<'a, T>,
}

enum Memory<'a, T> {
    Data(&'a dyn DevicePtr<T>),
    DataMut(&'a mut dyn DevicePtrMut<T>),
    Channel(&'a dyn DevicePtr<f32>),
    ChannelMut(&'a mut dyn DevicePtrMut<f32>),
    CounterMut(&'a mut dyn DevicePtrMut<i64>),
    ReluMask(&'a dyn DevicePtr<u32>),
    ReluMaskMut(&'a mut dyn DevicePtrMut<u32>),
    Workspace(&'a mut dyn DevicePtrMut<u8>),
}

/// Data that is read.
pub(super) fn data<'a, T>(name: &'static str, memory: &'a dyn DevicePtr<T>) -> Option<Argument<'a, T>> {
    Some(Argument { name, memory: Memory::Data(memory) })
}

/// Data that is written.
pub(super) fn data_mut<'a, T>(name: &'static str, memory: &'a mut dyn DevicePtrMut<T>) -> Option<Argument<'a, T>> {
    Some(Argument { name, memory: Memory::DataMut(memory) })
}

/// One value a channel, read.
pub(super) fn channel<'a, T>(name: &'static str, memory: &'a dyn DevicePtr<f32>) -> Option<Argument<'a, T>> {
    Some(Argument { name, memory: Memory::Channel(memory) })
}

/// One value a channel, written.
pub(super) fn channel_mut<'a, T>(name: &'static str, memory: &'a mut dyn DevicePtrMut<f32>) -> Option<Argument<'a, T>> {
    Some(Argument { name, memory: Memory::ChannelMut(memory) })
}

/// The count of batches, written.
pub(super) fn counter_mut<'a, T>(memory: &'a mut dyn DevicePtrMut<i64>) -> Option<Argument<'a, T>> {
    Some(Argument { name: "num_batches_tracked", memory: Memory::CounterMut(memory) })
}

/// The relu mask, read.
pub(super) fn mask<'a, T>(memory: &'a dyn DevicePtr<u32>) -> Option<Argument<'a, T>> {
    Some(Argument { name: "relu_mask", memory: Memory::ReluMask(memory) })
}

/// The relu mask, written.
pub(super) fn mask_mut<'a, T>(memory: &'a mut dyn DevicePtrMut<u32>) -> Option<Argument<'a, T>> {
    Some(Argument { name: "relu_mask", memory: Memory::ReluMaskMut(memory) })
}

/// Scratch memory, where the workspace has any.
pub(super) fn scratch<T>(workspace: &mut CudaWorkspace) -> Option<Argument<'_, T>> {
    workspace.memory_mut().map(|memory| Argument { name: "workspace", memory: Memory::Workspace(memory) })
}

impl<T> Argument<'_, T> {
    /// What is known without touching the memory. The address is not.
    pub(super) fn facts(&self) -> Buffer {
        let (kind, access, (len, bytes, place)) = match &self.memory {
            Memory::Data(memory) => (Kind::Data, Access::Read, extent::<T>(*memory)),
            Memory::DataMut(memory) => (Kind::Data, Access::Write, extent::<T>(&**memory)),
            Memory::Channel(memory) => (Kind::Channel, Access::Read, extent::<f32>(*memory)),
            Memory::ChannelMut(memory) => (Kind::Channel, Access::Write, extent::<f32>(&**memory)),
            Memory::CounterMut(memory) => (Kind::Counter, Access::Write, extent::<i64>(&**memory)),
            Memory::ReluMask(memory) => (Kind::ReluMask, Access::Read, extent::<u32>(*memory)),
            Memory::ReluMaskMut(memory) => (Kind::ReluMask, Access::Write, extent::<u32>(&**memory)),
            Memory::Workspace(memory) => (Kind::Workspace, Access::Write, extent::<u8>(&**memory)),
        };
        Buffer { name: self.name, kind, access, address: 0, len, bytes, place: Some(place) }
    }

    /// The address, and the guard that is to be dropped after the launches are on the stream. Makes the stream wait for
    /// other streams' work on the memory, where events track it.
    pub(super) fn hold<'a>(&'a mut self, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        match &mut self.memory {
            Memory::Data(memory) => memory.device_ptr(stream),
            Memory::DataMut(memory) => memory.device_ptr_mut(stream),
            Memory::Channel(memory) => memory.device_ptr(stream),
            Memory::ChannelMut(memory) => memory.device_ptr_mut(stream),
            Memory::CounterMut(memory) => memory.device_ptr_mut(stream),
            Memory::ReluMask(memory) => memory.device_ptr(stream),
            Memory::ReluMaskMut(memory) => memory.device_ptr_mut(stream),
            Memory::Workspace(memory) => memory.device_ptr_mut(stream),
        }
    }
}

fn extent<T>(memory: &dyn DeviceSlice<T>) -> (usize, usize, Place) {
    (memory.len(), memory.num_bytes(), place(memory.stream()))
}

/// Where a stream's work is.
pub(super) fn place(stream: &Arc<CudaStream>) -> Place {
    let context = stream.context();
    Place {
        device: context.ordinal(),
        context: context.cu_ctx() as usize,
        stream: stream.cu_stream() as usize,
        is_tracked: context.is_managing_stream_synchronization(),
    }
}

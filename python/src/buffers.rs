//! Addresses as the buffers of a backend.

use batchnorm::{Backend, Cpu, Problem, Result, Stored};

/// The address of scratch memory and its bytes, where it is not the thread's own.
pub(crate) type Scratch = Option<(usize, usize)>;

/// A backend over memory that Python's tensors own.
pub(crate) trait Raw: Backend {
    /// Memory to be read.
    type Read<'a, T: Stored>;
    /// Memory to be written.
    type Write<'a, T: Stored>;

    /// `len` values at an address, to be read.
    ///
    /// # Safety
    /// There are so many, initialized, for as long as `'a` lasts, and on a device for as long as work on its stream runs.
    /// Nothing writes them meanwhile.
    unsafe fn read<'a, T: Stored>(&self, address: usize, len: usize) -> Self::Read<'a, T>;
    /// `len` values at an address, to be written.
    ///
    /// # Safety
    /// As [`Raw::read`], and nothing else reads them meanwhile. They may be not initialized where they are written before
    /// they are read.
    unsafe fn write<'a, T: Stored>(&self, address: usize, len: usize) -> Self::Write<'a, T>;
    /// How many bytes of scratch memory an operation needs.
    fn scratch_bytes(&self, problem: &Problem) -> Result<usize>;
    /// Runs an operation with scratch memory.
    ///
    /// # Safety
    /// As [`Raw::write`], and it was all zeros before its first operation.
    unsafe fn with_scratch(
        &self,
        problem: &Problem,
        memory: Scratch,
        operation: impl FnOnce(&mut Self::Workspace) -> Result<()>,
    ) -> Result<()>;
    /// As an argument.
    fn reads<'a, T: Stored>(memory: &'a Self::Read<'_, T>) -> Self::In<'a, T>;
    /// As an argument.
    fn writes<'a, T: Stored>(memory: &'a mut Self::Write<'_, T>) -> Self::Out<'a, T>;
}

impl Raw for Cpu {
    type Read<'a, T: Stored> = &'a [T];
    type Write<'a, T: Stored> = &'a mut [T];

    unsafe fn read<'a, T: Stored>(&self, address: usize, len: usize) -> &'a [T] {
        if len == 0 {
            return &[]; // An empty tensor may have no address.
        }
        // SAFETY: the caller's; torch aligns what it allocates.
        unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(address), len) }
    }
    unsafe fn write<'a, T: Stored>(&self, address: usize, len: usize) -> &'a mut [T] {
        if len == 0 {
            return &mut [];
        }
        // SAFETY: the caller's; every bit pattern is a value of these types.
        unsafe { core::slice::from_raw_parts_mut(core::ptr::with_exposed_provenance_mut(address), len) }
    }
    fn scratch_bytes(&self, _: &Problem) -> Result<usize> {
        Ok(0)
    }
    unsafe fn with_scratch(
        &self,
        _: &Problem,
        _: Scratch,
        operation: impl FnOnce(&mut ()) -> Result<()>,
    ) -> Result<()> {
        operation(&mut ())
    }
    fn reads<'a, T: Stored>(memory: &'a &[T]) -> &'a [T] {
        memory
    }
    fn writes<'a, T: Stored>(memory: &'a mut &mut [T]) -> &'a mut [T] {
        memory
    }
}

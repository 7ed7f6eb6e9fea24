//! Tensors by their addresses, for memory that someone else owns: another framework's tensors, for instance.
#![allow(unsafe_code)]

use core::marker::PhantomData;
use core::{ptr, slice};

use super::{Extent, Map, Memory, Operation, Problem, Role};
use crate::backend::Sealed;
use crate::cpu::Cpu;
use crate::element::{Element, Stored};
use crate::error::Result;

/// Memory by its addresses: an operation over [`RawSlice`]s runs on any backend, by
/// [`Compute::run_raw`](crate::Compute::run_raw), whose caller vouches for them.
pub enum Raw {}

/// `len` values of type `T` from an address on: of the host, or of the backend's device.
#[derive(Debug)]
pub struct RawSlice<T> {
    address: usize,
    len: usize,
    values: PhantomData<*const T>,
}

impl<T> RawSlice<T> {
    /// Nothing is touched before an operation runs.
    pub fn new(address: usize, len: usize) -> Self {
        Self { address, len, values: PhantomData }
    }

    /// The values from `start` on, `len` of them. A start beyond all addresses is at the last one.
    #[must_use]
    pub fn slice(self, start: usize, len: usize) -> Self {
        // Not wrapping, which could lead back to memory.
        Self::new(self.address.saturating_add(start.saturating_mul(size_of::<T>())), len)
    }

    /// Values from the address on.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(self) -> usize {
        self.len
    }

    /// The address.
    pub fn address(self) -> usize {
        self.address
    }
}

impl<T> Clone for RawSlice<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for RawSlice<T> {}

impl Sealed for Raw {}

impl Memory for Raw {
    type In<'a, T: Stored> = RawSlice<T>;
    type Out<'a, T: Stored> = RawSlice<T>;

    fn shorten_in<'b, 'a: 'b, T: Stored>(memory: RawSlice<T>) -> RawSlice<T> {
        memory
    }
    fn shorten_out<'b, 'a: 'b, T: Stored>(memory: RawSlice<T>) -> RawSlice<T> {
        memory
    }
    fn extent_of_in<T: Stored>(memory: &RawSlice<T>) -> Extent {
        let &RawSlice { address, len, .. } = memory;
        Extent { address, len, bytes: len.saturating_mul(size_of::<T>()), stream: None }
    }
    fn extent_of_out<T: Stored>(memory: &RawSlice<T>) -> Extent {
        Self::extent_of_in(memory)
    }
}

/// Slices of raw memory.
struct Lend;

impl<'a, 'b> Map<'a, 'b, Raw, Cpu> for Lend {
    fn read<T: Stored>(&mut self, _: &'static str, _: Role, RawSlice { address, len, .. }: RawSlice<T>) -> &'b [T] {
        if len == 0 {
            return &[]; // Memory of no values may have no address.
        }
        // SAFETY: the promise of `lend`.
        unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(address), len) }
    }
    fn write<T: Stored>(
        &mut self,
        _: &'static str,
        _: Role,
        RawSlice { address, len, .. }: RawSlice<T>,
    ) -> &'b mut [T] {
        if len == 0 {
            return &mut [];
        }
        // SAFETY: the promise of `lend`, and Problem saw that it overlaps nothing; every bit pattern is a value of these types.
        unsafe { slice::from_raw_parts_mut(ptr::with_exposed_provenance_mut(address), len) }
    }
}

/// The same operation over slices of the host's memory, and its problem, once everything is checked: before that two slices
/// could overlap.
///
/// # Safety
/// The promise of [`Compute::run_raw`](crate::Compute::run_raw).
pub(crate) unsafe fn lend<'b, T: Element>(
    operation: Operation<'_, Raw, T>,
) -> Result<(Problem, Operation<'b, Cpu, T>)> {
    let (problem, operation) = operation.checked()?;
    Ok((problem, operation.map(&mut Lend)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_beyond_all_addresses_does_not_lead_back() {
        let slice = |address, start| RawSlice::<f64>::new(address, 9).slice(start, 2);
        assert_eq!((slice(64, 3).address(), slice(64, 3).len()), (88, 2));
        for (address, start) in [(64, usize::MAX), (64, usize::MAX / 8 + 1), (usize::MAX - 7, 1)] {
            assert_eq!(slice(address, start).address(), usize::MAX, "{address} {start}");
        }
    }
}

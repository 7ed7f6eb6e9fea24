//! A tensor that several threads write, each its own values.
#![allow(unsafe_code)]

use core::marker::PhantomData;
use core::ops::Range;
use core::slice;

/// An output. Pieces of it are taken by their place, so that nothing is kept for each.
pub(super) struct Output<'a, T> {
    values: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out values of type T to other threads, exclusively, as a `&mut [T]` would.
unsafe impl<T: Send> Send for Output<'_, T> {}
// SAFETY: by a shared reference it gives nothing but what the caller of `piece` says nobody else has.
unsafe impl<T: Send> Sync for Output<'_, T> {}

impl<'a, T> Output<'a, T> {
    pub(super) fn new(values: &'a mut [T]) -> Self {
        Self { values: values.as_mut_ptr(), len: values.len(), lifetime: PhantomData }
    }

    pub(super) fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    /// Some of its values.
    ///
    /// # Safety
    /// Nobody has a piece with one of these values as long as this one lives.
    #[allow(clippy::mut_from_ref, reason = "what the function is for")]
    pub(super) unsafe fn piece(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} values", self.len);
        // SAFETY: the values lie within the slice that was lent for 'a, and by the caller's word nobody else has them.
        unsafe { slice::from_raw_parts_mut(self.values.add(range.start), range.len()) }
    }
}

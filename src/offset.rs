//! Tensors that begin a few elements behind the start of a buffer, which decides their alignment: for tests and measurements.

use crate::backend::Backend;
use crate::element::Stored;

/// A backend whose buffers can be used from an element on: each of them.
pub trait Offset: Backend {
    #[doc(hidden)]
    fn slice<T: Stored>(buf: &Self::Buf<T>, start: usize) -> Self::View<'_, T> {
        Self::view(buf, start..Self::len(buf))
    }
    #[doc(hidden)]
    fn slice_mut<T: Stored>(buf: &mut Self::Buf<T>, start: usize) -> Self::ViewMut<'_, T> {
        let end = Self::len(buf);
        Self::view_mut(buf, start..end)
    }
}

impl<B: Backend> Offset for B {}

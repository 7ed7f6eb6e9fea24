//! Tensors that begin a few elements behind the start of a buffer, which decides their alignment: for tests and measurements.

use crate::backend::Backend;
use crate::cpu::Cpu;
use crate::element::Stored;

/// A backend whose buffers can be used from an element on.
pub trait Offset: Backend {
    /// The rest of a buffer, to be read.
    type View<'a, T: Stored>;
    /// The rest of a buffer, to be written.
    type ViewMut<'a, T: Stored>;

    #[doc(hidden)]
    fn slice<T: Stored>(buf: &Self::Buf<T>, start: usize) -> Self::View<'_, T>;
    #[doc(hidden)]
    fn slice_mut<T: Stored>(buf: &mut Self::Buf<T>, start: usize) -> Self::ViewMut<'_, T>;
    #[doc(hidden)]
    fn view_input<'a, T: Stored>(view: &'a Self::View<'_, T>) -> Self::In<'a, T>;
    #[doc(hidden)]
    fn view_output<'a, T: Stored>(view: &'a mut Self::ViewMut<'_, T>) -> Self::Out<'a, T>;
}

impl Offset for Cpu {
    type View<'a, T: Stored> = &'a [T];
    type ViewMut<'a, T: Stored> = &'a mut [T];

    fn slice<T: Stored>(buf: &Vec<T>, start: usize) -> &[T] {
        &buf[start..]
    }
    fn slice_mut<T: Stored>(buf: &mut Vec<T>, start: usize) -> &mut [T] {
        &mut buf[start..]
    }
    fn view_input<'a, T: Stored>(view: &'a &[T]) -> &'a [T] {
        view
    }
    fn view_output<'a, T: Stored>(view: &'a mut &mut [T]) -> &'a mut [T] {
        view
    }
}

#[cfg(feature = "cuda")]
impl Offset for crate::cuda::Cuda {
    type View<'a, T: Stored> = cudarc::driver::CudaView<'a, T>;
    type ViewMut<'a, T: Stored> = cudarc::driver::CudaViewMut<'a, T>;

    fn slice<T: Stored>(buf: &Self::Buf<T>, start: usize) -> Self::View<'_, T> {
        buf.slice(start..)
    }
    fn slice_mut<T: Stored>(buf: &mut Self::Buf<T>, start: usize) -> Self::ViewMut<'_, T> {
        buf.slice_mut(start..)
    }
    fn view_input<'a, T: Stored>(view: &'a Self::View<'_, T>) -> Self::In<'a, T> {
        view
    }
    fn view_output<'a, T: Stored>(view: &'a mut Self::ViewMut<'_, T>) -> Self::Out<'a, T> {
        view
    }
}

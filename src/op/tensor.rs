//! The tensors of an operation: what each of them is, and the facts of its memory that a [`Problem`](super::Problem) is checked
//! over.

use core::fmt;

use super::Epilogue;
use crate::backend::Sealed;
use crate::element::Stored;

/// Memory as a caller passes it to an operation, to be read and to be written: slices on the CPU, cudarc's `&dyn DevicePtr` and
/// `&mut dyn DevicePtrMut` on CUDA, [`RawSlice`](super::RawSlice)s of [`Raw`](super::Raw). Sealed.
pub trait Memory: Sealed + Sized + 'static {
    /// A tensor that an operation reads.
    type In<'a, T: Stored>: Copy;
    /// A tensor that an operation writes.
    type Out<'a, T: Stored>;

    /// The same tensor for a shorter time: in code for an unknown backend, all tensors of an operation have one lifetime.
    #[doc(hidden)]
    fn shorten_in<'b, 'a: 'b, T: Stored>(memory: Self::In<'a, T>) -> Self::In<'b, T>;

    /// [`Memory::shorten_in`] of a tensor that is written.
    #[doc(hidden)]
    fn shorten_out<'b, 'a: 'b, T: Stored>(memory: Self::Out<'a, T>) -> Self::Out<'b, T>;

    #[doc(hidden)]
    fn extent_of_in<T: Stored>(memory: &Self::In<'_, T>) -> Extent;

    #[doc(hidden)]
    fn extent_of_out<T: Stored>(memory: &Self::Out<'_, T>) -> Extent;
}

/// Where a tensor's memory is, as far as that is known without touching it.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// 0 for memory of a device, until an operation holds it.
    pub(crate) address: usize,
    pub(crate) len: usize,
    pub(crate) bytes: usize,
    /// The stream that it belongs to, for memory of a device that is not raw.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only a device gives its tensors a stream"))]
    pub(crate) stream: Option<StreamKey>,
}

/// The contents of a tensor, and so its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// `n * c * s` values.
    Data,
    /// `c` values.
    Channel,
    /// One value.
    Counter,
    /// One bit an element.
    ReluMask,
    /// Scratch memory of any length.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only a device needs some"))]
    Workspace,
}

/// Whether an operation writes a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    Read,
    Write,
}

/// The facts of one tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: &'static str,
    pub(crate) role: Role,
    pub(crate) usage: Usage,
    pub(crate) extent: Extent,
}

impl Tensor {
    /// Bytes that two tensors have in common.
    pub(super) fn overlap(&self, other: &Self) -> usize {
        let (a, b) = (&self.extent, &other.extent);
        let start = a.address.max(b.address);
        let end = a.address.saturating_add(a.bytes).min(b.address.saturating_add(b.bytes));
        end.saturating_sub(start)
    }
}

/// The stream that work on a device's memory is ordered by, or that an operation runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamKey {
    /// The device's number.
    pub(crate) device: usize,
    /// The handle of the device's context.
    pub(crate) context: usize,
    /// The handle of the stream.
    pub(crate) stream: usize,
    /// Whether the context keeps its streams in order, by events.
    pub(crate) is_tracked: bool,
}

/// A tensor in messages: the number of its values. Its memory is not touched.
pub(crate) struct Values(usize);

impl Values {
    pub(crate) fn read<M: Memory, T: Stored>(memory: &M::In<'_, T>) -> Self {
        Self(M::extent_of_in(memory).len)
    }
    pub(crate) fn written<M: Memory, T: Stored>(memory: &M::Out<'_, T>) -> Self {
        Self(M::extent_of_out(memory).len)
    }
    pub(crate) fn of_residual<Z>(epilogue: &Epilogue<Z>, values: impl FnOnce(&Z) -> Self) -> Epilogue<Self> {
        Epilogue::new(epilogue.activation(), epilogue.residual().map(values))
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values", self.0)
    }
}

/// Makes tensors in one memory of those in another: an operation calls it for each of its own, in the order of its list.
pub(crate) trait Map<'a, 'b, M: Memory, N: Memory> {
    /// A tensor that is read.
    fn read<T: Stored>(&mut self, name: &'static str, role: Role, memory: M::In<'a, T>) -> N::In<'b, T>;
    /// A tensor that is written.
    fn write<T: Stored>(&mut self, name: &'static str, role: Role, memory: M::Out<'a, T>) -> N::Out<'b, T>;
}

/// The facts of an operation's tensors, in the order of its list. As a map it leaves each tensor as it is and notes its facts.
pub(crate) struct TensorList(pub(crate) Vec<Tensor>);

impl Default for TensorList {
    fn default() -> Self {
        const MOST: usize = 12; // of any operation, with a workspace
        Self(Vec::with_capacity(MOST))
    }
}

impl TensorList {
    /// A tensor that is on no operation's list.
    #[cfg(feature = "cuda")]
    pub(crate) fn push_written(&mut self, name: &'static str, role: Role, extent: Extent) {
        self.0.push(Tensor { name, role, usage: Usage::Write, extent });
    }
}

impl<'a, M: Memory> Map<'a, 'a, M, M> for TensorList {
    fn read<T: Stored>(&mut self, name: &'static str, role: Role, memory: M::In<'a, T>) -> M::In<'a, T> {
        self.0.push(Tensor { name, role, usage: Usage::Read, extent: M::extent_of_in(&memory) });
        memory
    }
    fn write<T: Stored>(&mut self, name: &'static str, role: Role, memory: M::Out<'a, T>) -> M::Out<'a, T> {
        self.0.push(Tensor { name, role, usage: Usage::Write, extent: M::extent_of_out(&memory) });
        memory
    }
}

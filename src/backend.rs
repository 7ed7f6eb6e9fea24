//! The two sealed traits: [`Backend`], a device that holds buffers, and [`Compute`], the dtypes that it computes.

use core::ops::Range;

use crate::element::{Element, Stored};
use crate::error::Result;
use crate::memory;
use crate::op::{Memory, Operation, Problem, Raw};

/// Keeps the set of backends and elements closed, so that a later one is no breaking change.
pub trait Sealed {}

/// A device with its stream, and the buffers on it. Sealed: [`Cpu`](crate::Cpu) implements it, and with the feature
/// `cuda` `Cuda`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no backend",
    label = "expected `Cpu`, or `Cuda` with the feature `cuda`"
)]
pub trait Backend: Memory + Clone + Send + Sync {
    /// An owned buffer.
    type Buf<T: Stored>: Send + Sync;
    /// Scratch memory of one layer or one caller, never of a stream.
    type Workspace: Send;
    /// A part of a buffer, to be read.
    #[doc(hidden)]
    type View<'a, T: Stored>;
    /// A part of a buffer, to be written.
    #[doc(hidden)]
    type ViewMut<'a, T: Stored>;

    /// A copy of `host` on the device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory); where the device fails.
    fn upload<T: Stored>(&self, host: &[T]) -> Result<Self::Buf<T>>;

    /// The values of `host` on the device. On the CPU that is the vector itself.
    ///
    /// # Errors
    /// Those of [`Backend::upload`].
    fn upload_vec<T: Stored>(&self, host: Vec<T>) -> Result<Self::Buf<T>> {
        self.upload(&host)
    }

    /// `len` zeros on the device.
    ///
    /// # Errors
    /// Those of [`Backend::upload`].
    fn zeros<T: Stored>(&self, len: usize) -> Result<Self::Buf<T>> {
        self.upload_vec(memory::filled(T::default(), len)?)
    }

    /// The values of `buf` on the host, once the work that writes them is done. On the CPU that is the buffer itself.
    ///
    /// # Errors
    /// Those of [`Backend::download`].
    fn download_buf<T: Stored>(&self, buf: Self::Buf<T>) -> Result<Vec<T>> {
        self.download(&buf)
    }

    /// A copy of `buf` on the host. Waits for the work that writes it.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory); where the device fails.
    fn download<T: Stored>(&self, buf: &Self::Buf<T>) -> Result<Vec<T>>;

    /// The buffer as a tensor to be read.
    fn input<T: Stored>(buf: &Self::Buf<T>) -> Self::In<'_, T>;

    /// The buffer as a tensor to be written.
    fn output<T: Stored>(buf: &mut Self::Buf<T>) -> Self::Out<'_, T>;

    /// Scratch memory that is enough for each of these problems, whatever the alignment of their buffers.
    ///
    /// # Errors
    /// An error if the device has no memory left, or fails.
    fn workspace(&self, problems: &[Problem]) -> Result<Self::Workspace>;

    /// `y <- y + alpha * x`, each value rounded once: a step of an optimizer where the parameters are.
    ///
    /// ```
    /// use batchnorm::{Backend, Cpu};
    ///
    /// let (mut gamma, dgamma, rate) = (vec![1.0f32, 2.0], vec![0.5, -1.0], 0.5);
    /// Cpu.axpy(-rate, &dgamma, &mut gamma)?;
    /// assert_eq!(gamma, [0.75, 2.5]);
    /// # Ok::<(), batchnorm::Error>(())
    /// ```
    ///
    /// On CUDA it is one launch, asynchronous on the backend's stream, which can be captured. It is of f32 parameters alone, and
    /// does not scale `y`: momentum and weight decay take the caller's own kernels.
    ///
    /// # Shapes
    /// `x` and `y` of one length, in separate memory: `x` may not be `y`.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length), [`Error::Aliasing`](crate::Error::Aliasing), and on CUDA those of a foreign
    /// device, context or stream, of a capture, and of the driver, as the [operations](crate::op#errors) have them.
    fn axpy(&self, alpha: f32, x: Self::In<'_, f32>, y: Self::Out<'_, f32>) -> Result<()>;

    /// A copy of `buf` in the same memory, which on a device does not go over the host.
    #[doc(hidden)]
    fn duplicate<T: Stored>(&self, buf: &Self::Buf<T>) -> Result<Self::Buf<T>>;

    /// A part of a buffer, which it has.
    #[doc(hidden)]
    fn view<T: Stored>(buf: &Self::Buf<T>, range: Range<usize>) -> Self::View<'_, T>;
    /// [`Backend::view`], to be written.
    #[doc(hidden)]
    fn view_mut<T: Stored>(buf: &mut Self::Buf<T>, range: Range<usize>) -> Self::ViewMut<'_, T>;
    #[doc(hidden)]
    fn view_input<'a, T: Stored>(view: &'a Self::View<'_, T>) -> Self::In<'a, T>;
    #[doc(hidden)]
    fn view_output<'a, T: Stored>(view: &'a mut Self::ViewMut<'_, T>) -> Self::Out<'a, T>;
    /// The number of a buffer's values.
    #[doc(hidden)]
    fn len<T: Stored>(buf: &Self::Buf<T>) -> usize;
}

/// A backend that computes data of type `T`: it runs the [operations](crate::op) over a caller's tensors. Sealed.
///
/// On CUDA an operation is asynchronous on the backend's stream, and with [`Compute::run_in`] allocates nothing and waits for
/// nothing.
///
/// ```
/// use batchnorm::op::Moments;
/// use batchnorm::{Compute, Cpu, Shape};
///
/// let x = [1.0f32, 10.0, 3.0, 30.0];
/// let (mut mean, mut var) = ([0.0; 2], [0.0; 2]);
/// Cpu.run(Moments::<Cpu, f32> { shape: Shape::nc(2, 2)?, x: &x, mean: &mut mean, var: &mut var })?;
/// assert_eq!((mean, var), ([2.0, 20.0], [1.0, 100.0]));
/// # Ok::<(), batchnorm::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not compute data of `{T}`",
    label = "no operation on `{T}` here",
    note = "`Cpu` computes f32, f16, bf16 and f64, `Cuda` f32, f16 and bf16"
)]
pub trait Compute<T: Element>: Backend {
    /// Runs an operation. Scratch memory is the calling thread's, which it keeps for the backend's stream: allocated where there
    /// is none yet or too little, and freed when the thread ends, or by the thread's use of other streams. A captured graph keeps
    /// its address: give that a workspace of its own.
    ///
    /// # Errors
    /// The operation's; where there is no scratch memory left.
    fn run<'a>(&self, operation: impl Into<Operation<'a, Self, T>>) -> Result<()> {
        self.execute(operation.into(), None)
    }

    /// Runs an operation with this scratch memory, of [`Backend::workspace`].
    ///
    /// # Errors
    /// The operation's.
    fn run_in<'a>(&self, workspace: &mut Self::Workspace, operation: impl Into<Operation<'a, Self, T>>) -> Result<()> {
        self.execute(operation.into(), Some(workspace))
    }

    /// Runs an operation over memory that someone else owns, with this scratch memory or the calling thread's.
    ///
    /// # Errors
    /// The operation's: lengths and overlaps are checked as always.
    ///
    /// # Safety
    /// 1. From the address of each tensor on there are as many values of its type as it says, aligned as the type is: in memory
    ///    of the host for [`Cpu`](crate::Cpu), of the device's context for `Cuda`; until this returns, and there for as long as
    ///    the work runs that it puts on the stream.
    /// 2. What is read is initialized.
    /// 3. Whatever else reads or writes the memory is ordered with this call, on a device with the backend's stream. Meanwhile
    ///    nothing else writes it, and nothing else reads what is written.
    #[allow(unsafe_code)]
    unsafe fn run_raw<'a>(
        &self,
        workspace: Option<&mut Self::Workspace>,
        operation: impl Into<Operation<'a, Raw, T>>,
    ) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.execute_raw(operation.into(), workspace) }
    }

    #[doc(hidden)]
    fn execute(&self, operation: Operation<'_, Self, T>, workspace: Option<&mut Self::Workspace>) -> Result<()>;

    /// # Safety
    /// The promise of [`Compute::run_raw`].
    #[doc(hidden)]
    #[allow(unsafe_code)]
    unsafe fn execute_raw(
        &self,
        operation: Operation<'_, Raw, T>,
        workspace: Option<&mut Self::Workspace>,
    ) -> Result<()>;
}

//! The two sealed traits: [`Backend`], a device that holds buffers, and [`Compute`], the dtypes that it computes.

use crate::args::{BackwardArgs, BackwardFrozenArgs, InferArgs, MomentsArgs, TrainArgs};
use crate::memory;
use crate::state::{State, StateDict};
use crate::{Element, Param, Problem, Result, Stored};

/// Keeps the set of backends and elements closed, so that a later one is no breaking change.
pub trait Sealed {}

/// A device with its stream, and the buffers on it. Sealed: [`Cpu`](crate::Cpu) implements it, and with the feature
/// `cuda` `Cuda`.
///
/// `In` and `Out` are what a caller may pass: slices on the CPU, cudarc's `&dyn DevicePtr` and `&mut dyn DevicePtrMut`
/// on CUDA.
pub trait Backend: Sealed + Clone + Send + Sync + 'static {
    /// An owned buffer.
    type Buf<T: Stored>: Send + Sync;
    /// A buffer that an operation reads.
    type In<'a, T: Stored>: Copy;
    /// A buffer that an operation writes.
    type Out<'a, T: Stored>;
    /// Part of a layer's state, to read.
    type View<'a, T: Stored>;
    /// Part of a layer's state, to write.
    type ViewMut<'a, T: Stored>;
    /// A layer's state: one allocation.
    type State<P: Param>: Send + Sync;
    /// Scratch memory of one layer or one caller, never of a stream.
    type Workspace: Send;

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

    /// So many zeros on the device.
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

    /// The buffer as an argument to read.
    fn input<T: Stored>(buf: &Self::Buf<T>) -> Self::In<'_, T>;

    /// The buffer as an argument to write.
    fn output<T: Stored>(buf: &mut Self::Buf<T>) -> Self::Out<'_, T>;

    /// Scratch memory that is enough for each of these problems, whatever the alignment of their buffers.
    ///
    /// # Errors
    /// Where the device has no memory left, or fails.
    fn workspace(&self, problems: &[Problem]) -> Result<Self::Workspace>;

    /// A copy of `buf` beside it, on a device without a way over the host.
    #[doc(hidden)]
    fn duplicate<T: Stored>(&self, buf: &Self::Buf<T>) -> Result<Self::Buf<T>>;

    #[doc(hidden)]
    fn slice<T: Stored>(buf: &Self::Buf<T>, start: usize) -> Self::View<'_, T>;

    #[doc(hidden)]
    fn slice_mut<T: Stored>(buf: &mut Self::Buf<T>, start: usize) -> Self::ViewMut<'_, T>;

    #[doc(hidden)]
    fn upload_state<P: Param>(&self, host: &StateDict<P>) -> Result<Self::State<P>>;

    #[doc(hidden)]
    fn download_state<P: Param>(&self, state: &Self::State<P>) -> Result<StateDict<P>>;

    #[doc(hidden)]
    fn views<P: Param>(state: &Self::State<P>) -> State<Self::View<'_, P>, Self::View<'_, i64>>;

    #[doc(hidden)]
    fn views_mut<P: Param>(state: &mut Self::State<P>) -> State<Self::ViewMut<'_, P>, Self::ViewMut<'_, i64>>;

    #[doc(hidden)]
    fn view_input<'a, T: Stored>(view: &'a Self::View<'_, T>) -> Self::In<'a, T>;

    #[doc(hidden)]
    fn view_mut_input<'a, T: Stored>(view: &'a Self::ViewMut<'_, T>) -> Self::In<'a, T>;

    #[doc(hidden)]
    fn view_output<'a, T: Stored>(view: &'a mut Self::ViewMut<'_, T>) -> Self::Out<'a, T>;

    // A projection such as `In<'a, T>` is invariant in 'a while the backend is unknown: these two shorten it by hand.
    #[doc(hidden)]
    fn shorten_input<'short, 'long: 'short, T: Stored>(input: Self::In<'long, T>) -> Self::In<'short, T>;

    #[doc(hidden)]
    fn shorten_output<'short, 'long: 'short, T: Stored>(output: Self::Out<'long, T>) -> Self::Out<'short, T>;
}

/// The operations of a backend over a caller's buffers, for data of type `T`. Sealed.
///
/// Every operation checks all of its arguments before it writes any: where it refuses them, nothing has changed. On CUDA
/// it is asynchronous on the backend's stream, allocates nothing and waits for nothing.
///
/// With `m = n * s` values per channel, all sums running over the values of one channel:
///
/// ```text
/// mean      = sum(x) / m
/// var       = sum((x - mean)^2) / m
/// inv_std   = 1 / sqrt(var + eps)                    0 where var + eps = 0, so that y = beta; NaN below
/// v         = (x - mean) * inv_std * gamma + beta
/// y         = v | max(v, 0) | v + z | max(v + z, 0)
/// ```
///
/// `eps` is rounded to the type of per-channel values first, f32 for all data but f64: so `var + eps` is 0 for the same
/// variances on every backend.
///
/// Values that are no numbers stay in their channel. An infinity in `x` is the channel's mean; infinities of both signs, or a
/// NaN, make the mean NaN. The variance is NaN then, and so are `inv_std`, all of `y`, `dx` and `dgamma`; `dbeta` is the sum of
/// `dy`, since relu lets a gradient pass where `y` is NaN.
///
/// # Errors
/// Common to all operations: [`Error::Length`](crate::Error::Length) for a buffer that is not of the shape's size,
/// [`Error::Aliasing`](crate::Error::Aliasing) for an output that overlaps another argument,
/// [`Error::Eps`](crate::Error::Eps), and [`Error::Unexpected`](crate::Error::Unexpected) for a relu mask where the
/// epilogue is not add-relu. On CUDA also [`Error::Workspace`](crate::Error::Workspace) for a workspace that is too small,
/// [`Error::Strategy`](crate::Error::Strategy) for a forced strategy that cannot hold the problem,
/// [`Error::ForeignDevice`](crate::Error::ForeignDevice), [`Error::ForeignContext`](crate::Error::ForeignContext) and
/// [`Error::ForeignStream`](crate::Error::ForeignStream) for a buffer from elsewhere,
/// [`Error::Forked`](crate::Error::Forked) in a process that was forked from one that had used CUDA,
/// [`Error::Capture`](crate::Error::Capture) on a stream that is captured while events are tracked, and
/// [`Error::Driver`](crate::Error::Driver) or [`Error::Launch`](crate::Error::Launch) for what CUDA reports.
pub trait Compute<T: Element>: Backend {
    /// `mean` and `var` of each channel, as `tf.nn.moments` gives them; NaN where a channel has no value. Of a channel with an
    /// infinity that is the mean, and `var` is NaN.
    ///
    /// # Shapes
    /// `x` as `shape`; `mean`, `var` `[c]`.
    ///
    /// # Errors
    /// The common ones.
    fn moments(&self, args: MomentsArgs<'_, Self, T>) -> Result<()>;

    /// The forward pass with the batch's own statistics:
    ///
    /// ```text
    /// running_mean <- (1 - a) * running_mean + a * mean
    /// running_var  <- (1 - a) * running_var  + a * var * k       k = m/(m-1) unbiased, 1 biased
    /// num_batches_tracked <- num_batches_tracked + 1
    /// ```
    ///
    /// with `a` as [`Momentum`](crate::Momentum) says; with `a = 1` the old value is not read, with `a = 0` the batch's. An
    /// infinity in a channel thus becomes its running mean, and its running variance NaN, unless
    /// [`NonFinite::Skip`](crate::NonFinite::Skip) leaves both as they are. An empty batch
    /// (`m = 0`) writes zeros to `saved_mean` and `saved_inv_std` and leaves the running statistics and the counter
    /// bit-identical.
    ///
    /// # Shapes
    /// `x`, `y`, `z` as `shape`; `gamma`, `beta`, `saved_mean`, `saved_inv_std`, running mean and variance `[c]`;
    /// `relu_mask` `[ceil(n*c*s / 32)]`.
    ///
    /// # Errors
    /// The common ones; [`Error::Momentum`](crate::Error::Momentum);
    /// [`Error::OneValuePerChannel`](crate::Error::OneValuePerChannel) for `m = 1` where the unbiased running variance
    /// is tracked.
    fn train(&self, args: TrainArgs<'_, Self, T>) -> Result<()>;

    /// The forward pass with given statistics: `mean = running_mean`, `var = running_var`. Where `running_var + eps` is 0, `y` is
    /// `beta`; where it is less, or NaN, `y` is NaN.
    ///
    /// # Shapes
    /// `x`, `y`, `z` as `shape`; `gamma`, `beta`, `running_mean`, `running_var` `[c]`; `relu_mask`
    /// `[ceil(n*c*s / 32)]`.
    ///
    /// # Errors
    /// The common ones.
    fn infer(&self, args: InferArgs<'_, Self, T>) -> Result<()>;

    /// The backward pass of [`train`](Compute::train):
    ///
    /// ```text
    /// g      = dy, zero where the epilogue's relu gave y <= 0         dz = g
    /// dbeta  = sum(g)
    /// dgamma = sum(g * (x - mean)) * inv_std
    /// dx     = gamma * inv_std * (g - dbeta/m - (x - mean) * inv_std * dgamma/m)
    /// ```
    ///
    /// Gradients overwrite, they do not accumulate. `saved_mean` is a rounded mean: what the rounding left is found
    /// again from `sum(x - saved_mean)`, unless that is more than a rounding, when `saved_mean` is taken as given.
    ///
    /// # Shapes
    /// `x`, `dy`, `dx`, `dz` as `shape`; `gamma`, `beta`, `saved_mean`, `saved_inv_std`, `dgamma`, `dbeta` `[c]`;
    /// `relu_mask` `[ceil(n*c*s / 32)]`.
    ///
    /// # Errors
    /// The common ones; [`Error::Missing`](crate::Error::Missing) for add-relu of a value or more without its mask.
    fn backward(&self, args: BackwardArgs<'_, Self, T>) -> Result<()>;

    /// The backward pass of [`infer`](Compute::infer), where the statistics are constants:
    ///
    /// ```text
    /// dbeta  = sum(g)
    /// dgamma = sum(g * (x - running_mean)) * inv_std
    /// dx     = gamma * inv_std * g
    /// ```
    ///
    /// with `inv_std = 1 / sqrt(running_var + eps)`: 0 where the sum is 0, and so are `dgamma` and `dx`; NaN where it is less, or
    /// NaN, and so are `dgamma` and `dx`.
    ///
    /// # Shapes
    /// As [`backward`](Compute::backward), with `running_mean`, `running_var` `[c]`.
    ///
    /// # Errors
    /// The common ones; [`Error::Missing`](crate::Error::Missing) for add-relu of a value or more without its mask.
    fn backward_frozen(&self, args: BackwardFrozenArgs<'_, Self, T>) -> Result<()>;
}

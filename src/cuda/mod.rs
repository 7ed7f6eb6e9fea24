//! The CUDA backend: the kernels of this crate on an NVIDIA device, behind the same API as the CPU reference.
//!
//! [`Cuda`] is a stream of a device. Every operation is asynchronous: it puts its launches on the backend's stream and
//! returns, allocates nothing, reads nothing back and waits for nothing, so that it can be captured into a CUDA graph.
//! These wait for the device: [`Backend::download`], [`BatchNorm::state_dict`](crate::BatchNorm::state_dict) and
//! [`Cuda::synchronize`]; uploads wait for their copy.
//!
//! # Streams
//! Buffers may be of the backend's stream or, while their context tracks events (cudarc's default), of another one.
//! Tracking costs: as soon as a context has a second stream, cudarc waits for and records an event for each buffer of
//! each call, some fifty driver calls an operation. Work on one stream needs none of that: use the stream that
//! [`Cuda::new`] takes, or turn tracking off with [`CudaContext::disable_event_tracking`] and order streams yourself.
//! A capture into a graph needs it off, since a graph cannot wait for events from outside.
//!
//! # Graphs
//! A captured graph holds the addresses of its buffers, and knows nothing of their owners: layer, statistics and data
//! must outlive it. [`BatchNorm::reserve`](crate::BatchNorm::reserve) and
//! [`BatchNorm::load_state_dict`](crate::BatchNorm::load_state_dict) replace memory that a graph may know.
//!
//! The stream that is captured is to be a non-blocking one, as [`CudaContext::new_stream`] makes: [`Cuda::on`] says why.
//!
//! # From tensors to a launch
//! The facts of an operation's tensors go through [`Problem`], their memory is held, the [`Plan`] is looked up, and
//! one function of `ffi` is called, which `cargo xtask bindings` makes of `kernels/abi.h`. `launch/` does that for all operations;
//! of each it has the file that fills the C struct.

mod device;
mod device_ref;
mod empty;
#[allow(missing_docs, non_camel_case_types, unreachable_pub, unsafe_code, dead_code, clippy::all)]
#[cfg(not(feature = "bindgen"))]
mod ffi;
#[allow(missing_docs, non_camel_case_types, unreachable_pub, unsafe_code, dead_code, clippy::all)]
#[cfg(feature = "bindgen")]
mod ffi {
    include!(concat!(env!("OUT_DIR"), "/ffi.rs"));
}
mod launch;
mod loader;
mod memory_pool;
mod plan_cache;
mod plans;
mod process;
mod programmatic;
mod workspace;
mod workspace_cache;

use core::ops::Range;
use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceRepr, DeviceSlice,
};
use half::{bf16, f16};

use crate::backend::{Backend, Compute, Sealed};
use crate::element::Stored;
use crate::error::Result;
use crate::memory;
use crate::op::{Extent, Memory, Operation, Problem, Raw, StreamKey};
use crate::plan::{DeviceLimits, Plan, PlanTable, Strategy};
use device::{allocating, driver};
pub use device_ref::DeviceRef;
#[cfg(feature = "bench")]
pub use launch::{Probe, Probes, Storing};
use plan_cache::PlanCache;
use process::expect_unforked;
pub use workspace::CudaWorkspace;

/// A stream of an NVIDIA device. Computes f32, f16 and bf16, all of them in f32.
///
/// ```no_run
/// use batchnorm::{Backend, BatchNorm, Cuda, Epilogue, Options, Shape};
///
/// let cuda = Cuda::new(0)?;
/// let shape = Shape::nchw(32, 64, 56, 56)?;
/// let mut layer = BatchNorm::new(cuda.clone(), shape.c(), Options::new())?;
/// layer.reserve::<f32>(shape, Epilogue::RELU)?;
/// let mut saved = layer.saved(shape, Epilogue::RELU)?;
///
/// let x = cuda.upload(&vec![1.0f32; shape.len()])?;
/// let mut y = cuda.upload(&vec![0.0f32; shape.len()])?;
/// layer.train(shape, &x, Epilogue::RELU, &mut y, &mut saved)?;
/// let y = cuda.download(&y)?;
/// # Ok::<(), batchnorm::Error>(())
/// ```
///
/// # Beside other work
/// The CTAs of a plan of the strategy [`Grid`](crate::Strategy::Grid) wait for each other, so that all of them must be
/// resident: such a launch fills up to all of the device, and waits until it can. Streams of one priority are safe
/// together, since their grids begin one after the other. Not promised is that these end:
/// - grids on streams of different priorities, or of processes that share a device by MPS: each may hold multiprocessors
///   that the other waits for;
/// - a grid together with kernels that wait for other devices, such as NCCL's: if those hold multiprocessors until a peer
///   answers, and the peer's queue is the other way round, both wait.
///
/// Use one priority, order such work by events, leave multiprocessors to the others by [`Cuda::with_max_sms`], so that all
/// fit at once, or force another strategy by [`Cuda::with_strategy`].
///
/// # Dtypes
/// Data of f64 is the CPU's alone:
/// ```compile_fail,E0277
/// fn computes<B: batchnorm::Compute<f64>>() {}
/// computes::<batchnorm::Cuda>();
/// ```
#[derive(Clone, Debug)]
pub struct Cuda {
    stream: Arc<CudaStream>,
    /// The device's, whatever `max_sms` is.
    device: DeviceLimits,
    max_sms: u32,
    strategy: Option<Strategy>,
    is_programmatic: bool,
    /// A table of plans of this device: [`Cuda::plans`] says whether it applies.
    table: Option<Arc<PlanTable>>,
    /// The plans of these limits, this strategy and this table.
    plans: Arc<PlanCache>,
}

impl Cuda {
    /// The device of this number, on its default stream.
    ///
    /// The default stream needs no events to stay in order, and cannot be captured into a graph: for that, see
    /// [`Cuda::on`]. While a blocking stream of the same device is captured anywhere in the process, it cannot be used.
    ///
    /// # Errors
    /// [`Error::NoDriver`](crate::Error::NoDriver), [`Error::NoDevice`](crate::Error::NoDevice), and those of [`Cuda::on`].
    pub fn new(ordinal: usize) -> Result<Self> {
        Self::on(device::open(ordinal)?.default_stream())
    }

    /// The number of CUDA devices.
    ///
    /// # Errors
    /// [`Error::NoDriver`](crate::Error::NoDriver), [`Error::Driver`](crate::Error::Driver).
    pub fn count() -> Result<usize> {
        device::count()
    }

    /// The device of this stream, with its work on this stream.
    ///
    /// The first time for a context, this loads all kernels and lets them use the device's shared memory, so that no
    /// later operation does: a capture permits neither.
    ///
    /// To capture into a graph, pass a stream of [`CudaContext::new_stream`], which is a non-blocking one, after
    /// [`CudaContext::disable_event_tracking`]. Make it before the capture begins: with tracking on, the first one of a
    /// context waits for the whole context, which a capture on any of its streams forbids.
    ///
    /// Do not capture on [`CudaContext::per_thread_stream`]. It is a blocking stream: while it is captured, the default
    /// stream of the same device, and with it every backend of [`Cuda::new`], fails with the code 906 on all threads of
    /// the process, and the capture may be lost. It is also another stream on every thread, so that a backend on it, and
    /// whatever that made, is to be used on one thread.
    ///
    /// # Errors
    /// [`Error::DeviceTooOld`](crate::Error::DeviceTooOld), [`Error::Driver`](crate::Error::Driver); of a kernel that cannot be
    /// made ready, by its name, [`Error::Prepare`](crate::Error::Prepare), [`Error::Residency`](crate::Error::Residency) and
    /// [`Error::StaticShared`](crate::Error::StaticShared); [`Error::Clusters`](crate::Error::Clusters);
    /// [`Error::PlanVariable`](crate::Error::PlanVariable) for a file of `BATCHNORM_PLANS` ([`Cuda::with_plans`]) that is no table, or
    /// one of another device or version.
    pub fn on(stream: Arc<CudaStream>) -> Result<Self> {
        let (device, table) = device::prepared(stream.context())?;
        let is_programmatic = programmatic::is_default(&device)?;
        Ok(Self { stream, device, max_sms: u32::MAX, strategy: None, is_programmatic, table, plans: Arc::default() })
    }

    /// The same, with launches that may begin while the launch before them in the stream ends, or not: programmatic dependent
    /// launch. What comes before a kernel's first access to global memory, the start of its CTAs and their arithmetic, then
    /// costs no time; the kernel waits for all earlier work itself, so that results are the same.
    ///
    /// A launch that waits so holds multiprocessors meanwhile: behind a kernel that lets others begin and itself waits for a third
    /// stream, turn it off.
    ///
    /// On by default from compute capability 9.0 on, with a driver for CUDA 12.3 or newer, which captures such launches
    /// too; `BATCHNORM_PROGRAMMATIC_LAUNCH=0` in the environment turns the default off, also for candle and PyTorch. Elsewhere
    /// it stays off.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub fn with_programmatic_launch(self, on: bool) -> Result<Self> {
        let is_programmatic = on && programmatic::is_possible(&self.device)?;
        Ok(Self { is_programmatic, ..self })
    }

    /// The same, with every operation planned by this strategy, or by the best one again for `None`. For tests and
    /// measurements.
    ///
    /// An operation that the strategy cannot hold is then refused with [`Error::Strategy`](crate::Error::Strategy).
    #[must_use]
    pub fn with_strategy(self, strategy: Option<Strategy>) -> Self {
        Self { strategy, plans: Arc::default(), ..self }
    }

    /// The same, with every operation planned for at most this many multiprocessors (at least one), which leaves the
    /// others to work on other streams. Grids then wait for fewer multiprocessors. That they end together with work
    /// of another priority takes room for all at once (see [above](Self#beside-other-work)).
    #[must_use]
    pub fn with_max_sms(self, max_sms: u32) -> Self {
        Self { max_sms, plans: Arc::default(), ..self }
    }

    /// The limits that plans must fit: the device's, with no more multiprocessors than [`Cuda::with_max_sms`] allows.
    pub fn limits(&self) -> DeviceLimits {
        DeviceLimits { sms: self.device.sms.min(self.max_sms).max(1), ..self.device }
    }

    /// The plan that an operation of this problem is launched by: made once for each, and by [`Cuda::with_strategy`] or
    /// [`Cuda::with_plans`].
    ///
    /// # Errors
    /// [`Error::Strategy`](crate::Error::Strategy), [`Error::NoStrategy`](crate::Error::NoStrategy).
    pub fn plan(&self, problem: &Problem) -> Result<Plan> {
        expect_unforked()?;
        self.planned(problem)
    }

    /// [`Cuda::plan`], in a process that was seen to be no forked one.
    fn planned(&self, problem: &Problem) -> Result<Plan> {
        self.plans.of(problem, &self.limits(), self.strategy, self.plans())
    }

    /// The strategy that every operation is planned by, where one is forced.
    pub fn strategy(&self) -> Option<Strategy> {
        self.strategy
    }

    /// The stream as launches take it.
    fn launch_stream(&self) -> ffi::BnStream {
        ffi::BnStream { handle: self.stream.cu_stream().cast(), is_programmatic: u32::from(self.is_programmatic) }
    }

    /// Whether launches may begin early ([`Cuda::with_programmatic_launch`]).
    pub fn launches_programmatically(&self) -> bool {
        self.is_programmatic
    }

    /// The stream that operations run on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The name of the device.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub fn name(&self) -> Result<String> {
        self.context().name().map_err(driver("cuDeviceGetName"))
    }

    /// Lets the default memory pool of the device keep what is freed, for later allocations. By default it gives memory
    /// back to the system at every synchronization, which a program that allocates and waits in turns pays for each time.
    ///
    /// This is a setting of the pool, for all of the process and until it ends: a program's to choose, and none of a
    /// library. Nothing of this crate calls it. A device without memory pools is left as it is.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub fn keep_memory(&self) -> Result<()> {
        memory_pool::keep_memory(self.context())
    }

    /// Waits until all work on the stream is done.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver), also for a failure of that work.
    pub fn synchronize(&self) -> Result<()> {
        expect_unforked()?;
        self.stream.synchronize().map_err(driver("cuStreamSynchronize"))
    }

    fn context(&self) -> &Arc<CudaContext> {
        self.stream.context()
    }

    /// A copy of `host` on the device, once it is made.
    fn copied_from<T: DeviceRepr>(&self, host: &[T]) -> Result<CudaSlice<T>> {
        expect_unforked()?;
        if host.is_empty() {
            return empty::empty(&self.stream);
        }
        let buf = self.stream.clone_htod(host).map_err(allocating(size_of_val(host)))?;
        // The copy may still be running if the device can read `host` itself.
        self.synchronize()?;
        Ok(buf)
    }

    /// A copy of `buf` on the host, once the work before it is done.
    fn copied_to_host<T: DeviceRepr + Copy + Default>(&self, buf: &CudaSlice<T>) -> Result<Vec<T>> {
        expect_unforked()?;
        let mut host = memory::filled(T::default(), buf.len())?;
        if host.is_empty() {
            return Ok(host);
        }
        let copied = self.stream.memcpy_dtoh(buf, &mut host).map_err(driver("cuMemcpyDtoHAsync"));
        // The wait comes after an error too: `host` must not be freed under a copy that runs.
        let done = self.synchronize();
        copied.and(done).map(|()| host)
    }
}

impl Sealed for Cuda {}

impl Memory for Cuda {
    // `dyn`, so that an absent tensor needs no type annotation, and anyone's memory can be passed.
    type In<'a, T: Stored> = &'a dyn DevicePtr<T>;
    type Out<'a, T: Stored> = &'a mut dyn DevicePtrMut<T>;

    fn shorten_in<'b, 'a: 'b, T: Stored>(memory: &'a dyn DevicePtr<T>) -> &'b dyn DevicePtr<T> {
        memory
    }
    fn shorten_out<'b, 'a: 'b, T: Stored>(memory: &'a mut dyn DevicePtrMut<T>) -> &'b mut dyn DevicePtrMut<T> {
        memory
    }
    fn extent_of_in<T: Stored>(memory: &&dyn DevicePtr<T>) -> Extent {
        extent(*memory)
    }
    fn extent_of_out<T: Stored>(memory: &&mut dyn DevicePtrMut<T>) -> Extent {
        extent(&**memory)
    }
}

/// The facts that are known without touching the memory. The address is not.
fn extent<T>(memory: &dyn DeviceSlice<T>) -> Extent {
    Extent { address: 0, len: memory.len(), bytes: memory.num_bytes(), stream: Some(stream_key(memory.stream())) }
}

/// The key of a stream.
fn stream_key(stream: &Arc<CudaStream>) -> StreamKey {
    let context = stream.context();
    StreamKey {
        device: context.ordinal(),
        context: context.cu_ctx() as usize,
        stream: stream.cu_stream() as usize,
        is_tracked: context.is_managing_stream_synchronization(),
    }
}

impl Backend for Cuda {
    type Buf<T: Stored> = CudaSlice<T>;
    type Workspace = CudaWorkspace;
    type View<'a, T: Stored> = CudaView<'a, T>;
    type ViewMut<'a, T: Stored> = CudaViewMut<'a, T>;

    fn upload<T: Stored>(&self, host: &[T]) -> Result<CudaSlice<T>> {
        self.copied_from(host)
    }
    fn download<T: Stored>(&self, buf: &CudaSlice<T>) -> Result<Vec<T>> {
        self.copied_to_host(buf)
    }
    fn input<T: Stored>(buf: &CudaSlice<T>) -> &dyn DevicePtr<T> {
        buf
    }
    fn output<T: Stored>(buf: &mut CudaSlice<T>) -> &mut dyn DevicePtrMut<T> {
        buf
    }
    fn workspace(&self, problems: &[Problem]) -> Result<CudaWorkspace> {
        CudaWorkspace::new(self, problems)
    }
    fn axpy(&self, alpha: f32, x: &dyn DevicePtr<f32>, y: &mut dyn DevicePtrMut<f32>) -> Result<()> {
        launch::axpy(self, alpha, x, y)
    }
    fn duplicate<T: Stored>(&self, buf: &CudaSlice<T>) -> Result<CudaSlice<T>> {
        expect_unforked()?;
        if buf.is_empty() {
            return empty::empty(&self.stream);
        }
        self.stream.clone_dtod(buf).map_err(allocating(size_of::<T>() * buf.len()))
    }
    fn view<T: Stored>(buf: &CudaSlice<T>, range: Range<usize>) -> CudaView<'_, T> {
        buf.slice(range)
    }
    fn view_mut<T: Stored>(buf: &mut CudaSlice<T>, range: Range<usize>) -> CudaViewMut<'_, T> {
        buf.slice_mut(range)
    }
    fn view_input<'a, T: Stored>(view: &'a CudaView<'_, T>) -> &'a dyn DevicePtr<T> {
        view
    }
    fn view_output<'a, T: Stored>(view: &'a mut CudaViewMut<'_, T>) -> &'a mut dyn DevicePtrMut<T> {
        view
    }
    fn len<T: Stored>(buf: &CudaSlice<T>) -> usize {
        buf.len()
    }
}

/// The dtypes: written out, so that they are compiled here and not in every crate that uses them.
macro_rules! compute {
    ($($element:ty)*) => {$(
        impl Compute<$element> for Cuda {
            fn execute(
                &self,
                operation: Operation<'_, Self, $element>,
                workspace: Option<&mut CudaWorkspace>,
            ) -> Result<()> {
                launch::run(self, operation, workspace)
            }
            #[allow(unsafe_code)]
            unsafe fn execute_raw(
                &self,
                operation: Operation<'_, Raw, $element>,
                workspace: Option<&mut CudaWorkspace>,
            ) -> Result<()> {
                // SAFETY: the caller's.
                unsafe { launch::run_raw(self, operation, workspace) }
            }
        }
    )*};
}

compute! { f32 f16 bf16 }

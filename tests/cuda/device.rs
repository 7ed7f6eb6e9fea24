//! The devices that tests run on, and who may use them at the same time.

use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::thread;
use std::time::Duration;

use batchnorm::plan::DeviceLimits;
use batchnorm::{Cuda, Error, Strategy};
use cudarc::driver::CudaContext;

/// Whether the device is the emulated one, which is slow.
pub(crate) const EMULATED: bool = cfg!(feature = "emulate");

/// Every way to plan: the planner's own, and each strategy forced.
pub(crate) const STRATEGIES: [Option<Strategy>; 5] =
    [None, Some(Strategy::Block), Some(Strategy::Cluster), Some(Strategy::Grid), Some(Strategy::TwoPass)];

/// Read by every test that uses a device, written by those that capture a graph. While a stream captures, work of other
/// threads in the same context can be refused and can break the capture: what synchronizes the context, for instance, as
/// the first `new_stream` of a context does.
static USE: RwLock<()> = RwLock::new(());

/// A device in use, for as long as this lives.
pub(crate) struct Device {
    cuda: Cuda,
    _shared: RwLockReadGuard<'static, ()>,
}

impl Device {
    /// [`Cuda::with_strategy`] of a device that stays in use.
    pub(crate) fn with_strategy(self, strategy: Option<Strategy>) -> Self {
        Self { cuda: self.cuda.with_strategy(strategy), ..self }
    }
}

impl Deref for Device {
    type Target = Cuda;

    fn deref(&self) -> &Cuda {
        &self.cuda
    }
}

/// Waits until no test has the device for itself, and keeps such tests away meanwhile. One thread may hold several, and
/// so may the threads of one test.
pub(crate) fn shared() -> RwLockReadGuard<'static, ()> {
    USE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until nobody else uses a device, and keeps everybody away. It does not stand in the lock's queue, behind which new
/// readers would wait: a test that holds the lock may take it again.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    loop {
        match USE.try_write() {
            Ok(guard) => return guard,
            Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// The first device, shared with other tests; `None`, with a message, where there is none and none is required.
pub(crate) fn cuda() -> Option<Device> {
    let shared = shared();
    open().map(|cuda| Device { cuda, _shared: shared })
}

/// [`cuda`] for a caller that holds the lock already.
pub(crate) fn open() -> Option<Cuda> {
    match Cuda::new(0).and_then(|cuda| cuda.keep_memory().map(|()| cuda)) {
        Ok(cuda) => Some(cuda),
        Err(error @ (Error::NoDriver { .. } | Error::NoDevice { .. })) => {
            assert!(!is_required(), "BATCHNORM_REQUIRE_GPU=1, and there is none: {error}");
            println!("skipped: no CUDA device ({error})");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Whether tests must find a device that they can use.
pub(crate) fn is_required() -> bool {
    std::env::var("BATCHNORM_REQUIRE_GPU").is_ok_and(|value| value == "1")
}

/// The ways to plan that a device has.
pub(crate) fn strategies(cuda: &Cuda) -> impl Iterator<Item = Option<Strategy>> {
    let limits = cuda.limits();
    STRATEGIES.into_iter().filter(move |&strategy| has(&limits, strategy))
}

/// Whether a device can run a strategy at all.
pub(crate) fn has(limits: &DeviceLimits, strategy: Option<Strategy>) -> bool {
    match strategy {
        Some(Strategy::Cluster) => limits.clusters != [[0; 4]; 2],
        Some(Strategy::Grid) => limits.cooperative,
        None | Some(Strategy::Block | Strategy::TwoPass) => true,
    }
}

/// The number of the emulated device of this name: the environment can make another one the first.
#[cfg(feature = "emulate")]
pub(crate) fn number_of(name: &str) -> usize {
    let has_name = |&number: &usize| CudaContext::new(number).unwrap().name().unwrap() == format!("emulated ({name})");
    (0..Cuda::count().unwrap()).find(has_name).unwrap()
}

/// The emulated device of this name.
#[cfg(feature = "emulate")]
pub(crate) fn emulated(name: &str) -> Cuda {
    Cuda::new(number_of(name)).unwrap()
}

/// Another context of a backend's device that does not track events: its streams are not kept in order, a stream can be
/// captured, and an operation makes ten calls of the driver, where it else makes fifty.
pub(crate) fn untracked(cuda: &Cuda) -> Arc<CudaContext> {
    let context = CudaContext::new(cuda.stream().context().ordinal()).unwrap();
    // SAFETY: nothing was allocated in this context yet. Tests use each buffer of it on one stream, or synchronize.
    unsafe { context.disable_event_tracking() };
    context
}

//! PyTorch's CUDA devices and streams.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use batchnorm::op::Problem;
use batchnorm::plan::PlanTable;
use batchnorm::{Cuda, CudaWorkspace, Result};
use cudarc::driver::result::ctx;
use cudarc::driver::sys::CUstreamCaptureStatus;

use crate::device::{Device, WorkspaceMemory};
use crate::error::Refusal;

/// The backends of devices' streams, and how they are to plan.
#[derive(Default)]
struct Known {
    backends: HashMap<(usize, u64), Cuda>,
    plans: Option<Arc<PlanTable>>,
    max_sms: Option<u32>,
}

static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

fn known() -> MutexGuard<'static, Known> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the plans of a table from now on, on every device. After an error nothing has changed.
pub(crate) fn use_plans(table: PlanTable) -> Result<()> {
    let table = Arc::new(table);
    let mut known = known();
    let tuned = |(&key, cuda): (&(usize, u64), &Cuda)| Ok((key, cuda.clone().with_plans(Arc::clone(&table))?));
    known.backends = known.backends.iter().map(tuned).collect::<Result<_>>()?;
    known.plans = Some(table);
    Ok(())
}

/// Plans for at most this many multiprocessors from now on, on every device; `None` for all.
pub(crate) fn set_max_sms(max_sms: Option<u32>) {
    let mut known = known();
    for cuda in known.backends.values_mut() {
        *cuda = cuda.clone().with_max_sms(max_sms.unwrap_or(u32::MAX));
    }
    known.max_sms = max_sms;
}

/// The backend of a device's stream, made once for each: torch keeps its streams for ever.
pub(crate) fn on(ordinal: usize, stream: u64) -> Result<Cuda, Refusal> {
    let mut known = known();
    if let Some(cuda) = known.backends.get(&(ordinal, stream)) {
        return Ok(cuda.clone());
    }
    let mut cuda = Cuda::new(ordinal)?; // On the default stream.
    if stream != 0 {
        let raw = core::ptr::with_exposed_provenance_mut(stream as usize);
        // SAFETY: a stream of this device's primary context, torch's, which it never destroys.
        let of_torch = unsafe { cuda.stream().context().wrap_borrowed_stream(raw) };
        cuda = Cuda::on(of_torch)?;
    }
    if let Some(plans) = &known.plans {
        cuda = cuda.with_plans(Arc::clone(plans))?;
    }
    if let Some(max_sms) = known.max_sms {
        cuda = cuda.with_max_sms(max_sms);
    }
    known.backends.insert((ordinal, stream), cuda.clone());
    Ok(cuda)
}

/// Whether work that is put on the stream now goes into a graph.
pub(crate) fn is_capturing(cuda: &Cuda) -> Result<bool, Refusal> {
    let status = cuda.stream().capture_status();
    let status = status.map_err(|error| Refusal::runtime(format!("batchnorm: cuStreamIsCapturing: {error}")))?;
    Ok(status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
}

/// The result of `work`. It may make another device the thread's current one, as torch sees it too: that is taken back.
pub(crate) fn keeping_the_current_device<R>(work: impl FnOnce() -> R) -> R {
    // Without a driver the question would panic; `work` says what is missing.
    let has_driver = !known().backends.is_empty() || Cuda::count().is_ok();
    if !has_driver {
        return work();
    }
    let before = ctx::get_current().ok().flatten();
    let result = work();
    if let Some(before) = before
        && ctx::get_current().ok().flatten() != Some(before)
    {
        // SAFETY: it was current when this began, and nothing destroys a device's primary context.
        let _ = unsafe { ctx::set_current(before) }; // The driver refuses it only where the context is lost.
    }
    result
}

impl Device for Cuda {
    unsafe fn workspace_at(&self, memory: WorkspaceMemory) -> Option<CudaWorkspace> {
        // SAFETY: the caller's; torch aligns what it allocates to 512 bytes.
        memory.map(|(address, bytes)| unsafe { CudaWorkspace::from_raw(address as u64, bytes, self.stream()) })
    }
    fn workspace_bytes(&self, problem: &Problem) -> Result<usize> {
        self.workspace_bytes(problem)
    }
}

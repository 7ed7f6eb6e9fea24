//! PyTorch's CUDA devices and streams.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use batchnorm::op::Problem;
use batchnorm::plan::PlanTable;
use batchnorm::{Cuda, CudaWorkspace, Result};
use pyo3::PyResult;

use crate::device::{Device, WorkspaceMemory};
use crate::error::error;

/// The backends of devices' streams, and the table that [`use_plans`] gave them.
#[derive(Default)]
struct Known {
    backends: HashMap<(usize, u64), Cuda>,
    plans: Option<Arc<PlanTable>>,
}

static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

/// Takes the plans of a table from now on, on every device. After an error nothing has changed.
pub(crate) fn use_plans(table: PlanTable) -> Result<()> {
    let table = Arc::new(table);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let tuned = |(&key, cuda): (&(usize, u64), &Cuda)| Ok((key, cuda.clone().with_plans(Arc::clone(&table))?));
    known.backends = known.backends.iter().map(tuned).collect::<Result<_>>()?;
    known.plans = Some(table);
    Ok(())
}

/// The backend of a device's stream, made once for each: torch keeps its streams for ever.
pub(crate) fn on(ordinal: usize, stream: u64) -> PyResult<Cuda> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(cuda) = known.backends.get(&(ordinal, stream)) {
        return Ok(cuda.clone());
    }
    let mut cuda = Cuda::new(ordinal).map_err(error)?; // On the default stream.
    if stream != 0 {
        let raw = core::ptr::with_exposed_provenance_mut(stream as usize);
        // SAFETY: a stream of this device's primary context, torch's, which it never destroys.
        let of_torch = unsafe { cuda.stream().context().wrap_borrowed_stream(raw) };
        cuda = Cuda::on(of_torch).map_err(error)?;
    }
    if let Some(plans) = &known.plans {
        cuda = cuda.with_plans(Arc::clone(plans)).map_err(error)?;
    }
    known.backends.insert((ordinal, stream), cuda.clone());
    Ok(cuda)
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

//! Scratch memory.

use std::fmt;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtrMut, DeviceSlice};

use super::device::allocating;
use super::process::expect_unforked;
use super::workspace_cache::WorkspaceCache;
use super::{Cuda, DeviceRef};
use crate::error::Result;
use crate::op::Problem;
use crate::plan::Plan;

thread_local! {
    static KEPT: WorkspaceCache<Arc<CudaStream>, CudaWorkspace> = const { WorkspaceCache::new() };
}

/// Scratch memory of one layer, one captured graph or one caller. What uses it must be in order: one stream, or streams
/// that wait for each other.
///
/// Counters come first, the partial results of blocks of threads after them. Operations rely on what earlier ones left there.
pub struct CudaWorkspace {
    memory: Option<Memory>,
}

enum Memory {
    Owned(CudaSlice<u8>),
    /// Memory of whoever promised that it lives as long.
    Foreign(DeviceRef<'static, u8>),
}

impl CudaWorkspace {
    /// Enough for each of these problems and for smaller batches of them, whatever the alignment of the data.
    pub(super) fn new(cuda: &Cuda, problems: &[Problem]) -> Result<Self> {
        expect_unforked()?;
        let bytes = greatest(problems, |problem| {
            // Problems are planned even if the memory is enough: a plan that is refused is refused here.
            cuda.planned(problem)?;
            Ok(Plan::most_workspace_bytes(problem, &cuda.limits(), cuda.strategy))
        })?;
        if bytes == 0 {
            return Ok(Self { memory: None });
        }
        let memory = cuda.stream.alloc_zeros(bytes).map_err(allocating(bytes))?;
        Ok(Self { memory: Some(Memory::Owned(memory)) })
    }

    /// `bytes` of memory that someone else owns and frees, at a device address: [`Cuda::workspace_bytes`] says how many an
    /// operation needs.
    ///
    /// # Safety
    /// As [`DeviceRef::from_raw`], for as long as the workspace or a graph that was captured with it lasts. The memory is
    /// aligned to 256 bytes, and all zeros when its first operation begins. Between operations nothing writes it. All workspaces over the same
    /// memory have the same `bytes`.
    #[allow(unsafe_code)]
    pub unsafe fn from_raw(address: u64, bytes: usize, stream: &Arc<CudaStream>) -> Self {
        // SAFETY: the caller's.
        let memory = (bytes > 0).then(|| unsafe { DeviceRef::from_raw(address, bytes, stream) });
        Self { memory: memory.map(Memory::Foreign) }
    }

    /// The size in bytes.
    pub fn bytes(&self) -> usize {
        match &self.memory {
            None => 0,
            Some(Memory::Owned(memory)) => memory.len(),
            Some(Memory::Foreign(memory)) => memory.len(),
        }
    }

    pub(super) fn memory_mut(&mut self) -> Option<&mut dyn DevicePtrMut<u8>> {
        match self.memory.as_mut()? {
            Memory::Owned(memory) => Some(memory),
            Memory::Foreign(memory) => Some(memory),
        }
    }
}

/// The size alone.
impl fmt::Debug for CudaWorkspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaWorkspace").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl Cuda {
    /// Bytes of scratch memory that an operation needs, whatever the alignment of its data: 0 for an empty batch.
    /// [`Backend::workspace`](crate::Backend::workspace) gives at least so many, and enough for smaller batches.
    ///
    /// # Errors
    /// [`Error::Strategy`](crate::Error::Strategy), where a strategy is forced that holds none of them.
    pub fn workspace_bytes(&self, problem: &Problem) -> Result<usize> {
        greatest(&[*problem], |problem| Ok(self.plan(problem)?.workspace_bytes))
    }

    /// Calls `operation` with scratch memory that the calling thread keeps for the backend's stream. It is allocated where there
    /// is none yet or it is too small for `plan`, and freed when the thread ends, or by the thread's use of other streams. After
    /// an error it is given up, and the next one is new.
    pub(super) fn with_own_workspace(
        &self,
        problem: &Problem,
        plan: &Plan,
        operation: impl FnOnce(&mut CudaWorkspace) -> Result<()>,
    ) -> Result<()> {
        let is_enough = |kept: &CudaWorkspace| kept.bytes() >= plan.workspace_bytes;
        let new = || CudaWorkspace::new(self, &[*problem]);
        KEPT.with(|kept| kept.with(Arc::clone(&self.stream), is_enough, new, operation))
    }
}

/// The greatest of what problems need for either alignment that plans distinguish: of whole vectors, and of single elements.
fn greatest(problems: &[Problem], bytes: impl Fn(&Problem) -> Result<usize>) -> Result<usize> {
    let mut most = None;
    let mut refused = Ok(0);
    for problem in problems.iter().filter(|problem| !problem.shape().is_empty()) {
        for alignment in [16, problem.dtype().bytes() as usize] {
            match bytes(&problem.with_alignment(alignment)) {
                Ok(bytes) => most = most.max(Some(bytes)),
                Err(error) => refused = refused.and(Err(error)),
            }
        }
    }
    // A forced strategy may hold the forward pass and not the backward one: whoever runs only the former may.
    most.map_or(refused, Ok)
}

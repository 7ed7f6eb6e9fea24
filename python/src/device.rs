//! The backends of PyTorch's devices.

use batchnorm::op::Problem;
use batchnorm::{Backend, Cpu, Result};

/// The address of scratch memory and its bytes, where it is not the thread's own.
pub(crate) type WorkspaceMemory = Option<(usize, usize)>;

/// A backend over memory that Python's tensors own.
pub(crate) trait Device: Backend {
    /// Scratch memory at an address.
    ///
    /// # Safety
    /// There are so many bytes, aligned to 256, for as long as the workspace lasts and work that was put on the stream with it
    /// runs; they were all zeros before their first operation, and nothing else writes them.
    unsafe fn workspace_at(&self, memory: WorkspaceMemory) -> Option<Self::Workspace>;
    /// Bytes of scratch memory that an operation needs.
    fn workspace_bytes(&self, problem: &Problem) -> Result<usize>;
}

impl Device for Cpu {
    unsafe fn workspace_at(&self, _: WorkspaceMemory) -> Option<()> {
        None
    }
    fn workspace_bytes(&self, _: &Problem) -> Result<usize> {
        Ok(0)
    }
}

//! Scratch memory.

use cudarc::driver::CudaSlice;

use super::Cuda;
use super::device::allocating;
use crate::{Plan, Problem, Result};

/// Scratch memory of one layer, one captured graph or one caller. What uses it must be in order: one stream, or streams
/// that wait for each other.
///
/// A counter that is 0 between launches comes first, the partial results of blocks of threads after it.
pub struct CudaWorkspace {
    memory: Option<CudaSlice<u8>>,
}

impl CudaWorkspace {
    /// Enough for each of these problems and for smaller batches of them, whatever the alignment of the data.
    pub(super) fn new(cuda: &Cuda, problems: &[Problem]) -> Result<Self> {
        let mut bytes = 0;
        let mut refused = None;
        let mut any = false;
        for problem in problems.iter().filter(|problem| !problem.shape().is_empty()) {
            // Plans tell two alignments apart: that of whole vectors, and that of single elements.
            for alignment in [16, problem.dtype().bytes() as usize] {
                let (problem, limits) = (problem.with_alignment(alignment), cuda.limits());
                match Plan::new(&problem, &limits, cuda.strategy) {
                    Ok(_) => {
                        bytes = bytes.max(Plan::most_workspace_bytes(&problem, &limits, cuda.strategy));
                        any = true;
                    }
                    Err(error) => refused = refused.or(Some(error)),
                }
            }
        }
        // A forced strategy may hold the forward pass and not the backward one: whoever runs only the former may.
        if let (false, Some(error)) = (any, refused) {
            return Err(error);
        }
        let memory = if bytes == 0 { None } else { Some(cuda.stream.alloc_zeros(bytes).map_err(allocating(bytes))?) };
        Ok(Self { memory })
    }

    /// The size in bytes.
    pub fn bytes(&self) -> usize {
        self.memory.as_ref().map_or(0, CudaSlice::len)
    }

    pub(super) fn memory_mut(&mut self) -> Option<&mut CudaSlice<u8>> {
        self.memory.as_mut()
    }
}

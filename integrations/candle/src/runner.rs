//! Where a layer computes, with the scratch memory of its operations.

use std::sync::{Mutex, PoisonError};

use batchnorm::{Cpu, Problem};
use candle_core::{Device, Error, Result};

use crate::storage::CandleBackend;

/// Scratch memory that a layer keeps for its next operations at most, one of each size that is in use.
const KEPT: usize = 8;

/// The backend of a layer's device.
pub(crate) enum Runners {
    Cpu(Runner<Cpu>),
    #[cfg(feature = "cuda")]
    Cuda(Runner<batchnorm::Cuda>),
}

impl Runners {
    /// Of a device: on CUDA the stream that candle puts its own work on.
    pub(crate) fn of(device: &Device) -> Result<Self> {
        match device {
            Device::Cpu => Ok(Self::Cpu(Runner::new(Cpu))),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => {
                Ok(Self::Cuda(Runner::new(batchnorm::Cuda::on(device.cuda_stream()).map_err(Error::wrap)?)))
            }
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => Err(no_backend("a CUDA device, for which candle-batchnorm needs its feature `cuda`")),
            Device::Metal(_) => Err(no_backend("a Metal device")),
        }
    }
}

fn no_backend(got: &str) -> Error {
    Error::Msg(format!("batch-norm: expected tensors on the CPU or on a CUDA device, got {got}")).bt()
}

/// A backend with scratch memory. Two threads never have the same at once; one after the other may, since their work
/// is in order on the stream.
pub(crate) struct Runner<B: CandleBackend> {
    backend: B,
    workspaces: Mutex<Vec<(Problem, B::Workspace)>>,
}

impl<B: CandleBackend> Runner<B> {
    fn new(backend: B) -> Self {
        Self { backend, workspaces: Mutex::default() }
    }

    /// Runs an operation with scratch memory for its problem.
    pub(crate) fn run(
        &self,
        problem: Problem,
        operation: impl FnOnce(&B, &mut B::Workspace) -> batchnorm::Result<()>,
    ) -> Result<()> {
        let kept = || self.workspaces.lock().unwrap_or_else(PoisonError::into_inner);
        let found = {
            let mut kept = kept();
            kept.iter().position(|(of, _)| *of == problem).map(|i| kept.remove(i).1)
        };
        let mut workspace = match found {
            Some(workspace) => workspace,
            None => self.backend.workspace(&[problem]).map_err(Error::wrap)?,
        };
        // After an error it is not used again.
        operation(&self.backend, &mut workspace).map_err(Error::wrap)?;
        let mut kept = kept();
        if kept.len() == KEPT {
            kept.remove(0); // Unused for longest.
        }
        kept.push((problem, workspace));
        Ok(())
    }
}

//! The running statistics of a layer, which a training forward writes in place.

use batchnorm::op::RawSlice;
use candle_core::{Result, Tensor, Var};

use crate::storage::{CandleBackend, Value};

/// Mean and variance, variables of the model, and how many batches they have seen. Clones are the same tensors.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) mean: Var,
    pub(crate) var: Var,
    /// The kernels count; candle_nn has no name for it, so no file has it.
    pub(crate) num_batches_tracked: Tensor,
}

impl Running {
    /// Runs `f` over mean, variance and counter, which it may write.
    pub(crate) fn update<B: CandleBackend, P: Value>(
        &self,
        backend: &B,
        f: impl FnOnce([RawSlice<P>; 2], RawSlice<i64>) -> Result<()>,
    ) -> Result<()> {
        backend.update([&self.mean, &self.var], &self.num_batches_tracked, f)
    }
}

//! The running statistics of a layer, which a training forward writes in place.

use candle_core::{Result, Tensor, Var};

use crate::storage::{CandleBackend, Value};

/// Mean and variance, variables of the model, and how many batches they have seen.
pub(crate) struct Running {
    pub(crate) mean: Var,
    pub(crate) var: Var,
    /// The kernels count; candle_nn has no name for it, so no file has it.
    pub(crate) num_batches_tracked: Tensor,
}

impl Running {
    /// Runs `f` over mean, variance and counter, which it may write.
    pub(crate) fn write<B, P>(
        &self,
        f: impl FnOnce(B::ValuesMut<'_, P>, B::ValuesMut<'_, P>, B::ValuesMut<'_, i64>) -> Result<()>,
    ) -> Result<()>
    where
        B: CandleBackend,
        P: Value,
    {
        B::update::<P>([&self.mean, &self.var], &self.num_batches_tracked, f)
    }
}

//! The forward pass.

use batchnorm::op::{Infer, Train, Update};
use batchnorm::{Compute, relu_mask_len};
use candle_core::{Result, Shape};

use super::{Input, Normalize, Normalizer, Roles, run, tensor, with_residual};
use crate::storage::{CandleBackend, Data, Lent};

impl Normalize {
    /// Writes `y` and, in training, the running statistics; keeps what the backward pass needs.
    pub(super) fn forward<B, T>(&self, backend: &B, inputs: [Input<'_, B>; 3]) -> Result<(B::Storage, Shape)>
    where
        B: CandleBackend + Compute<T>,
        T: Data,
    {
        let inputs = self.roles(inputs);
        let (shape, eps, like) = (self.shape, self.layer.config.eps, inputs.x.0);
        let (len, c, mask_len) = (shape.len(), shape.c(), relu_mask_len(shape));
        let mut y = B::alloc::<T>(like, len)?;
        let keeps_mask = self.needs_backward && self.epilogue.keeps_mask();
        let mut mask = if keeps_mask { Some(B::alloc::<u32>(like, mask_len)?) } else { None };
        let mut saved = None;
        match &self.normalizer {
            Normalizer::Batch => {
                let saved = saved.insert(B::alloc::<T::Param>(like, 2 * c)?);
                let mut lent = Lent::by(backend);
                let Roles { x, z, gamma, beta } = inputs;
                let saved = lent.write::<T::Param>(saved)?;
                let mut train = Train {
                    shape,
                    eps,
                    x: lent.read::<T>(x, len)?,
                    epilogue: with_residual(self.epilogue, z.map(|z| lent.read(z, len)).transpose()?)?,
                    gamma: Some(lent.read(gamma, c)?),
                    beta: Some(lent.read(beta, c)?),
                    y: lent.write::<T>(&mut y)?.slice(0, len),
                    saved_mean: saved.slice(0, c),
                    saved_inv_std: saved.slice(c, c),
                    relu_mask: mask.as_mut().map(|mask| lent.write(mask)).transpose()?,
                    running: None,
                };
                let tracking = self.layer.config.tracking();
                self.layer.running.update(backend, |[mean, var], num_batches_tracked| {
                    train.running = Some(Update { tracking, mean, var, num_batches_tracked });
                    run(backend, train)
                })?;
            }
            Normalizer::Running([mean, var]) => {
                let (mean, var) = (mean.storage_and_layout(), var.storage_and_layout());
                let mut lent = Lent::by(backend);
                let Roles { x, z, gamma, beta } = inputs;
                let infer = Infer {
                    shape,
                    eps,
                    x: lent.read::<T>(x, len)?,
                    epilogue: with_residual(self.epilogue, z.map(|z| lent.read(z, len)).transpose()?)?,
                    gamma: Some(lent.read(gamma, c)?),
                    beta: Some(lent.read(beta, c)?),
                    running_mean: lent.read((B::of(&mean.0)?, mean.1.start_offset()), c)?,
                    running_var: lent.read((B::of(&var.0)?, var.1.start_offset()), c)?,
                    y: lent.write::<T>(&mut y)?.slice(0, len),
                    relu_mask: mask.as_mut().map(|mask| lent.write(mask)).transpose()?,
                };
                run(backend, infer)?;
            }
        }
        if let Some(saved) = saved {
            let _ = self.saved.set(tensor::<B>(saved, &[2, c]));
        }
        if let Some(mask) = mask {
            let _ = self.relu_mask.set(tensor::<B>(mask, &[mask_len]));
        }
        Ok((y, self.dims.as_slice().into()))
    }
}

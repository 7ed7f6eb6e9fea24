//! The backward pass.

use batchnorm::op::{Backward, Gradients, Statistics};
use batchnorm::{Activation, Compute, Epilogue, relu_mask_len};
use candle_core::{Error, Result, Tensor};

use super::{NAME, Normalize, Normalizer, Roles, run, tensor, with_residual};
use crate::storage::{CandleBackend, Data, Lent};

impl Normalize {
    /// The gradients of the inputs: of those that ask for none, none.
    pub(super) fn backward<B, T>(&self, backend: &B, args: [&Tensor; 3], dy: &Tensor) -> Result<[Option<Tensor>; 3]>
    where
        B: CandleBackend + Compute<T>,
        T: Data,
    {
        if dy.track_op() {
            // The gradients computed here are constants to candle, so that a second derivative would silently miss them.
            return Err(Error::BackwardNotSupported { op: "the backward pass of batch-norm" }.bt());
        }
        let (shape, dims) = (self.shape, self.dims.as_slice());
        let (len, c) = (shape.len(), shape.c());
        // The residual's gradient is dy itself without an activation.
        let has_dz = self.has_residual() && self.epilogue.activation() != Activation::Identity;
        let epilogue = Epilogue::new(self.epilogue.activation(), has_dz.then_some(()));
        let dy = dy.contiguous()?;
        // mean and inv_std as rows of one tensor, or mean and variance
        let (first, second, second_start) = match &self.normalizer {
            Normalizer::Batch => {
                let saved = self.saved.get().ok_or_else(|| Error::BackwardNotSupported { op: NAME }.bt())?;
                (saved, saved, c)
            }
            Normalizer::Running([mean, var]) => (mean, var, var.layout().start_offset()),
        };
        let held = [&dy, args[0], args[1], args[2], first, second].map(Tensor::storage_and_layout);
        let of = |i: usize| B::of(&held[i].0).map(|storage| (storage, held[i].1.start_offset()));
        let mask = self.relu_mask.get().map(Tensor::storage_and_layout);
        let Roles { x, gamma, beta, .. } = self.roles([of(1)?, of(2)?, of(3)?]);

        let mut dx = B::alloc::<T>(x.0, len)?;
        let mut dz = if has_dz { Some(B::alloc::<T>(x.0, len)?) } else { None };
        let mut dparameters = B::alloc::<T::Param>(x.0, 2 * c)?;
        {
            let mut lent = Lent::by(backend);
            let (mean, second) = (lent.read(of(4)?, c)?, lent.read((B::of(&held[5].0)?, second_start), c)?);
            let mask = mask.as_ref().map(|(mask, _)| lent.read((B::of(mask)?, 0), relu_mask_len(shape)));
            let dz = dz.as_mut().map(|dz| lent.write::<T>(dz)).transpose()?.map(|dz| dz.slice(0, len));
            let parameters = lent.write::<T::Param>(&mut dparameters)?;
            let backward = Backward {
                shape,
                x: lent.read::<T>(x, len)?,
                dy: lent.read::<T>(of(0)?, len)?,
                epilogue: with_residual(epilogue, dz)?,
                gamma: Some(lent.read(gamma, c)?),
                beta: Some(lent.read(beta, c)?),
                statistics: match &self.normalizer {
                    Normalizer::Batch => Statistics::Batch { mean, inv_std: second },
                    Normalizer::Running(_) => Statistics::Running { mean, var: second, eps: self.layer.config.eps },
                },
                relu_mask: mask.transpose()?,
                gradients: Gradients {
                    dx: Some(lent.write::<T>(&mut dx)?.slice(0, len)),
                    dgamma: Some(parameters.slice(0, c)),
                    dbeta: Some(parameters.slice(c, c)),
                },
            };
            run(backend, backward)?;
        }
        let (dx, dparameters) = (tensor::<B>(dx, dims), tensor::<B>(dparameters, &[2, c]));
        let gradients = if self.has_residual() {
            [dx, dz.map_or_else(|| dy.clone(), |dz| tensor::<B>(dz, dims)), dparameters]
        } else {
            [dx, dparameters.get(0)?, dparameters.get(1)?]
        };
        let mut tracked = args.iter().map(|arg| arg.track_op());
        Ok(gradients.map(|gradient| tracked.next().unwrap_or(false).then_some(gradient)))
    }
}

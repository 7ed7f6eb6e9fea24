//! The backward pass.

use batchnorm::args::{BackwardArgs, BackwardFrozenArgs};
use batchnorm::{Compute, Epilogue, Gradients, Op, relu_mask_len};
use candle_core::{Error, Result, Tensor};

use super::{NAME, Normalize, Roles, Statistics, tensor};
use crate::storage::{CandleBackend, Data};

impl Normalize {
    /// The gradients of the inputs: of those that ask for none, none.
    pub(super) fn backward<B, T>(&self, backend: &B, args: [&Tensor; 3], dy: &Tensor) -> Result<[Option<Tensor>; 3]>
    where
        B: CandleBackend + Compute<T>,
        T: Data,
    {
        if dy.track_op() {
            // With it the gradients here would have to be differentiable, and would be taken for constants.
            return Err(Error::BackwardNotSupported { op: "the backward pass of batch-norm" }.bt());
        }
        let (shape, c, eps) = (self.shape, self.shape.c(), self.layer.eps);
        let contiguous = dy.contiguous()?;
        let (dy_storage, dy_layout) = contiguous.storage_and_layout();
        let dy_values = B::values::<T>(B::of(&dy_storage)?, dy_layout.start_offset(), shape.len())?;
        let guards = args.map(Tensor::storage_and_layout);
        let of = |i: usize| B::of(&guards[i].0).map(|storage| (storage, guards[i].1.start_offset()));
        let Roles { x: (x, start), gamma, beta, .. } = self.roles([of(0)?, of(1)?, of(2)?]);
        let beside = x;
        let x = B::values::<T>(x, start, shape.len())?;
        let gamma = B::values::<T::Param>(gamma.0, gamma.1, c)?;
        let beta = B::values::<T::Param>(beta.0, beta.1, c)?;

        let mut dx = B::alloc::<T>(beside, shape.len())?;
        let mut dz = match self.fused {
            Epilogue::ADD_RELU => Some(B::alloc::<T>(beside, shape.len())?),
            Epilogue::IDENTITY | Epilogue::RELU | Epilogue::ADD => None,
        };
        let mut daffine = B::alloc::<T::Param>(beside, 2 * c)?;
        {
            let [mut dx, _] = B::split(&mut dx, shape.len());
            let mut dz = dz.as_mut().map(|dz| B::split(dz, shape.len()));
            let [mut dgamma, mut dbeta] = B::split(&mut daffine, c);
            let mask = self.relu_mask.get().map(Tensor::storage_and_layout);
            let mask = mask.as_ref().map(|(mask, _)| B::values::<u32>(B::of(mask)?, 0, relu_mask_len(shape)));
            let mask = mask.transpose()?;
            // Without a relu behind it the residual's gradient is dy itself.
            let fused = match self.fused {
                Epilogue::ADD => Epilogue::IDENTITY,
                fused => fused,
            };
            match &self.statistics {
                Statistics::Batch => {
                    let saved = self.saved.get().ok_or_else(|| Error::BackwardNotSupported { op: NAME }.bt())?;
                    let (saved, _) = saved.storage_and_layout();
                    let saved_mean = B::values::<T::Param>(B::of(&saved)?, 0, c)?;
                    let saved_inv_std = B::values::<T::Param>(B::of(&saved)?, c, c)?;
                    let problem = self.problem::<T>(Op::Backward(StatisticsKind::Batch), fused)?;
                    backend.with_scratch(problem, |workspace| {
                        backend.backward(BackwardArgs {
                            shape,
                            x: B::reads(&x),
                            dy: B::reads(&dy_values),
                            epilogue: fused.with("dz", dz.as_mut().map(|[dz, _]| B::writes(dz)))?,
                            gamma: Some(B::reads(&gamma)),
                            beta: Some(B::reads(&beta)),
                            saved_mean: B::reads(&saved_mean),
                            saved_inv_std: B::reads(&saved_inv_std),
                            relu_mask: mask.as_ref().map(|mask| B::reads(mask)),
                            gradients: Gradients {
                                dx: B::writes(&mut dx),
                                dgamma: Some(B::writes(&mut dgamma)),
                                dbeta: Some(B::writes(&mut dbeta)),
                            },
                            workspace,
                        })
                    })?;
                }
                Statistics::Frozen([mean, var]) => {
                    let ((mean, mean_layout), (var, var_layout)) =
                        (mean.storage_and_layout(), var.storage_and_layout());
                    let mean = B::values::<T::Param>(B::of(&mean)?, mean_layout.start_offset(), c)?;
                    let var = B::values::<T::Param>(B::of(&var)?, var_layout.start_offset(), c)?;
                    let problem = self.problem::<T>(Op::Backward(StatisticsKind::Running), fused)?;
                    backend.with_scratch(problem, |workspace| {
                        backend.backward_frozen(BackwardFrozenArgs {
                            shape,
                            eps,
                            x: B::reads(&x),
                            dy: B::reads(&dy_values),
                            epilogue: fused.with("dz", dz.as_mut().map(|[dz, _]| B::writes(dz)))?,
                            gamma: Some(B::reads(&gamma)),
                            beta: Some(B::reads(&beta)),
                            running_mean: B::reads(&mean),
                            running_var: B::reads(&var),
                            relu_mask: mask.as_ref().map(|mask| B::reads(mask)),
                            gradients: Gradients {
                                dx: B::writes(&mut dx),
                                dgamma: Some(B::writes(&mut dgamma)),
                                dbeta: Some(B::writes(&mut dbeta)),
                            },
                            workspace,
                        })
                    })?;
                }
            }
        }
        let dims = self.dims.as_slice();
        let dx = tensor::<B>(B::wrap(beside, dx), dims);
        let daffine = tensor::<B>(B::wrap(beside, daffine), &[2, c]);
        let gradients = if self.has_residual() {
            let dz = match dz {
                Some(dz) => tensor::<B>(B::wrap(beside, dz), dims),
                None => contiguous.clone(),
            };
            [dx, dz, daffine]
        } else {
            [dx, daffine.get(0)?, daffine.get(1)?]
        };
        let mut tracked = args.iter().map(|arg| arg.track_op());
        Ok(gradients.map(|gradient| tracked.next().unwrap_or(false).then_some(gradient)))
    }
}

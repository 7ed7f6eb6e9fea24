//! The forward pass.

use batchnorm::args::{InferArgs, RunningArgs, TrainArgs};
use batchnorm::{Compute, Epilogue, Op, relu_mask_len};
use candle_core::{Error, Result, Shape};

use super::{Input, Normalize, Roles, Statistics, tensor};
use crate::storage::{CandleBackend, Data};

impl Normalize {
    /// Writes `y` and, in training, the running statistics; keeps what the backward pass needs.
    pub(super) fn forward<B, T>(&self, backend: &B, inputs: [Input<'_, B>; 3]) -> Result<(B::Storage, Shape)>
    where
        B: CandleBackend + Compute<T>,
        T: Data,
    {
        let Roles { x: (x, start), z, gamma, beta } = self.roles(inputs);
        let (shape, c, eps) = (self.shape, self.shape.c(), self.layer.eps);
        let beside = x;
        let x = B::values::<T>(x, start, shape.len())?;
        let z = z.map(|(z, start)| B::values::<T>(z, start, shape.len())).transpose()?;
        let gamma = B::values::<T::Param>(gamma.0, gamma.1, c)?;
        let beta = B::values::<T::Param>(beta.0, beta.1, c)?;
        let mut y = B::alloc::<T>(beside, shape.len())?;
        let mut mask = match self.fused {
            Epilogue::ADD_RELU if self.tracked => Some(B::alloc::<u32>(beside, relu_mask_len(shape))?),
            Epilogue::IDENTITY | Epilogue::RELU | Epilogue::ADD | Epilogue::ADD_RELU => None,
        };
        {
            let [mut y, _] = B::split(&mut y, shape.len());
            let mut mask = mask.as_mut().map(|mask| B::split(mask, relu_mask_len(shape)));
            match &self.statistics {
                Statistics::Batch => {
                    let mut saved = B::alloc::<T::Param>(beside, 2 * c)?;
                    let tracking = self.layer.tracking;
                    let problem = self.problem::<T>(Op::Train, self.fused)?;
                    let [mut saved_mean, mut saved_inv_std] = B::split(&mut saved, c);
                    self.layer.running.write::<B, T::Param>(|mut mean, mut var, mut counter| {
                        backend.with_scratch(problem, |workspace| {
                            backend.train(TrainArgs {
                                shape,
                                eps,
                                x: B::reads(&x),
                                epilogue: self.fused.with("z", z.as_ref().map(|z| B::reads(z)))?,
                                gamma: Some(B::reads(&gamma)),
                                beta: Some(B::reads(&beta)),
                                y: B::writes(&mut y),
                                saved_mean: B::writes(&mut saved_mean),
                                saved_inv_std: B::writes(&mut saved_inv_std),
                                relu_mask: mask.as_mut().map(|[mask, _]| B::writes(mask)),
                                running: Some(RunningArgs {
                                    tracking,
                                    mean: B::writes(&mut mean),
                                    var: B::writes(&mut var),
                                    num_batches_tracked: B::writes(&mut counter),
                                }),
                                workspace,
                            })
                        })
                    })?;
                    drop((saved_mean, saved_inv_std));
                    let _ = self.saved.set(tensor::<B>(B::wrap(beside, saved), &[2, c]));
                }
                Statistics::Frozen([mean, var]) => {
                    let ((mean, mean_layout), (var, var_layout)) =
                        (mean.storage_and_layout(), var.storage_and_layout());
                    let mean = B::values::<T::Param>(B::of(&mean)?, mean_layout.start_offset(), c)?;
                    let var = B::values::<T::Param>(B::of(&var)?, var_layout.start_offset(), c)?;
                    let args = InferArgs {
                        shape,
                        eps,
                        x: B::reads(&x),
                        epilogue: self.fused.with("z", z.as_ref().map(|z| B::reads(z))).map_err(Error::wrap)?,
                        gamma: Some(B::reads(&gamma)),
                        beta: Some(B::reads(&beta)),
                        running_mean: B::reads(&mean),
                        running_var: B::reads(&var),
                        y: B::writes(&mut y),
                        relu_mask: mask.as_mut().map(|[mask, _]| B::writes(mask)),
                    };
                    backend.infer(args).map_err(Error::wrap)?;
                }
            }
        }
        if let Some(mask) = mask {
            let _ = self.relu_mask.set(tensor::<B>(B::wrap(beside, mask), &[relu_mask_len(shape)]));
        }
        Ok((B::wrap(beside, y), self.dims.as_slice().into()))
    }
}

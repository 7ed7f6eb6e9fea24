//! The training forward.

use core::ffi::CStr;

use batchnorm::Op;
use pyo3::prelude::*;

use super::data::Data;
use super::operations::{Named, Results, address, memory, workspace};
use super::stack::{Arguments, Operation};
use super::statistics::{Saved, with_one_more};
use super::tensor::Tensor;
use crate::call::{Forward, TrainCall};
use crate::dispatch::dispatch;
use crate::error::Refusal;

/// Normalizes by the batch's statistics.
pub(super) struct Train {
    pub(super) x: Tensor,
    pub(super) z: Option<Tensor>,
    pub(super) weight: Option<Tensor>,
    pub(super) bias: Option<Tensor>,
    pub(super) running_mean: Option<Tensor>,
    pub(super) running_var: Option<Tensor>,
    pub(super) num_batches_tracked: Option<Tensor>,
    pub(super) momentum: Option<f64>,
    pub(super) eps: f64,
    pub(super) epilogue: Named,
    pub(super) keep_mask: bool,
    pub(super) skip_non_finite: bool,
    pub(super) skip_recomputed: bool,
    /// The order that a mask's bits are to be in, and y with them: that of x, where nothing is said.
    pub(super) mask_is_channels_last: Option<bool>,
}

impl Operation for Train {
    const NAME: &'static CStr = c"train";

    fn take(arguments: &mut Arguments<'_>) -> Self {
        Self {
            x: arguments.tensor(),
            z: arguments.optional_tensor(),
            weight: arguments.optional_tensor(),
            bias: arguments.optional_tensor(),
            running_mean: arguments.optional_tensor(),
            running_var: arguments.optional_tensor(),
            num_batches_tracked: arguments.optional_tensor(),
            momentum: arguments.optional_float(),
            eps: arguments.float(),
            epilogue: arguments.epilogue(),
            keep_mask: arguments.flag(),
            skip_non_finite: arguments.flag(),
            skip_recomputed: arguments.flag(),
            mask_is_channels_last: arguments.optional_flag(),
        }
    }

    fn run(self) -> Results {
        let (y, [mean, inv_std], mask) = self.train(
            |data| Ok([data.per_channel()?, data.per_channel()?]),
            |tensors| tensors.each_ref().map(Tensor::address),
        )?;
        Ok([Some(y), Some(mean), Some(inv_std), mask])
    }
}

impl Train {
    /// With mean and `inv_std` in one memory.
    pub(super) fn saving(self) -> Result<(Tensor, Saved, Option<Tensor>), Refusal> {
        self.train(Data::saved, Saved::addresses)
    }

    /// y, the statistics in what is made for them, and the mask.
    fn train<S>(
        self,
        new: impl FnOnce(&Data) -> Result<S, Refusal>,
        addresses: impl FnOnce(&S) -> [usize; 2],
    ) -> Result<(Tensor, S, Option<Tensor>), Refusal> {
        let Self { x, z, weight, bias, momentum, eps, .. } = self;
        let (running_mean, running_var, counter) = if self.skip_recomputed && is_in_a_backward_pass() {
            (None, None, None)
        } else {
            (self.running_mean, self.running_var, self.num_batches_tracked)
        };
        let keeps_mask = self.keep_mask && self.epilogue.as_ref().is_ok_and(|epilogue| epilogue.0.keeps_mask());
        let data = Data::in_order(&x, self.mask_is_channels_last.filter(|_| keeps_mask))?;
        if data.len() > 0 && data.at.shape.m() == 1 {
            return Err(Refusal::runtime("Expected more than 1 value per channel when training".into()));
        }
        if eps <= 0.0 {
            return Err(Refusal::value(format!("batch_norm eps must be positive during training, but got {eps}")));
        }
        if running_mean.is_some() != running_var.is_some() {
            let text = "Expected running_mean and running_var to both be None or neither be None";
            return Err(Refusal::runtime(text.into()));
        }
        let epilogue = self.epilogue?;
        let x = data.dense("input", x)?;
        let z = z.map(|z| data.dense("residual", z)).transpose()?;
        let weight = data.affine("weight", weight)?;
        let bias = data.affine("bias", bias)?;
        if let Some(counter) = &counter {
            data.expect_counter(counter)?;
        }
        // The kernels count what they track, and no empty batch; torch.nn counts all.
        let (counted, uncounted) =
            if data.len() > 0 && running_mean.is_some() { (counter, None) } else { (None, counter) };
        let running = match (running_mean, running_var) {
            (Some(mean), Some(var)) => {
                Some([data.updated("running_mean", mean)?, data.updated("running_var", var)?, data.counter(counted)?])
            }
            _ => None,
        };
        let uncounted = uncounted.map(with_one_more).transpose()?;
        let mask = keeps_mask.then(|| data.mask()).transpose()?;
        let (y, saved) = (data.empty()?, new(&data)?);
        let workspace = workspace(&data, Op::Train, epilogue)?;
        let call = TrainCall {
            forward: Forward {
                eps,
                epilogue,
                x: x.address(),
                y: y.address(),
                z: z.as_ref().map(Tensor::address),
                gamma: address(weight.as_ref()),
                beta: address(bias.as_ref()),
                relu_mask: address(mask.as_ref()),
            },
            saved: addresses(&saved),
            running: running.as_ref().map(|tensors| tensors.each_ref().map(|tensor| tensor.address())),
            momentum,
            skips_non_finite: self.skip_non_finite,
            workspace: memory(workspace.as_ref()),
        };
        dispatch(data.at, &call)?;
        for tensor in running.into_iter().flatten().chain(uncounted) {
            tensor.finish()?;
        }
        Ok((y, saved, mask))
    }
}

/// Whether this thread runs a backward pass, which runs forward passes again for checkpoints: of a process without Python it does not.
fn is_in_a_backward_pass() -> bool {
    let graph_task = Python::try_attach(|py| {
        let task = py.import("torch._C")?.call_method0("_current_graph_task_id")?;
        task.extract::<i64>()
    });
    graph_task.is_some_and(|task| task.is_ok_and(|task| task != -1))
}

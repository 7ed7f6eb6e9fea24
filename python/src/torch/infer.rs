//! The inference forward.

use core::ffi::CStr;

use super::data::Data;
use super::operations::{Named, Results, address};
use super::stack::{Arguments, Operation};
use super::tensor::Tensor;
use crate::call::{Forward, InferCall};
use crate::dispatch::dispatch;

/// Normalizes by running statistics.
pub(super) struct Infer {
    pub(super) x: Tensor,
    pub(super) z: Option<Tensor>,
    pub(super) weight: Option<Tensor>,
    pub(super) bias: Option<Tensor>,
    pub(super) running_mean: Tensor,
    pub(super) running_var: Tensor,
    pub(super) eps: f64,
    pub(super) epilogue: Named,
    pub(super) keep_mask: bool,
    /// As of a training forward.
    pub(super) mask_is_channels_last: Option<bool>,
}

impl Operation for Infer {
    const NAME: &'static CStr = c"infer";

    fn take(arguments: &mut Arguments<'_>) -> Self {
        Self {
            x: arguments.tensor(),
            z: arguments.optional_tensor(),
            weight: arguments.optional_tensor(),
            bias: arguments.optional_tensor(),
            running_mean: arguments.tensor(),
            running_var: arguments.tensor(),
            eps: arguments.float(),
            epilogue: arguments.epilogue(),
            keep_mask: arguments.flag(),
            mask_is_channels_last: arguments.optional_flag(),
        }
    }

    fn run(self) -> Results {
        let Self { x, z, weight, bias, running_mean, running_var, eps, .. } = self;
        let epilogue = self.epilogue?;
        let keeps_mask = self.keep_mask && epilogue.0.keeps_mask();
        let data = Data::in_order(&x, self.mask_is_channels_last.filter(|_| keeps_mask))?;
        let x = data.dense("input", x)?;
        let z = z.map(|z| data.dense("residual", z)).transpose()?;
        let weight = data.affine("weight", weight)?;
        let bias = data.affine("bias", bias)?;
        let mean = data.param("running_mean", running_mean)?;
        let var = data.param("running_var", running_var)?;
        let mask = keeps_mask.then(|| data.mask()).transpose()?;
        let y = data.empty()?;
        let forward = Forward {
            eps,
            epilogue,
            x: x.address(),
            y: y.address(),
            z: z.as_ref().map(Tensor::address),
            gamma: address(weight.as_ref()),
            beta: address(bias.as_ref()),
            relu_mask: address(mask.as_ref()),
        };
        dispatch(data.at, &InferCall { forward, running: [mean.address(), var.address()] })?;
        Ok([Some(y), mask, None, None])
    }
}

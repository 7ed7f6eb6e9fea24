//! The backward pass of either forward.

use core::ffi::CStr;

use batchnorm::op::StatisticsKind;
use batchnorm::{Epilogue, Op};

use super::data::Data;
use super::operations::{Named, Results, address, memory, workspace};
use super::stack::{Arguments, Operation};
use super::statistics::Statistics;
use super::tensor::Tensor;
use crate::call::BackwardCall;
use crate::dispatch::dispatch;
use crate::epilogue::Kind;

/// The gradients of either, those that are needed; no dz where it is dy.
pub(super) struct Backward {
    pub(super) dy: Tensor,
    pub(super) x: Tensor,
    pub(super) weight: Option<Tensor>,
    pub(super) bias: Option<Tensor>,
    pub(super) statistics: Statistics,
    pub(super) relu_mask: Option<Tensor>,
    /// The order of the mask's bits: of the memory of x in the forward pass, which may have come back in another.
    pub(super) mask_is_channels_last: bool,
    pub(super) running_eps: Option<f64>,
    pub(super) epilogue: Named,
    pub(super) needs: [bool; 4],
}

impl Operation for Backward {
    const NAME: &'static CStr = c"backward";

    fn take(arguments: &mut Arguments<'_>) -> Self {
        Self {
            dy: arguments.tensor(),
            x: arguments.tensor(),
            weight: arguments.optional_tensor(),
            bias: arguments.optional_tensor(),
            statistics: Statistics::Tensors([arguments.tensor(), arguments.tensor()]),
            relu_mask: arguments.optional_tensor(),
            mask_is_channels_last: arguments.flag(),
            running_eps: arguments.optional_float(),
            epilogue: arguments.epilogue(),
            needs: core::array::from_fn(|_| arguments.flag()),
        }
    }

    fn run(self) -> Results {
        let Self { dy, x, weight, bias, relu_mask, running_eps, .. } = self;
        let [needs_dx, needs_dz, needs_dweight, needs_dbias] = self.needs;
        let data = Data::in_order(&x, relu_mask.is_some().then_some(self.mask_is_channels_last))?;
        let epilogue = self.epilogue?;
        let (x, dy) = (data.dense("input", x)?, data.dense("the gradient", dy)?);
        let weight = data.affine("weight", weight)?;
        let bias = data.affine("bias", bias)?;
        let statistics = match self.statistics {
            Statistics::Tensors([mean, second]) => {
                Statistics::Tensors([data.param("mean", mean)?, data.param("inv_std or var", second)?])
            }
            saved => saved,
        };
        let relu_mask = relu_mask.map(|mask| data.expect_mask(mask)).transpose()?;
        // A residual behind which nothing is masked has dy itself as its gradient, which the caller has.
        let has_mask = relu_mask.is_some();
        let epilogue = match (epilogue.0.residual(), epilogue.0.keeps_mask()) {
            (Some(()), false) => Kind(Epilogue::IDENTITY),
            (Some(()), true) if !needs_dz && has_mask => Kind(Epilogue::RELU),
            _ => epilogue,
        };
        let has_dz = epilogue.0.residual().is_some();
        let kind = if running_eps.is_some() { StatisticsKind::Running } else { StatisticsKind::Batch };
        let dx = needs_dx.then(|| data.empty()).transpose()?;
        let dz = has_dz.then(|| data.empty()).transpose()?;
        let dweight = needs_dweight.then(|| data.per_channel()).transpose()?;
        let dbias = needs_dbias.then(|| data.per_channel()).transpose()?;
        let workspace = workspace(&data, Op::Backward(kind), epilogue)?;
        let call = BackwardCall {
            epilogue,
            running_eps,
            x: x.address(),
            dy: dy.address(),
            dx: dx.as_ref().map(Tensor::address),
            dz: dz.as_ref().map(Tensor::address),
            gamma: address(weight.as_ref()),
            beta: address(bias.as_ref()),
            relu_mask: address(relu_mask.as_ref()),
            statistics: match &statistics {
                Statistics::Tensors(tensors) => tensors.each_ref().map(Tensor::address),
                Statistics::Saved(saved) => data.saved_addresses(saved)?,
            },
            dgamma: dweight.as_ref().map(Tensor::address),
            dbeta: dbias.as_ref().map(Tensor::address),
            workspace: memory(workspace.as_ref()),
        };
        dispatch(data.at, &call)?;
        Ok([dx, dz, dweight, dbias])
    }
}

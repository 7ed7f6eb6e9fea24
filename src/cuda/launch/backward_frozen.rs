//! The backward pass through given statistics.

use super::argument::{channel, channel_mut, data, data_mut, mask, scratch};
use super::{Native, checked, run};
use crate::args::{BackwardFrozenArgs, Gradients};
use crate::cuda::{Cuda, ffi};
use crate::{Epilogue, Op, Problem, Result};

/// [`Compute::backward_frozen`](crate::Compute::backward_frozen).
pub(in crate::cuda) fn backward_frozen<T: Native>(cuda: &Cuda, args: BackwardFrozenArgs<'_, Cuda, T>) -> Result<()> {
    let BackwardFrozenArgs { shape, eps, x, dy, epilogue, gamma, beta, running_mean, running_var, .. } = args;
    let BackwardFrozenArgs { relu_mask, gradients: Gradients { dx, dgamma, dbeta }, workspace, .. } = args;
    let problem = Problem::new(Op::BackwardFrozen, shape, T::DTYPE, epilogue.kind(), eps, None)?;
    let dz = match epilogue {
        Epilogue::Add(dz) | Epilogue::AddRelu(dz) => data_mut("dz", dz),
        Epilogue::Identity | Epilogue::Relu => None,
    };
    let arguments = [
        data("x", x),
        data("dy", dy),
        gamma.and_then(|gamma| channel("gamma", gamma)),
        beta.and_then(|beta| channel("beta", beta)),
        channel("running_mean", running_mean),
        channel("running_var", running_var),
        relu_mask.and_then(mask),
        data_mut("dx", dx),
        dz,
        dgamma.and_then(|dgamma| channel_mut("dgamma", dgamma)),
        dbeta.and_then(|dbeta| channel_mut("dbeta", dbeta)),
        scratch(workspace),
    ];
    run(cuda, problem, arguments, |launch, addresses| {
        let [x, dy, gamma, beta, running_mean, running_var, relu_mask, dx, dz, dgamma, dbeta, _] = addresses;
        let Some(planned) = &launch.planned else {
            return launch.fill(&[dgamma, dbeta], 0.0);
        };
        let args = ffi::BnBackward {
            tiling: planned.tiling,
            epilogue: planned.epilogue,
            statistics: ffi::BnStatistics {
                kind: ffi::BnStatisticsKind::BN_RUNNING,
                eps: eps as f32,
                mean: running_mean as *const f32,
                inv_std: core::ptr::null(),
                var: running_var as *const f32,
            },
            x: x as *const _,
            dy: dy as *const _,
            gamma: gamma as *const f32,
            beta: beta as *const f32,
            relu_mask: relu_mask as *const u32,
            dx: dx as *mut _,
            dz: dz as *mut _,
            dgamma: dgamma as *mut f32,
            dbeta: dbeta as *mut f32,
            workspace: planned.workspace,
        };
        // SAFETY: Problem checked the lengths of all tensors, that the gradients are apart from everything, and that the
        // mask is there for add-relu alone; Plan made the tiling for this shape and device, and the workspace is of its
        // size; `run` holds the guards until the launches are on the stream.
        checked("bn_backward", unsafe { ffi::bn_backward(&args, launch.stream) })
    })
}

//! The backward pass through the batch's statistics.

use super::argument::{channel, channel_mut, data, data_mut, mask, scratch};
use super::{Native, checked, run};
use crate::args::{BackwardArgs, Gradients};
use crate::cuda::{Cuda, ffi};
use crate::{Epilogue, Op, Problem, Result};

/// [`Compute::backward`](crate::Compute::backward).
pub(in crate::cuda) fn backward<T: Native>(cuda: &Cuda, args: BackwardArgs<'_, Cuda, T>) -> Result<()> {
    let BackwardArgs { shape, x, dy, epilogue, gamma, beta, saved_mean, saved_inv_std, .. } = args;
    let BackwardArgs { relu_mask, gradients: Gradients { dx, dgamma, dbeta }, workspace, .. } = args;
    let problem = Problem::new(Op::Backward, shape, T::DTYPE, epilogue.kind(), 0.0, None)?;
    let dz = match epilogue {
        Epilogue::Add(dz) | Epilogue::AddRelu(dz) => data_mut("dz", dz),
        Epilogue::Identity | Epilogue::Relu => None,
    };
    let arguments = [
        data("x", x),
        data("dy", dy),
        gamma.and_then(|gamma| channel("gamma", gamma)),
        beta.and_then(|beta| channel("beta", beta)),
        channel("saved_mean", saved_mean),
        channel("saved_inv_std", saved_inv_std),
        relu_mask.and_then(mask),
        data_mut("dx", dx),
        dz,
        dgamma.and_then(|dgamma| channel_mut("dgamma", dgamma)),
        dbeta.and_then(|dbeta| channel_mut("dbeta", dbeta)),
        scratch(workspace),
    ];
    run(cuda, problem, arguments, |launch, addresses| {
        let [x, dy, gamma, beta, saved_mean, saved_inv_std, relu_mask, dx, dz, dgamma, dbeta, _] = addresses;
        let Some(planned) = &launch.planned else {
            return launch.fill(&[dgamma, dbeta], 0.0);
        };
        let args = ffi::BnBackward {
            tiling: planned.tiling,
            epilogue: planned.epilogue,
            statistics: ffi::BnStatistics {
                kind: ffi::BnStatisticsKind::BN_BATCH,
                eps: 0.0,
                mean: saved_mean as *const f32,
                inv_std: saved_inv_std as *const f32,
                var: core::ptr::null(),
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

//! The forward pass with given statistics.

use super::argument::{channel, data, data_mut, mask_mut};
use super::{Native, checked, run};
use crate::args::InferArgs;
use crate::cuda::{Cuda, ffi};
use crate::{Op, Problem, Result};

/// [`Compute::infer`](crate::Compute::infer).
pub(in crate::cuda) fn infer<T: Native>(cuda: &Cuda, args: InferArgs<'_, Cuda, T>) -> Result<()> {
    let InferArgs { shape, eps, x, epilogue, gamma, beta, running_mean, running_var, y, relu_mask } = args;
    let problem = Problem::new(Op::Infer, shape, T::DTYPE, epilogue.kind(), eps, None)?;
    let arguments = [
        data("x", x),
        epilogue.residual().and_then(|z| data("z", *z)),
        gamma.and_then(|gamma| channel("gamma", gamma)),
        beta.and_then(|beta| channel("beta", beta)),
        channel("running_mean", running_mean),
        channel("running_var", running_var),
        data_mut("y", y),
        relu_mask.and_then(mask_mut),
    ];
    run(cuda, problem, arguments, |launch, [x, z, gamma, beta, running_mean, running_var, y, relu_mask]| {
        let Some(planned) = &launch.planned else {
            return Ok(());
        };
        let args = ffi::BnInfer {
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
            z: z as *const _,
            gamma: gamma as *const f32,
            beta: beta as *const f32,
            y: y as *mut _,
            relu_mask: relu_mask as *mut u32,
        };
        // SAFETY: Problem checked the lengths of all tensors, that y and the mask are apart from everything, and that
        // the mask belongs to the epilogue; Plan made the tiling for this shape and device; `run` holds the guards until
        // the launch is on the stream.
        checked("bn_infer", unsafe { ffi::bn_infer(&args, launch.stream) })
    })
}

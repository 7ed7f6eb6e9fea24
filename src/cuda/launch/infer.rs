//! The C struct of [`Infer`].

use core::ptr;

use super::{KernelElement, Launch, at, at_or_null, checked};
use crate::cuda::ffi;
use crate::error::Result;
use crate::op::{Infer, Raw};

pub(super) fn launch<T: KernelElement>(launch: Launch, op: Infer<'_, Raw, T>) -> Result<()> {
    let args = ffi::BnInfer {
        tiling: launch.tiling,
        epilogue: launch.epilogue,
        statistics: ffi::BnStatistics {
            kind: ffi::BnStatisticsKind::BN_RUNNING,
            eps: op.eps as f32,
            mean: at(op.running_mean),
            inv_std: ptr::null(),
            var: at(op.running_var),
        },
        x: at(op.x).cast(),
        z: at_or_null(op.epilogue.into_residual()).cast(),
        gamma: at_or_null(op.gamma),
        beta: at_or_null(op.beta),
        y: at(op.y).cast(),
        relu_mask: at_or_null(op.relu_mask),
    };
    // SAFETY: Problem checked the lengths of all tensors, that y and the mask overlap nothing, and that
    // the mask belongs to the epilogue; Plan made the tiling for this shape and device; `run_held` holds the guards until
    // the launch is on the stream.
    checked("bn_infer", unsafe { ffi::bn_infer(&args, launch.stream) })
}

//! The C struct of [`Backward`].

use core::ptr;

use super::{KernelElement, Launch, at, at_or_null, checked};
use crate::cuda::ffi;
use crate::error::Result;
use crate::op::{Backward, Raw, RawSlice, Statistics};

pub(super) fn launch<T: KernelElement>(launch: Launch, op: Backward<'_, Raw, T>) -> Result<()> {
    let mut epilogue = launch.epilogue;
    // A mask is that of add-relu, also where nobody needs dz.
    epilogue.has_residual |= u32::from(op.relu_mask.is_some());
    let args = ffi::BnBackward {
        tiling: launch.tiling,
        epilogue,
        statistics: statistics(op.statistics),
        x: at(op.x).cast(),
        dy: at(op.dy).cast(),
        gamma: at_or_null(op.gamma),
        beta: at_or_null(op.beta),
        relu_mask: at_or_null(op.relu_mask),
        dx: at_or_null(op.gradients.dx).cast(),
        dz: at_or_null(op.epilogue.into_residual()).cast(),
        dgamma: at_or_null(op.gradients.dgamma),
        dbeta: at_or_null(op.gradients.dbeta),
        workspace: launch.workspace,
    };
    // SAFETY: Problem checked the lengths of all tensors, that the gradients overlap nothing, and that the
    // mask is there for add-relu, and for relu as that of an add-relu; Plan made the tiling for this shape and device, and the workspace is of its
    // size; `run_held` holds the guards until the launches are on the stream.
    checked("bn_backward", unsafe { ffi::bn_backward(&args, launch.stream) })
}

fn statistics(statistics: Statistics<RawSlice<f32>>) -> ffi::BnStatistics {
    match statistics {
        Statistics::Batch { mean, inv_std } => ffi::BnStatistics {
            kind: ffi::BnStatisticsKind::BN_BATCH,
            eps: 0.0,
            mean: at(mean),
            inv_std: at(inv_std),
            var: ptr::null(),
        },
        Statistics::Running { mean, var, eps } => ffi::BnStatistics {
            kind: ffi::BnStatisticsKind::BN_RUNNING,
            eps: eps as f32,
            mean: at(mean),
            inv_std: ptr::null(),
            var: at(var),
        },
    }
}

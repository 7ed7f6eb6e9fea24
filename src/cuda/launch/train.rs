//! The C struct of [`Train`].

use super::{KernelElement, Launch, at, at_or_null, checked};
use crate::cuda::ffi;
use crate::error::Result;
use crate::op::{Coefficients, Raw, Train, Update};

pub(super) fn launch<T: KernelElement>(launch: Launch, op: Train<'_, Raw, T>) -> Result<()> {
    let m = op.shape.m();
    let args = ffi::BnTrain {
        tiling: launch.tiling,
        epilogue: launch.epilogue,
        eps: op.eps as f32,
        x: at(op.x).cast(),
        z: at_or_null(op.epilogue.into_residual()).cast(),
        gamma: at_or_null(op.gamma),
        beta: at_or_null(op.beta),
        y: at(op.y).cast(),
        saved_mean: at(op.saved_mean),
        saved_inv_std: at(op.saved_inv_std),
        relu_mask: at_or_null(op.relu_mask),
        running: running(op.running, m),
        workspace: launch.workspace,
    };
    // SAFETY: Problem checked the lengths of all tensors, that the outputs overlap nothing, and that the
    // mask belongs to the epilogue; Plan made the tiling for this shape and device, and the workspace is of its
    // size; `run_held` holds the guards until the launches are on the stream.
    checked("bn_train", unsafe { ffi::bn_train(&args, launch.stream) })
}

/// Running statistics that follow a batch of `m` values a channel; null where none do.
fn running(running: Option<Update<'_, Raw, f32>>, m: usize) -> ffi::BnRunning {
    let coefficients = running.as_ref().map(|running| running.tracking).unwrap_or_default().coefficients(m);
    let Coefficients { weights, correction, skips_non_finite } = coefficients;
    let [mean, var] = [running.as_ref().map(|running| running.mean), running.as_ref().map(|running| running.var)];
    ffi::BnRunning {
        mean: at_or_null(mean),
        var: at_or_null(var),
        num_batches_tracked: at_or_null(running.map(|running| running.num_batches_tracked)),
        keep: weights.map_or(0.0, |weights| weights.keep as f32),
        momentum: weights.map_or(0.0, |weights| weights.momentum as f32),
        correction: correction as f32,
        cumulative: u32::from(weights.is_none()),
        skip_non_finite: u32::from(skips_non_finite),
    }
}

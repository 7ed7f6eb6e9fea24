//! The C struct of [`Moments`].

use super::{KernelElement, Launch, at, checked};
use crate::cuda::ffi;
use crate::error::Result;
use crate::op::{Moments, Raw};

pub(super) fn launch<T: KernelElement>(launch: Launch, op: Moments<'_, Raw, T>) -> Result<()> {
    let args = ffi::BnMoments {
        tiling: launch.tiling,
        x: at(op.x).cast(),
        mean: at(op.mean),
        var: at(op.var),
        workspace: launch.workspace,
    };
    // SAFETY: Problem checked the lengths of x, mean and var and that they do not overlap; Plan made the tiling for this
    // shape and device, and the workspace is of its size; `run_held` holds the guards until the launch is on the stream.
    checked("bn_moments", unsafe { ffi::bn_moments(&args, launch.stream) })
}

//! Mean and variance.

use super::argument::{channel_mut, data, scratch};
use super::{Native, checked, run};
use crate::args::MomentsArgs;
use crate::cuda::{Cuda, ffi};
use crate::{Epilogue, Op, Problem, Result};

/// [`Compute::moments`](crate::Compute::moments).
pub(in crate::cuda) fn moments<T: Native>(cuda: &Cuda, args: MomentsArgs<'_, Cuda, T>) -> Result<()> {
    let MomentsArgs { shape, x, mean, var, workspace } = args;
    let problem = Problem::new(Op::Moments, shape, T::DTYPE, Epilogue::Identity, 0.0, None)?;
    let arguments = [data("x", x), channel_mut("mean", mean), channel_mut("var", var), scratch(workspace)];
    run(cuda, problem, arguments, |launch, [x, mean, var, _]| {
        let Some(planned) = &launch.planned else {
            return launch.fill(&[mean, var], f32::NAN);
        };
        let args = ffi::BnMoments {
            tiling: planned.tiling,
            x: x as *const _,
            mean: mean as *mut f32,
            var: var as *mut f32,
            workspace: planned.workspace,
        };
        // SAFETY: Problem checked the lengths of x, mean and var and that they are apart; Plan made the tiling for this
        // shape and device, and the workspace is of its size; `run` holds the guards until the launch is on the stream.
        checked("bn_moments", unsafe { ffi::bn_moments(&args, launch.stream) })
    })
}

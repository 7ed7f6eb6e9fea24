//! The forward pass with the batch's statistics.

use core::ptr;

use super::argument::{channel, channel_mut, counter_mut, data, data_mut, mask_mut, scratch};
use super::{Native, checked, run};
use crate::args::{RunningArgs, TrainArgs};
use crate::cuda::{Cuda, ffi};
use crate::{Momentum, NonFinite, Op, Problem, Result, RunningVar, Tracking};

/// [`Compute::train`](crate::Compute::train).
pub(in crate::cuda) fn train<T: Native>(cuda: &Cuda, args: TrainArgs<'_, Cuda, T>) -> Result<()> {
    let TrainArgs { shape, eps, x, epilogue, gamma, beta, y, saved_mean, saved_inv_std, .. } = args;
    let TrainArgs { relu_mask, running, workspace, .. } = args;
    let tracking = running.as_ref().map(|running| running.tracking);
    let problem = Problem::new(Op::Train, shape, T::DTYPE, epilogue.kind(), eps, tracking)?;
    let [running_mean, running_var, num_batches_tracked] = match running {
        Some(RunningArgs { mean, var, num_batches_tracked, .. }) => {
            [channel_mut("running_mean", mean), channel_mut("running_var", var), counter_mut(num_batches_tracked)]
        }
        None => [None, None, None],
    };
    let arguments = [
        data("x", x),
        epilogue.residual().and_then(|z| data("z", *z)),
        gamma.and_then(|gamma| channel("gamma", gamma)),
        beta.and_then(|beta| channel("beta", beta)),
        data_mut("y", y),
        channel_mut("saved_mean", saved_mean),
        channel_mut("saved_inv_std", saved_inv_std),
        relu_mask.and_then(mask_mut),
        running_mean,
        running_var,
        num_batches_tracked,
        scratch(workspace),
    ];
    run(cuda, problem, arguments, |launch, addresses| {
        let [x, z, gamma, beta, y, saved_mean, saved_inv_std, relu_mask, mean, var, count, _] = addresses;
        let Some(planned) = &launch.planned else {
            return launch.fill(&[saved_mean, saved_inv_std], 0.0);
        };
        let args = ffi::BnTrain {
            tiling: planned.tiling,
            epilogue: planned.epilogue,
            eps: eps as f32,
            x: x as *const _,
            z: z as *const _,
            gamma: gamma as *const f32,
            beta: beta as *const f32,
            y: y as *mut _,
            saved_mean: saved_mean as *mut f32,
            saved_inv_std: saved_inv_std as *mut f32,
            relu_mask: relu_mask as *mut u32,
            running: ffi::BnRunning {
                mean: mean as *mut f32,
                var: var as *mut f32,
                num_batches_tracked: count as *mut i64,
                ..following(tracking, shape.m())
            },
            workspace: planned.workspace,
        };
        // SAFETY: Problem checked the lengths of all tensors, that the outputs are apart from everything, and that the
        // mask belongs to the epilogue; Plan made the tiling for this shape and device, and the workspace is of its
        // size; `run` holds the guards until the launches are on the stream.
        checked("bn_train", unsafe { ffi::bn_train(&args, launch.stream) })
    })
}

/// How running statistics follow a batch of `m` values a channel, rounded once; without the pointers.
fn following(tracking: Option<Tracking>, m: usize) -> ffi::BnRunning {
    let Tracking { momentum, variance, non_finite } = tracking.unwrap_or_default();
    let (keep, weight, cumulative) = match momentum {
        Momentum::Ema(a) => ((1.0 - a) as f32, a as f32, 0),
        Momentum::Cumulative => (0.0, 0.0, 1),
    };
    let correction = match variance {
        RunningVar::Unbiased if m > 1 => m as f64 / (m - 1) as f64,
        _ => 1.0,
    };
    ffi::BnRunning {
        mean: ptr::null_mut(),
        var: ptr::null_mut(),
        num_batches_tracked: ptr::null_mut(),
        keep,
        momentum: weight,
        correction: correction as f32,
        cumulative,
        skip_non_finite: u32::from(non_finite == NonFinite::Skip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_rounded_once() {
        let with = |momentum| following(Some(Tracking { momentum, ..Tracking::default() }), 3);
        let usual = with(Momentum::Ema(0.1));
        assert_eq!((usual.keep, usual.momentum), (0.9, 0.1), "1 - 0.1f32 would be 0.90000004");
        assert_eq!((usual.correction, usual.cumulative, usual.skip_non_finite), (1.5, 0, 0));
        // With 1 the old value is not read, which the kernel knows by an exact 0.
        assert_eq!((with(Momentum::Ema(1.0)).keep, with(Momentum::Ema(0.0)).keep), (0.0, 1.0));
        assert_eq!(with(Momentum::Cumulative).cumulative, 1);
    }

    #[test]
    fn the_correction_is_that_of_the_variance() {
        let with = |variance, m| {
            let tracking = Tracking { variance, non_finite: NonFinite::Skip, ..Tracking::default() };
            let running = following(Some(tracking), m);
            assert_eq!(running.skip_non_finite, 1);
            running.correction
        };
        assert_eq!(with(RunningVar::Unbiased, 2), 2.0);
        assert_eq!(with(RunningVar::Unbiased, 1 << 40), 1.0);
        assert_eq!(with(RunningVar::Biased, 2), 1.0);
        assert_eq!(with(RunningVar::Biased, 1), 1.0);
    }
}

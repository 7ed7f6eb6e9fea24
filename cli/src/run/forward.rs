//! The operations that normalize, and the moments.

use std::time::Instant;

use batchnorm::op::{Infer, Moments, Train, Update};
use batchnorm::tensors::TensorFile;
use batchnorm::{Compute, Element, Epilogue, Op, Running, Tracking};

use super::job::Job;
use super::report::{self, Done, Spread};
use crate::failure::Failure;

/// Writes `y`, `mean`, `inv_std`, and the running tensors where the input has them.
pub(crate) fn train<B: Compute<T>, T: Element>(job: &Job<'_, B, T>, tracking: Tracking) -> Result<Done, Failure> {
    let Job { backend, shape, .. } = job;
    let z = job.residual()?;
    let (gamma, beta) = (job.optional("weight")?, job.optional("bias")?);
    let mut running = job.running()?;
    let (mut y, mut mean, mut inv_std) = (job.data_room()?, job.channel_room()?, job.channel_room()?);
    let mut workspace = job.workspace(&[Op::Train])?;

    let start = Instant::now();
    let operation = Train {
        shape: *shape,
        eps: job.eps,
        x: B::input(&job.x),
        epilogue: job.epilogue.map(|()| B::input(&z)),
        gamma: gamma.as_ref().map(B::input),
        beta: beta.as_ref().map(B::input),
        y: B::output(&mut y),
        saved_mean: B::output(&mut mean),
        saved_inv_std: B::output(&mut inv_std),
        relu_mask: None,
        running: running.as_mut().map(|running| Update {
            tracking,
            mean: B::output(&mut running.mean),
            var: B::output(&mut running.var),
            num_batches_tracked: B::output(&mut running.num_batches_tracked),
        }),
    };
    backend.run_in(&mut workspace, operation)?;
    backend.download(&mean)?; // Waits for the device.
    let took = start.elapsed();

    let spreads = before_and_after(job, &y)?;
    let mut file = TensorFile::default();
    job.push_data(&mut file, "y", y)?;
    job.push_channels(&mut file, "mean", mean)?;
    job.push_channels(&mut file, "inv_std", inv_std)?;
    let mut count = None;
    if let Some(Running { mean, var, num_batches_tracked }) = running {
        job.push_channels(&mut file, "running_mean", mean)?;
        job.push_channels(&mut file, "running_var", var)?;
        count = backend.download(&num_batches_tracked)?.first().copied();
    }
    if let Some(count) = count {
        file.push_count("num_batches_tracked", count)?;
    }
    let mut lines = vec![
        report::headline(job),
        format!("statistics: of this batch, eps {}", job.eps),
        report::tracked(tracking, count),
        report::behind(job, gamma.is_some(), beta.is_some()),
    ];
    lines.extend(spreads);
    Ok(Done { file, lines, took })
}

/// Writes `y`.
pub(crate) fn infer<B: Compute<T>, T: Element>(job: &Job<'_, B, T>) -> Result<Done, Failure> {
    let Job { backend, shape, .. } = job;
    let z = job.residual()?;
    let (gamma, beta) = (job.optional("weight")?, job.optional("bias")?);
    let (running_mean, running_var) = (job.channels("running_mean")?, job.channels("running_var")?);
    let mut y = job.data_room()?;

    let start = Instant::now();
    backend.run(Infer {
        shape: *shape,
        eps: job.eps,
        x: B::input(&job.x),
        epilogue: job.epilogue.map(|()| B::input(&z)),
        gamma: gamma.as_ref().map(B::input),
        beta: beta.as_ref().map(B::input),
        running_mean: B::input(&running_mean),
        running_var: B::input(&running_var),
        y: B::output(&mut y),
        relu_mask: None,
    })?;
    backend.download(&running_mean)?; // Waits for the device.
    let took = start.elapsed();

    let spreads = before_and_after(job, &y)?;
    let mut file = TensorFile::default();
    job.push_data(&mut file, "y", y)?;
    let mut lines = vec![
        report::headline(job),
        format!("statistics: running_mean and running_var of the input, eps {}", job.eps),
        report::behind(job, gamma.is_some(), beta.is_some()),
    ];
    lines.extend(spreads);
    Ok(Done { file, lines, took })
}

/// Writes `mean` and `var`.
pub(crate) fn moments<B: Compute<T>, T: Element>(job: &Job<'_, B, T>) -> Result<Done, Failure> {
    let start = Instant::now();
    let (mean, var) = moments_of(job, &job.x)?;
    let took = start.elapsed();

    let spread = Spread::new(&mean, &var);
    let mut file = TensorFile::default();
    let c = [job.shape.c()];
    file.push_vec("mean", &c, mean)?;
    file.push_vec("var", &c, var)?;
    let lines = vec![
        report::headline(job),
        "statistics: of this batch; var is biased, sum((x - mean)^2) / m".into(),
        format!("x: {spread}, constant channels: {}", job.constant_channels),
    ];
    Ok(Done { file, lines, took })
}

/// The spread of the channels before normalizing and, where no epilogue hides it, after.
fn before_and_after<B: Compute<T>, T: Element>(job: &Job<'_, B, T>, y: &B::Buf<T>) -> Result<Vec<String>, Failure> {
    let spread = |buf| moments_of(job, buf).map(|(mean, var)| Spread::new(&mean, &var));
    let mut lines = vec![format!("x: {}, constant channels: {}", spread(&job.x)?, job.constant_channels)];
    if job.epilogue == Epilogue::IDENTITY {
        lines.push(format!("y: {}", spread(y)?));
    }
    Ok(lines)
}

type MeanAndVar<P> = (Vec<P>, Vec<P>);

fn moments_of<B: Compute<T>, T: Element>(job: &Job<'_, B, T>, x: &B::Buf<T>) -> Result<MeanAndVar<T::Param>, Failure> {
    let (mut mean, mut var) = (job.channel_room()?, job.channel_room()?);
    let operation = Moments { shape: job.shape, x: B::input(x), mean: B::output(&mut mean), var: B::output(&mut var) };
    job.backend.run_in(&mut job.workspace(&[Op::Moments])?, operation)?;
    Ok((job.backend.download_buf(mean)?, job.backend.download_buf(var)?))
}

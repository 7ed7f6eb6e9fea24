//! The backward operations. Each makes what it needs of its forward pass again: batch statistics, relu mask.

use std::time::{Duration, Instant};

use batchnorm::args::{BackwardArgs, BackwardFrozenArgs, InferArgs, TrainArgs};
use batchnorm::tensors::TensorFile;
use batchnorm::{Backend, Compute, Element, Epilogue, Gradients, Op, relu_mask_len};

use super::job::Job;
use super::report::{self, Done};
use crate::failure::Failure;

/// What both backward operations read and write beside x and the statistics.
struct Buffers<B: Backend, T: Element> {
    dy: B::Buf<T>,
    z: B::Buf<T>,
    gamma: Option<B::Buf<T::Param>>,
    beta: Option<B::Buf<T::Param>>,
    /// What the forward pass writes, and nobody reads.
    y: B::Buf<T>,
    relu_mask: Option<B::Buf<u32>>,
    dx: B::Buf<T>,
    dgamma: B::Buf<T::Param>,
    dbeta: B::Buf<T::Param>,
    dz: B::Buf<T>,
}

impl<B: Compute<T>, T: Element> Buffers<B, T> {
    fn new(job: &Job<'_, B, T>) -> Result<Self, Failure> {
        let masked = job.epilogue == Epilogue::ADD_RELU;
        let empty = || job.backend.upload(&[]);
        Ok(Self {
            dy: job.data("dy")?,
            z: if masked { job.residual()? } else { empty()? },
            gamma: job.optional("weight")?,
            beta: job.optional("bias")?,
            y: job.data_room()?,
            relu_mask: if masked { Some(job.room(relu_mask_len(job.shape))?) } else { None },
            dx: job.data_room()?,
            dgamma: job.channel_room()?,
            dbeta: job.channel_room()?,
            dz: if job.epilogue.residual().is_some() { job.data_room()? } else { empty()? },
        })
    }

    fn done(self, job: &Job<'_, B, T>, statistics: &str, took: Duration) -> Result<Done, Failure> {
        let Self { dx, dgamma, dbeta, .. } = self;
        let backend = &job.backend;
        let dx = backend.download_buf(dx)?;
        let (dgamma, dbeta) = (backend.download_buf(dgamma)?, backend.download_buf(dbeta)?);
        let lines = vec![
            report::headline(job),
            format!("statistics: {statistics}, eps {}", job.eps),
            report::behind(job, self.gamma.is_some(), self.beta.is_some()),
            format!(
                "largest |dx| {}, |dweight| {}, |dbias| {}; constant channels of x: {}",
                report::largest(&dx),
                report::largest(&dgamma),
                report::largest(&dbeta),
                job.constant_channels
            ),
        ];
        let mut file = TensorFile::default();
        let c = [job.shape.c()];
        file.push_vec("dx", job.shape.dims(), dx)?;
        file.push_vec("dweight", &c, dgamma)?;
        file.push_vec("dbias", &c, dbeta)?;
        if job.epilogue.residual().is_some() {
            job.push_data(&mut file, "dz", self.dz)?;
        }
        Ok(Done { file, lines, took })
    }
}

/// The epilogue of the forward pass that is made again: add-relu for its mask, else none.
fn forward_epilogue<B: Backend, T: Element>(kind: Epilogue<()>, z: &B::Buf<T>) -> Epilogue<B::In<'_, T>> {
    match kind {
        Epilogue::ADD_RELU => Epilogue::add_relu(B::input(z)),
        Epilogue::IDENTITY | Epilogue::RELU | Epilogue::ADD => Epilogue::IDENTITY,
    }
}

/// Writes the gradients of `train`: `dx`, `dweight`, `dbias`, and `dz` where there was a residual.
pub(crate) fn batch<B: Compute<T>, T: Element>(job: &Job<'_, B, T>) -> Result<Done, Failure> {
    let Job { backend, shape, .. } = job;
    let mut buffers = Buffers::new(job)?;
    let (mut mean, mut inv_std) = (job.channel_room()?, job.channel_room()?);
    let mut workspace = job.workspace(&[Op::Train, Op::Backward(StatisticsKind::Batch)])?;

    let start = Instant::now();
    backend.train(TrainArgs::<B, T> {
        shape: *shape,
        eps: job.eps,
        x: B::input(&job.x),
        epilogue: forward_epilogue::<B, T>(job.epilogue, &buffers.z),
        gamma: buffers.gamma.as_ref().map(B::input),
        beta: buffers.beta.as_ref().map(B::input),
        y: B::output(&mut buffers.y),
        saved_mean: B::output(&mut mean),
        saved_inv_std: B::output(&mut inv_std),
        relu_mask: buffers.relu_mask.as_mut().map(B::output),
        running: None,
        workspace: &mut workspace,
    })?;
    backend.backward(BackwardArgs::<B, T> {
        shape: *shape,
        x: B::input(&job.x),
        dy: B::input(&buffers.dy),
        epilogue: job.epilogue.map(|()| B::output(&mut buffers.dz)),
        gamma: buffers.gamma.as_ref().map(B::input),
        beta: buffers.beta.as_ref().map(B::input),
        saved_mean: B::input(&mean),
        saved_inv_std: B::input(&inv_std),
        relu_mask: buffers.relu_mask.as_ref().map(B::input),
        gradients: Gradients {
            dx: B::output(&mut buffers.dx),
            dgamma: Some(B::output(&mut buffers.dgamma)),
            dbeta: Some(B::output(&mut buffers.dbeta)),
        },
        workspace: &mut workspace,
    })?;
    backend.download(&buffers.dgamma)?; // Waits for the device.
    let took = start.elapsed();
    buffers.done(job, "of this batch, computed again from x", took)
}

/// Writes the gradients of `infer`: `dx`, `dweight`, `dbias`, and `dz` where there was a residual.
pub(crate) fn frozen<B: Compute<T>, T: Element>(job: &Job<'_, B, T>) -> Result<Done, Failure> {
    let Job { backend, shape, .. } = job;
    let (running_mean, running_var) = (job.channels("running_mean")?, job.channels("running_var")?);
    let mut buffers = Buffers::new(job)?;
    let mut workspace = job.workspace(&[Op::Backward(StatisticsKind::Running)])?;

    let start = Instant::now();
    if let Some(relu_mask) = &mut buffers.relu_mask {
        backend.infer(InferArgs::<B, T> {
            shape: *shape,
            eps: job.eps,
            x: B::input(&job.x),
            epilogue: forward_epilogue::<B, T>(job.epilogue, &buffers.z),
            gamma: buffers.gamma.as_ref().map(B::input),
            beta: buffers.beta.as_ref().map(B::input),
            running_mean: B::input(&running_mean),
            running_var: B::input(&running_var),
            y: B::output(&mut buffers.y),
            relu_mask: Some(B::output(relu_mask)),
        })?;
    }
    backend.backward_frozen(BackwardFrozenArgs::<B, T> {
        shape: *shape,
        eps: job.eps,
        x: B::input(&job.x),
        dy: B::input(&buffers.dy),
        epilogue: job.epilogue.map(|()| B::output(&mut buffers.dz)),
        gamma: buffers.gamma.as_ref().map(B::input),
        beta: buffers.beta.as_ref().map(B::input),
        running_mean: B::input(&running_mean),
        running_var: B::input(&running_var),
        relu_mask: buffers.relu_mask.as_ref().map(B::input),
        gradients: Gradients {
            dx: B::output(&mut buffers.dx),
            dgamma: Some(B::output(&mut buffers.dgamma)),
            dbeta: Some(B::output(&mut buffers.dbeta)),
        },
        workspace: &mut workspace,
    })?;
    backend.download(&buffers.dgamma)?; // Waits for the device.
    let took = start.elapsed();
    buffers.done(job, "running_mean and running_var of the input, taken as constants", took)
}

//! The backward operation. It makes what it needs of its forward pass again: batch statistics, relu mask.

use std::time::{Duration, Instant};

use batchnorm::op::{Backward, Infer, Train};
use batchnorm::tensors::TensorFile;
use batchnorm::{Backend, Compute, Element, Epilogue, Gradients, Op, Statistics, StatisticsKind, relu_mask_len};

use super::job::Job;
use super::report::{self, Done};
use crate::failure::Failure;

/// The buffers other than those of x and the statistics.
struct Buffers<B: Backend, T: Element> {
    dy: B::Buf<T>,
    z: B::Buf<T>,
    gamma: Option<B::Buf<T::Param>>,
    beta: Option<B::Buf<T::Param>>,
    /// The outputs of the forward pass, which nobody reads.
    y: B::Buf<T>,
    relu_mask: Option<B::Buf<u32>>,
    dx: B::Buf<T>,
    dgamma: B::Buf<T::Param>,
    dbeta: B::Buf<T::Param>,
    dz: B::Buf<T>,
}

impl<B: Compute<T>, T: Element> Buffers<B, T> {
    fn new(job: &Job<'_, B, T>) -> Result<Self, Failure> {
        let masked = job.epilogue.keeps_mask();
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

/// Writes the gradients of `train`, or of `infer`: `dx`, `dweight`, `dbias`, and `dz` where there was a residual.
pub(crate) fn backward<B: Compute<T>, T: Element>(
    job: &Job<'_, B, T>,
    statistics: StatisticsKind,
) -> Result<Done, Failure> {
    let &Job { ref backend, shape, eps, .. } = job;
    let given = match statistics {
        StatisticsKind::Batch => None,
        StatisticsKind::Running => Some((job.channels("running_mean")?, job.channels("running_var")?)),
    };
    // The input's tensors before any room: which of them is wrong says more than that there is no memory.
    let mut buffers = Buffers::new(job)?;
    let mut statistics = match given {
        None => Statistics::Batch { mean: job.channel_room()?, inv_std: job.channel_room()? },
        Some((mean, var)) => Statistics::Running { mean, var, eps },
    };
    let mut workspace = job.workspace(&[Op::Train, job.op])?;

    let start = Instant::now();
    let x = B::input(&job.x);
    let (gamma, beta) = (buffers.gamma.as_ref().map(B::input), buffers.beta.as_ref().map(B::input));
    // The forward pass needs the epilogue for its mask, or not at all.
    let forward = if job.epilogue.keeps_mask() { job.epilogue } else { Epilogue::IDENTITY };
    let epilogue = forward.map(|()| B::input(&buffers.z));
    match &mut statistics {
        Statistics::Batch { mean, inv_std } => {
            let train = Train {
                shape,
                eps,
                x,
                epilogue,
                gamma,
                beta,
                y: B::output(&mut buffers.y),
                saved_mean: B::output(mean),
                saved_inv_std: B::output(inv_std),
                relu_mask: buffers.relu_mask.as_mut().map(B::output),
                running: None,
            };
            backend.run_in(&mut workspace, train)?;
        }
        Statistics::Running { mean, var, .. } => {
            if let Some(relu_mask) = &mut buffers.relu_mask {
                let infer = Infer {
                    shape,
                    eps,
                    x,
                    epilogue,
                    gamma,
                    beta,
                    running_mean: B::input(mean),
                    running_var: B::input(var),
                    y: B::output(&mut buffers.y),
                    relu_mask: Some(B::output(relu_mask)),
                };
                backend.run_in(&mut workspace, infer)?;
            }
        }
    }
    let backward = Backward {
        shape,
        x: B::input(&job.x),
        dy: B::input(&buffers.dy),
        epilogue: job.epilogue.map(|()| B::output(&mut buffers.dz)),
        gamma: buffers.gamma.as_ref().map(B::input),
        beta: buffers.beta.as_ref().map(B::input),
        statistics: match &statistics {
            Statistics::Batch { mean, inv_std } => {
                Statistics::Batch { mean: B::input(mean), inv_std: B::input(inv_std) }
            }
            &Statistics::Running { ref mean, ref var, eps } => {
                Statistics::Running { mean: B::input(mean), var: B::input(var), eps }
            }
        },
        relu_mask: buffers.relu_mask.as_ref().map(B::input),
        gradients: Gradients {
            dx: Some(B::output(&mut buffers.dx)),
            dgamma: Some(B::output(&mut buffers.dgamma)),
            dbeta: Some(B::output(&mut buffers.dbeta)),
        },
    };
    backend.run_in(&mut workspace, backward)?;
    backend.download(&buffers.dgamma)?; // Waits for the device.
    let took = start.elapsed();
    let told = match statistics {
        Statistics::Batch { .. } => "of this batch, computed again from x",
        Statistics::Running { .. } => "running_mean and running_var of the input, taken as constants",
    };
    buffers.done(job, told, took)
}

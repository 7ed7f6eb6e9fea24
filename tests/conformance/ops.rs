//! The operations on host data, over any backend.

use batchnorm::op::{self, Infer, Moments, Train, Update};
use batchnorm::{Backend, Compute, Element, Epilogue, Gradients, Result, Running, Shape, Statistics, Stored, Tracking};

/// Running statistics on the host.
pub(crate) type HostRunning<T> = Running<Vec<<T as Element>::Param>, i64>;

/// The common part of the operations of one step.
pub(crate) struct Call<T: Element> {
    pub(crate) shape: Shape,
    pub(crate) eps: f64,
    pub(crate) x: Vec<T>,
    pub(crate) gamma: Option<Vec<T::Param>>,
    pub(crate) beta: Option<Vec<T::Param>>,
}

/// The tensors that a forward pass with the batch's statistics wrote.
pub(crate) struct Forward<T: Element> {
    pub(crate) y: Vec<T>,
    pub(crate) saved_mean: Vec<T::Param>,
    pub(crate) saved_inv_std: Vec<T::Param>,
}

/// The tensors that a backward pass wrote.
pub(crate) struct Backward<T: Element> {
    pub(crate) dx: Vec<T>,
    pub(crate) dgamma: Vec<T::Param>,
    pub(crate) dbeta: Vec<T::Param>,
}

impl<T: Element> Call<T> {
    /// Mean and variance.
    pub(crate) fn moments<B: Compute<T>>(&self, backend: &B) -> Result<[Vec<T::Param>; 2]> {
        let x = backend.upload(&self.x)?;
        let [mut mean, mut var] = [self.channels(backend)?, self.channels(backend)?];
        let (mean_out, var_out) = (B::output(&mut mean), B::output(&mut var));
        backend.run(Moments { shape: self.shape, x: B::input(&x), mean: mean_out, var: var_out })?;
        Ok([backend.download(&mean)?, backend.download(&var)?])
    }

    /// The forward pass with the batch's statistics. The running ones are read back even where it is refused.
    pub(crate) fn train<B: Compute<T>>(
        &self,
        backend: &B,
        running: Option<(Tracking, &mut HostRunning<T>)>,
    ) -> Result<Forward<T>> {
        let x = backend.upload(&self.x)?;
        let (gamma, beta) = (upload(backend, self.gamma.as_deref())?, upload(backend, self.beta.as_deref())?);
        let mut y = self.data(backend)?;
        let [mut saved_mean, mut saved_inv_std] = [self.channels(backend)?, self.channels(backend)?];
        let mut on_device = match &running {
            Some((_, host)) => Some((
                backend.upload(&host.mean)?,
                backend.upload(&host.var)?,
                backend.upload(&[host.num_batches_tracked])?,
            )),
            None => None,
        };
        let tracking = running.as_ref().map(|(tracking, _)| *tracking);
        let result = backend.run(Train {
            shape: self.shape,
            eps: self.eps,
            x: B::input(&x),
            epilogue: Epilogue::IDENTITY,
            gamma: gamma.as_ref().map(B::input),
            beta: beta.as_ref().map(B::input),
            y: B::output(&mut y),
            saved_mean: B::output(&mut saved_mean),
            saved_inv_std: B::output(&mut saved_inv_std),
            relu_mask: None,
            running: tracking.zip(on_device.as_mut()).map(|(tracking, (mean, var, count))| Update {
                tracking,
                mean: B::output(mean),
                var: B::output(var),
                num_batches_tracked: B::output(count),
            }),
        });
        if let (Some((_, host)), Some((mean, var, count))) = (running, &on_device) {
            host.mean = backend.download(mean)?;
            host.var = backend.download(var)?;
            host.num_batches_tracked = backend.download(count)?[0];
        }
        result?;
        Ok(Forward {
            y: backend.download(&y)?,
            saved_mean: backend.download(&saved_mean)?,
            saved_inv_std: backend.download(&saved_inv_std)?,
        })
    }

    /// The forward pass with running statistics.
    pub(crate) fn infer<B: Compute<T>>(&self, backend: &B, running: &HostRunning<T>) -> Result<Vec<T>> {
        let x = backend.upload(&self.x)?;
        let (gamma, beta) = (upload(backend, self.gamma.as_deref())?, upload(backend, self.beta.as_deref())?);
        let (mean, var) = (backend.upload(&running.mean)?, backend.upload(&running.var)?);
        let mut y = self.data(backend)?;
        backend.run(Infer {
            shape: self.shape,
            eps: self.eps,
            x: B::input(&x),
            epilogue: Epilogue::IDENTITY,
            gamma: gamma.as_ref().map(B::input),
            beta: beta.as_ref().map(B::input),
            running_mean: B::input(&mean),
            running_var: B::input(&var),
            y: B::output(&mut y),
            relu_mask: None,
        })?;
        backend.download(&y)
    }

    /// The backward pass through these statistics.
    pub(crate) fn backward<B: Compute<T>>(
        &self,
        backend: &B,
        dy: &[T],
        statistics: Statistics<&[T::Param]>,
    ) -> Result<Backward<T>> {
        let (x, dy) = (backend.upload(&self.x)?, backend.upload(dy)?);
        let (gamma, beta) = (upload(backend, self.gamma.as_deref())?, upload(backend, self.beta.as_deref())?);
        let (Statistics::Batch { mean, inv_std: spread } | Statistics::Running { mean, var: spread, .. }) = statistics;
        let (mean, spread) = (backend.upload(mean)?, backend.upload(spread)?);
        let mut gradients = GradientBuffers::new(self, backend)?;
        backend.run(op::Backward {
            shape: self.shape,
            x: B::input(&x),
            dy: B::input(&dy),
            epilogue: Epilogue::IDENTITY,
            gamma: gamma.as_ref().map(B::input),
            beta: beta.as_ref().map(B::input),
            statistics: match statistics {
                Statistics::Batch { .. } => Statistics::Batch { mean: B::input(&mean), inv_std: B::input(&spread) },
                Statistics::Running { eps, .. } => {
                    Statistics::Running { mean: B::input(&mean), var: B::input(&spread), eps }
                }
            },
            relu_mask: None,
            gradients: gradients.args(),
        })?;
        gradients.download(backend)
    }

    /// A data output. It holds NaN, so that a value which nothing wrote shows.
    fn data<B: Compute<T>>(&self, backend: &B) -> Result<B::Buf<T>> {
        backend.upload(&vec![T::from_f64(f64::NAN); self.shape.len()])
    }

    /// A per-channel output, likewise.
    fn channels<B: Compute<T>>(&self, backend: &B) -> Result<B::Buf<T::Param>> {
        backend.upload(&vec![T::Param::from_f64(f64::NAN); self.shape.c()])
    }
}

/// The buffers that a backward pass writes.
struct GradientBuffers<B: Backend, T: Element> {
    dx: B::Buf<T>,
    dgamma: B::Buf<T::Param>,
    dbeta: B::Buf<T::Param>,
}

impl<B: Compute<T>, T: Element> GradientBuffers<B, T> {
    fn new(call: &Call<T>, backend: &B) -> Result<Self> {
        Ok(Self { dx: call.data(backend)?, dgamma: call.channels(backend)?, dbeta: call.channels(backend)? })
    }

    fn args(&mut self) -> Gradients<'_, B, T> {
        Gradients {
            dx: Some(B::output(&mut self.dx)),
            dgamma: Some(B::output(&mut self.dgamma)),
            dbeta: Some(B::output(&mut self.dbeta)),
        }
    }

    fn download(&self, backend: &B) -> Result<Backward<T>> {
        let (dgamma, dbeta) = (backend.download(&self.dgamma)?, backend.download(&self.dbeta)?);
        Ok(Backward { dx: backend.download(&self.dx)?, dgamma, dbeta })
    }
}

fn upload<B: Backend, T: Stored>(backend: &B, host: Option<&[T]>) -> Result<Option<B::Buf<T>>> {
    host.map(|host| backend.upload(host)).transpose()
}

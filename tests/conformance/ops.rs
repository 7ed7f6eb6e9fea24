//! The operations on host data, over any backend.

use batchnorm::args::{BackwardArgs, BackwardFrozenArgs, InferArgs, MomentsArgs, RunningArgs, TrainArgs};
use batchnorm::{
    Backend, Compute, Element, Epilogue, Gradients, Op, Problem, Result, Running, Shape, Stored, Tracking,
};

/// Running statistics on the host.
pub(crate) type HostRunning<T> = Running<Vec<<T as Element>::Param>, i64>;

/// What the operations of one step have in common.
pub(crate) struct Call<T: Element> {
    pub(crate) shape: Shape,
    pub(crate) eps: f64,
    pub(crate) x: Vec<T>,
    pub(crate) gamma: Option<Vec<T::Param>>,
    pub(crate) beta: Option<Vec<T::Param>>,
}

/// What a forward pass with the batch's statistics wrote.
pub(crate) struct Forward<T: Element> {
    pub(crate) y: Vec<T>,
    pub(crate) saved_mean: Vec<T::Param>,
    pub(crate) saved_inv_std: Vec<T::Param>,
}

/// What a backward pass wrote.
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
        backend.moments(MomentsArgs::<B, T> {
            shape: self.shape,
            x: B::input(&x),
            mean: B::output(&mut mean),
            var: B::output(&mut var),
            workspace: &mut self.workspace(backend, Op::Moments, None)?,
        })?;
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
        let result = backend.train(TrainArgs::<B, T> {
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
            running: tracking.zip(on_device.as_mut()).map(
                |(tracking, (mean, var, count))| RunningArgs::<B, T::Param> {
                    tracking,
                    mean: B::output(mean),
                    var: B::output(var),
                    num_batches_tracked: B::output(count),
                },
            ),
            workspace: &mut self.workspace(backend, Op::Train, tracking)?,
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
        backend.infer(InferArgs::<B, T> {
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

    /// The backward pass through the batch's statistics, or those given as such.
    pub(crate) fn backward<B: Compute<T>>(
        &self,
        backend: &B,
        dy: &[T],
        saved_mean: &[T::Param],
        saved_inv_std: &[T::Param],
    ) -> Result<Backward<T>> {
        let (x, dy) = (backend.upload(&self.x)?, backend.upload(dy)?);
        let (gamma, beta) = (upload(backend, self.gamma.as_deref())?, upload(backend, self.beta.as_deref())?);
        let (saved_mean, saved_inv_std) = (backend.upload(saved_mean)?, backend.upload(saved_inv_std)?);
        let mut gradients = GradientBuffers::new(self, backend)?;
        backend.backward(BackwardArgs::<B, T> {
            shape: self.shape,
            x: B::input(&x),
            dy: B::input(&dy),
            epilogue: Epilogue::IDENTITY,
            gamma: gamma.as_ref().map(B::input),
            beta: beta.as_ref().map(B::input),
            saved_mean: B::input(&saved_mean),
            saved_inv_std: B::input(&saved_inv_std),
            relu_mask: None,
            gradients: gradients.args(),
            workspace: &mut self.workspace(backend, Op::Backward(StatisticsKind::Batch), None)?,
        })?;
        gradients.download(backend)
    }

    /// The backward pass where the running statistics are constants.
    pub(crate) fn backward_frozen<B: Compute<T>>(
        &self,
        backend: &B,
        dy: &[T],
        running: &HostRunning<T>,
    ) -> Result<Backward<T>> {
        let (x, dy) = (backend.upload(&self.x)?, backend.upload(dy)?);
        let (gamma, beta) = (upload(backend, self.gamma.as_deref())?, upload(backend, self.beta.as_deref())?);
        let (mean, var) = (backend.upload(&running.mean)?, backend.upload(&running.var)?);
        let mut gradients = GradientBuffers::new(self, backend)?;
        backend.backward_frozen(BackwardFrozenArgs::<B, T> {
            shape: self.shape,
            eps: self.eps,
            x: B::input(&x),
            dy: B::input(&dy),
            epilogue: Epilogue::IDENTITY,
            gamma: gamma.as_ref().map(B::input),
            beta: beta.as_ref().map(B::input),
            running_mean: B::input(&mean),
            running_var: B::input(&var),
            relu_mask: None,
            gradients: gradients.args(),
            workspace: &mut self.workspace(backend, Op::Backward(StatisticsKind::Running), None)?,
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

    /// Scratch memory. Where the problem is refused, enough for it without what is refused: the operation is to say no.
    fn workspace<B: Compute<T>>(&self, backend: &B, op: Op, tracking: Option<Tracking>) -> Result<B::Workspace> {
        let problem = |eps, tracking| Problem::new(op, self.shape, T::DTYPE, Epilogue::IDENTITY, eps, tracking);
        backend.workspace(&[problem(self.eps, tracking).or_else(|_| problem(0.0, None))?])
    }
}

/// Where a backward pass writes.
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
            dx: B::output(&mut self.dx),
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

//! The operations over addresses.

use batchnorm::args::{BackwardArgs, BackwardFrozenArgs, InferArgs, RunningArgs, TrainArgs};
use batchnorm::{Compute, Element, Gradients, Momentum, Op, Problem, Shape, Tracking, relu_mask_len};
use pyo3::{FromPyObject, PyResult};

use crate::buffers::{Raw, Scratch};
use crate::check::{check_apart, epilogue, error, value_error};

/// An operation with its arguments.
pub(crate) trait Operation: Sync {
    /// What it returns, beside what it writes.
    type Output: Send;
    /// Runs it on a backend, over data of a type and a shape.
    fn run<B, T>(&self, backend: &B, shape: Shape) -> PyResult<Self::Output>
    where
        T: Element,
        B: Raw + Compute<T>;
}

/// What both forward passes take: addresses, and how they compute.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Forward {
    eps: f64,
    epilogue: String,
    x: usize,
    y: usize,
    z: Option<usize>,
    gamma: Option<usize>,
    beta: Option<usize>,
    relu_mask: Option<usize>,
}

/// A training forward.
pub(crate) struct Train {
    pub(crate) forward: Forward,
    /// Mean and `inv_std`, written.
    pub(crate) saved: [usize; 2],
    /// Mean, variance and counter, updated.
    pub(crate) running: Option<[usize; 3]>,
    /// `None` is the cumulative average.
    pub(crate) momentum: Option<f64>,
    pub(crate) scratch: Scratch,
}

/// An inference forward.
pub(crate) struct Infer {
    pub(crate) forward: Forward,
    /// Mean and variance.
    pub(crate) running: [usize; 2],
}

/// A backward pass.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Backward {
    epilogue: String,
    /// Of frozen statistics.
    frozen_eps: Option<f64>,
    x: usize,
    dy: usize,
    dx: usize,
    dz: Option<usize>,
    gamma: Option<usize>,
    beta: Option<usize>,
    relu_mask: Option<usize>,
    /// Saved mean and `inv_std`, or running mean and variance.
    statistics: [usize; 2],
    dgamma: usize,
    dbeta: usize,
    scratch: Scratch,
}

/// The question how much scratch memory an operation needs.
pub(crate) struct ScratchBytes<'a> {
    pub(crate) operation: &'a str,
    pub(crate) epilogue: &'a str,
}

impl Operation for Train {
    type Output = ();
    fn run<B, T>(&self, backend: &B, shape: Shape) -> PyResult<()>
    where
        T: Element,
        B: Raw + Compute<T>,
    {
        let Train { forward: Forward { eps, x, y, z, gamma, beta, relu_mask, .. }, saved, running, momentum, scratch } =
            *self;
        let (len, c) = (shape.len(), shape.c());
        let momentum = momentum.map_or(Momentum::Cumulative, Momentum::Ema);
        let tracking = running.map(|_| Tracking { momentum, ..Tracking::default() });
        let kind = epilogue(&self.forward.epilogue, z.map(|_| ()))?;
        let problem = Problem::new(Op::Train, shape, T::DTYPE, kind, eps, tracking).map_err(error)?;
        let (data, channel) = (len * size_of::<T>(), c * size_of::<T::Param>());
        if let Some([mean, var, count]) = running {
            let written =
                [("running_mean", mean, channel), ("running_var", var, channel), ("num_batches_tracked", count, 8)];
            let read =
                [("input", Some(x), data), ("residual", z, data), ("weight", gamma, channel), ("bias", beta, channel)];
            check_apart(&written, &read)?;
        }
        // SAFETY: the package's Python passes contiguous tensors of these lengths and types, which it holds until this returns;
        // on a device torch frees memory in the order of its stream. What is written is new or was seen to be apart.
        unsafe {
            let (x, mut y) = (backend.read::<T>(x, len), backend.write::<T>(y, len));
            let z = z.map(|z| backend.read::<T>(z, len));
            let [gamma, beta] = [gamma, beta].map(|at| at.map(|at| backend.read::<T::Param>(at, c)));
            let [mut saved_mean, mut saved_inv_std] = saved.map(|at| backend.write::<T::Param>(at, c));
            let mut relu_mask = relu_mask.map(|at| backend.write::<u32>(at, relu_mask_len(shape)));
            let mut running = running.map(|[mean, var, count]| {
                (backend.write::<T::Param>(mean, c), backend.write::<T::Param>(var, c), backend.write::<i64>(count, 1))
            });
            let train = |workspace: &mut B::Workspace| {
                let running = running.as_mut().zip(tracking).map(|((mean, var, count), tracking)| RunningArgs {
                    tracking,
                    mean: B::writes(mean),
                    var: B::writes(var),
                    num_batches_tracked: B::writes(count),
                });
                backend.train(TrainArgs {
                    shape,
                    eps,
                    x: B::reads(&x),
                    epilogue: kind.with("z", z.as_ref().map(|z| B::reads(z)))?,
                    gamma: gamma.as_ref().map(|gamma| B::reads(gamma)),
                    beta: beta.as_ref().map(|beta| B::reads(beta)),
                    y: B::writes(&mut y),
                    saved_mean: B::writes(&mut saved_mean),
                    saved_inv_std: B::writes(&mut saved_inv_std),
                    relu_mask: relu_mask.as_mut().map(|mask| B::writes(mask)),
                    running,
                    workspace,
                })
            };
            backend.with_scratch(&problem, scratch, train).map_err(error)
        }
    }
}

impl Operation for Infer {
    type Output = ();
    fn run<B, T>(&self, backend: &B, shape: Shape) -> PyResult<()>
    where
        T: Element,
        B: Raw + Compute<T>,
    {
        let Forward { eps, x, y, z, gamma, beta, relu_mask, .. } = self.forward;
        let running = self.running;
        let (len, c) = (shape.len(), shape.c());
        let kind = epilogue(&self.forward.epilogue, z.map(|_| ()))?;
        // SAFETY: as in training; everything that is written is new.
        unsafe {
            let (x, mut y) = (backend.read::<T>(x, len), backend.write::<T>(y, len));
            let z = z.map(|z| backend.read::<T>(z, len));
            let [gamma, beta] = [gamma, beta].map(|at| at.map(|at| backend.read::<T::Param>(at, c)));
            let [running_mean, running_var] = running.map(|at| backend.read::<T::Param>(at, c));
            let mut relu_mask = relu_mask.map(|at| backend.write::<u32>(at, relu_mask_len(shape)));
            let args = InferArgs {
                shape,
                eps,
                x: B::reads(&x),
                epilogue: kind.with("z", z.as_ref().map(|z| B::reads(z))).map_err(error)?,
                gamma: gamma.as_ref().map(|gamma| B::reads(gamma)),
                beta: beta.as_ref().map(|beta| B::reads(beta)),
                running_mean: B::reads(&running_mean),
                running_var: B::reads(&running_var),
                y: B::writes(&mut y),
                relu_mask: relu_mask.as_mut().map(|mask| B::writes(mask)),
            };
            backend.infer(args).map_err(error)
        }
    }
}

impl Operation for Backward {
    type Output = ();
    fn run<B, T>(&self, backend: &B, shape: Shape) -> PyResult<()>
    where
        T: Element,
        B: Raw + Compute<T>,
    {
        let Backward { frozen_eps, x, dy, dx, dz, gamma, beta, relu_mask, statistics, dgamma, dbeta, scratch, .. } =
            *self;
        let (len, c) = (shape.len(), shape.c());
        let op = if frozen_eps.is_some() { Op::Backward(StatisticsKind::Running) } else { Op::Backward(StatisticsKind::Batch) };
        let kind = epilogue(&self.epilogue, dz.map(|_| ()))?;
        let problem = Problem::new(op, shape, T::DTYPE, kind, frozen_eps.unwrap_or(0.0), None).map_err(error)?;
        // SAFETY: as in training; everything that is written is new.
        unsafe {
            let (x, dy, mut dx) = (backend.read::<T>(x, len), backend.read::<T>(dy, len), backend.write::<T>(dx, len));
            let mut dz = dz.map(|at| backend.write::<T>(at, len));
            let [gamma, beta] = [gamma, beta].map(|at| at.map(|at| backend.read::<T::Param>(at, c)));
            let relu_mask = relu_mask.map(|at| backend.read::<u32>(at, relu_mask_len(shape)));
            let [first, second] = statistics.map(|at| backend.read::<T::Param>(at, c));
            let [mut dgamma, mut dbeta] = [dgamma, dbeta].map(|at| backend.write::<T::Param>(at, c));
            let backward = |workspace: &mut B::Workspace| {
                let epilogue = kind.with("dz", dz.as_mut().map(|dz| B::writes(dz)))?;
                let gradients = Gradients {
                    dx: B::writes(&mut dx),
                    dgamma: Some(B::writes(&mut dgamma)),
                    dbeta: Some(B::writes(&mut dbeta)),
                };
                let (x, dy) = (B::reads(&x), B::reads(&dy));
                let gamma = gamma.as_ref().map(|gamma| B::reads(gamma));
                let beta = beta.as_ref().map(|beta| B::reads(beta));
                let relu_mask = relu_mask.as_ref().map(|mask| B::reads(mask));
                let (first, second) = (B::reads(&first), B::reads(&second));
                match frozen_eps {
                    None => backend.backward(BackwardArgs {
                        shape,
                        x,
                        dy,
                        epilogue,
                        gamma,
                        beta,
                        saved_mean: first,
                        saved_inv_std: second,
                        relu_mask,
                        gradients,
                        workspace,
                    }),
                    Some(eps) => backend.backward_frozen(BackwardFrozenArgs {
                        shape,
                        eps,
                        x,
                        dy,
                        epilogue,
                        gamma,
                        beta,
                        running_mean: first,
                        running_var: second,
                        relu_mask,
                        gradients,
                        workspace,
                    }),
                }
            };
            backend.with_scratch(&problem, scratch, backward).map_err(error)
        }
    }
}

impl Operation for ScratchBytes<'_> {
    type Output = usize;
    fn run<B, T>(&self, backend: &B, shape: Shape) -> PyResult<usize>
    where
        T: Element,
        B: Raw + Compute<T>,
    {
        let op = match self.operation {
            "train" => Op::Train,
            "backward" => Op::Backward(StatisticsKind::Batch),
            "backward_frozen" => Op::Backward(StatisticsKind::Running),
            other => {
                let text = format!("batchnorm: expected train, backward or backward_frozen, got {other:?}");
                return Err(value_error(text));
            }
        };
        let residual = self.epilogue.starts_with("add").then_some(());
        let epilogue = epilogue(self.epilogue, residual)?;
        let problem = Problem::new(op, shape, T::DTYPE, epilogue, 0.0, None).map_err(error)?;
        backend.scratch_bytes(&problem).map_err(error)
    }
}

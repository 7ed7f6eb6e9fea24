//! The operations over addresses.

use batchnorm::op::Problem;
use batchnorm::op::{Backward, Gradients, Infer, RawSlice, Statistics, Train, Update};
use batchnorm::{Compute, Element, Momentum, Op, Shape, StatisticsKind, Tracking, relu_mask_len};
use pyo3::{FromPyObject, PyResult};

use crate::device::{Device, WorkspaceMemory};
use crate::epilogue::{epilogue, epilogue_kind};
use crate::error::{error, value_error};

/// A call of Python's with its arguments.
pub(crate) trait Call: Sync {
    /// The value that it returns, in addition to what it writes.
    type Output: Send;
    /// Runs it on a backend, over data of a type and a shape.
    fn run<B: Device + Compute<T>, T: Element>(&self, backend: &B, shape: Shape) -> PyResult<Self::Output>;
}

/// Addresses that both forward passes take, and how they compute.
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
pub(crate) struct TrainCall {
    pub(crate) forward: Forward,
    /// Mean and `inv_std`, written.
    pub(crate) saved: [usize; 2],
    /// Mean, variance and counter, updated.
    pub(crate) running: Option<[usize; 3]>,
    /// `None` is the cumulative average.
    pub(crate) momentum: Option<f64>,
    pub(crate) workspace: WorkspaceMemory,
}

/// An inference forward.
pub(crate) struct InferCall {
    pub(crate) forward: Forward,
    /// Mean and variance.
    pub(crate) running: [usize; 2],
}

/// A backward pass.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct BackwardCall {
    epilogue: String,
    /// The eps of running statistics; `None` of a batch's.
    running_eps: Option<f64>,
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
    workspace: WorkspaceMemory,
}

/// The question how much scratch memory an operation needs.
pub(crate) struct WorkspaceBytes<'a> {
    pub(crate) operation: &'a str,
    pub(crate) epilogue: &'a str,
}

/// `len` values from an address on.
fn at<T>(len: usize) -> impl Fn(usize) -> RawSlice<T> {
    move |address| RawSlice::new(address, len)
}

impl Call for TrainCall {
    type Output = ();
    fn run<B: Device + Compute<T>, T: Element>(&self, backend: &B, shape: Shape) -> PyResult<()> {
        let Forward { eps, x, y, z, gamma, beta, relu_mask, .. } = self.forward;
        let (data, channel) = (at::<T>(shape.len()), at::<T::Param>(shape.c()));
        let momentum = self.momentum.map_or(Momentum::Cumulative, Momentum::Ema);
        let tracking = Tracking::new().momentum(momentum); // the unbiased variance, as in PyTorch
        let train = Train {
            shape,
            eps,
            x: data(x),
            epilogue: epilogue(&self.forward.epilogue, z)?.map(&data),
            gamma: gamma.map(&channel),
            beta: beta.map(&channel),
            y: data(y),
            saved_mean: channel(self.saved[0]),
            saved_inv_std: channel(self.saved[1]),
            relu_mask: relu_mask.map(at(relu_mask_len(shape))),
            running: self.running.map(|[mean, var, count]| Update {
                tracking,
                mean: channel(mean),
                var: channel(var),
                num_batches_tracked: RawSlice::new(count, 1),
            }),
        };
        // SAFETY: the package's Python passes contiguous tensors of these lengths and types, which it holds until this returns;
        // on a device torch frees memory in the order of its stream.
        unsafe { backend.run_raw(backend.workspace_at(self.workspace).as_mut(), train) }.map_err(error)
    }
}

impl Call for InferCall {
    type Output = ();
    fn run<B: Device + Compute<T>, T: Element>(&self, backend: &B, shape: Shape) -> PyResult<()> {
        let Forward { eps, x, y, z, gamma, beta, relu_mask, .. } = self.forward;
        let (data, channel) = (at::<T>(shape.len()), at::<T::Param>(shape.c()));
        let infer = Infer {
            shape,
            eps,
            x: data(x),
            epilogue: epilogue(&self.forward.epilogue, z)?.map(&data),
            gamma: gamma.map(&channel),
            beta: beta.map(&channel),
            running_mean: channel(self.running[0]),
            running_var: channel(self.running[1]),
            y: data(y),
            relu_mask: relu_mask.map(at(relu_mask_len(shape))),
        };
        // SAFETY: as in training.
        unsafe { backend.run_raw(None, infer) }.map_err(error)
    }
}

impl Call for BackwardCall {
    type Output = ();
    fn run<B: Device + Compute<T>, T: Element>(&self, backend: &B, shape: Shape) -> PyResult<()> {
        let (data, channel) = (at::<T>(shape.len()), at::<T::Param>(shape.c()));
        let [mean, second] = self.statistics.map(&channel);
        let backward = Backward {
            shape,
            x: data(self.x),
            dy: data(self.dy),
            epilogue: epilogue(&self.epilogue, self.dz)?.map(&data),
            gamma: self.gamma.map(&channel),
            beta: self.beta.map(&channel),
            statistics: match self.running_eps {
                None => Statistics::Batch { mean, inv_std: second },
                Some(eps) => Statistics::Running { mean, var: second, eps },
            },
            relu_mask: self.relu_mask.map(at(relu_mask_len(shape))),
            gradients: Gradients {
                dx: data(self.dx),
                dgamma: Some(channel(self.dgamma)),
                dbeta: Some(channel(self.dbeta)),
            },
        };
        // SAFETY: as in training.
        unsafe { backend.run_raw(backend.workspace_at(self.workspace).as_mut(), backward) }.map_err(error)
    }
}

impl Call for WorkspaceBytes<'_> {
    type Output = usize;
    fn run<B: Device + Compute<T>, T: Element>(&self, backend: &B, shape: Shape) -> PyResult<usize> {
        let ops = [Op::Train, Op::Backward(StatisticsKind::Batch), Op::Backward(StatisticsKind::Running)];
        let Some(op) = ops.into_iter().find(|op| op.name() == self.operation) else {
            let text = format!("batchnorm: expected train, backward or backward-frozen, got {:?}", self.operation);
            return Err(value_error(text));
        };
        let problem = Problem::new(op, shape, T::DTYPE, epilogue_kind(self.epilogue)?, 0.0, None).map_err(error)?;
        backend.workspace_bytes(&problem).map_err(error)
    }
}

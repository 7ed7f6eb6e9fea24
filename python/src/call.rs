//! The operations over addresses.

use batchnorm::op::Problem;
use batchnorm::op::{Backward, Gradients, Infer, RawSlice, Statistics, Train, Update};
use batchnorm::{Compute, Element, Momentum, NonFinite, Op, Shape, StatisticsKind, Tracking, relu_mask_len};
use pyo3::FromPyObject;

use crate::device::{Device, WorkspaceMemory};
use crate::epilogue::Kind;
use crate::error::Refusal;

/// A call with its arguments: of Python's, or of PyTorch's.
pub(crate) trait Call: Sync {
    /// The value that it returns, in addition to what it writes.
    type Output: Send;
    /// Runs it on a backend, over data of a type and a shape.
    fn run<B: Device + Compute<T>, T: Element>(&self, backend: &B, shape: Shape) -> Result<Self::Output, Refusal>;
}

/// Addresses that both forward passes take, and how they compute.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Forward {
    pub(crate) eps: f64,
    pub(crate) epilogue: Kind,
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) z: Option<usize>,
    pub(crate) gamma: Option<usize>,
    pub(crate) beta: Option<usize>,
    pub(crate) relu_mask: Option<usize>,
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
    /// Whether statistics that are no numbers leave the running ones as they are.
    pub(crate) skips_non_finite: bool,
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
    pub(crate) epilogue: Kind,
    /// The eps of running statistics; `None` of a batch's.
    pub(crate) running_eps: Option<f64>,
    pub(crate) x: usize,
    pub(crate) dy: usize,
    pub(crate) dx: Option<usize>,
    pub(crate) dz: Option<usize>,
    pub(crate) gamma: Option<usize>,
    pub(crate) beta: Option<usize>,
    pub(crate) relu_mask: Option<usize>,
    /// Saved mean and `inv_std`, or running mean and variance.
    pub(crate) statistics: [usize; 2],
    pub(crate) dgamma: Option<usize>,
    pub(crate) dbeta: Option<usize>,
    pub(crate) workspace: WorkspaceMemory,
}

/// The question how much scratch memory an operation needs.
pub(crate) struct WorkspaceBytes {
    pub(crate) op: Op,
    pub(crate) epilogue: Kind,
}

/// The operation of this name, of those that need scratch memory.
pub(crate) fn op_named(name: &str) -> Result<Op, Refusal> {
    let ops = [Op::Train, Op::Backward(StatisticsKind::Batch), Op::Backward(StatisticsKind::Running)];
    ops.into_iter()
        .find(|op| op.name() == name)
        .ok_or_else(|| Refusal::value(format!("batchnorm: expected train, backward or backward-frozen, got {name:?}")))
}

/// `len` values from an address on.
fn at<T>(len: usize) -> impl Fn(usize) -> RawSlice<T> {
    move |address| RawSlice::new(address, len)
}

impl Call for TrainCall {
    type Output = ();
    fn run<B: Device + Compute<T>, T: Element>(&self, backend: &B, shape: Shape) -> Result<(), Refusal> {
        let Forward { eps, x, y, z, gamma, beta, relu_mask, .. } = self.forward;
        let (data, channel) = (at::<T>(shape.len()), at::<T::Param>(shape.c()));
        let momentum = self.momentum.map_or(Momentum::Cumulative, Momentum::Ema);
        let non_finite = if self.skips_non_finite { NonFinite::Skip } else { NonFinite::Propagate };
        let tracking = Tracking::new().momentum(momentum).non_finite(non_finite); // the unbiased variance, as in PyTorch
        let train = Train {
            shape,
            eps,
            x: data(x),
            epilogue: self.forward.epilogue.with(z)?.map(&data),
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
        // SAFETY: the caller passes contiguous tensors of these lengths and types, which it holds until this returns; on a device
        // torch frees memory in the order of its stream.
        Ok(unsafe { backend.run_raw(backend.workspace_at(self.workspace).as_mut(), train) }?)
    }
}

impl Call for InferCall {
    type Output = ();
    fn run<B: Device + Compute<T>, T: Element>(&self, backend: &B, shape: Shape) -> Result<(), Refusal> {
        let Forward { eps, x, y, z, gamma, beta, relu_mask, .. } = self.forward;
        let (data, channel) = (at::<T>(shape.len()), at::<T::Param>(shape.c()));
        let infer = Infer {
            shape,
            eps,
            x: data(x),
            epilogue: self.forward.epilogue.with(z)?.map(&data),
            gamma: gamma.map(&channel),
            beta: beta.map(&channel),
            running_mean: channel(self.running[0]),
            running_var: channel(self.running[1]),
            y: data(y),
            relu_mask: relu_mask.map(at(relu_mask_len(shape))),
        };
        // SAFETY: as in training.
        Ok(unsafe { backend.run_raw(None, infer) }?)
    }
}

impl Call for BackwardCall {
    type Output = ();
    fn run<B: Device + Compute<T>, T: Element>(&self, backend: &B, shape: Shape) -> Result<(), Refusal> {
        let (data, channel) = (at::<T>(shape.len()), at::<T::Param>(shape.c()));
        let [mean, second] = self.statistics.map(&channel);
        let backward = Backward {
            shape,
            x: data(self.x),
            dy: data(self.dy),
            epilogue: self.epilogue.with(self.dz)?.map(&data),
            gamma: self.gamma.map(&channel),
            beta: self.beta.map(&channel),
            statistics: match self.running_eps {
                None => Statistics::Batch { mean, inv_std: second },
                Some(eps) => Statistics::Running { mean, var: second, eps },
            },
            relu_mask: self.relu_mask.map(at(relu_mask_len(shape))),
            gradients: Gradients {
                dx: self.dx.map(&data),
                dgamma: self.dgamma.map(&channel),
                dbeta: self.dbeta.map(&channel),
            },
        };
        // SAFETY: as in training.
        Ok(unsafe { backend.run_raw(backend.workspace_at(self.workspace).as_mut(), backward) }?)
    }
}

impl Call for WorkspaceBytes {
    type Output = usize;
    fn run<B: Device + Compute<T>, T: Element>(&self, backend: &B, shape: Shape) -> Result<usize, Refusal> {
        let problem = Problem::new(self.op, shape, T::DTYPE, self.epilogue.0, 0.0, None)?;
        Ok(backend.workspace_bytes(&problem)?)
    }
}

//! The operations: their arguments, in the order of their schemas, and their results.
//!
//! Every check comes before the first write. Who calls them through the package's functions gets the texts of _functional.py.

use core::ffi::CStr;

use batchnorm::op::StatisticsKind;
use batchnorm::{Dtype, Epilogue, Op};
use pyo3::prelude::*;

use super::abi::Kernel;
use super::data::{Data, Saved, with_one_more};
use super::stack::{Arguments, Operation, kernel};
use super::tensor::Tensor;
use crate::call::{BackwardCall, Forward, InferCall, TrainCall};
use crate::device::WorkspaceMemory;
use crate::dispatch::dispatch;
use crate::epilogue::Kind;
use crate::error::Refusal;

pub(super) const KERNELS: &[(&CStr, Kernel)] = &[kernel::<Train>(), kernel::<Infer>(), kernel::<Backward>()];

pub(super) type Results = Result<[Option<Tensor>; 4], Refusal>;

/// Normalizes by the batch's statistics.
pub(super) struct Train {
    pub(super) x: Tensor,
    pub(super) z: Option<Tensor>,
    pub(super) weight: Option<Tensor>,
    pub(super) bias: Option<Tensor>,
    pub(super) running_mean: Option<Tensor>,
    pub(super) running_var: Option<Tensor>,
    pub(super) num_batches_tracked: Option<Tensor>,
    pub(super) momentum: Option<f64>,
    pub(super) eps: f64,
    pub(super) epilogue: Named,
    pub(super) keep_mask: bool,
    pub(super) skip_non_finite: bool,
    pub(super) skip_recomputed: bool,
}

/// Normalizes by running statistics.
pub(super) struct Infer {
    pub(super) x: Tensor,
    pub(super) z: Option<Tensor>,
    pub(super) weight: Option<Tensor>,
    pub(super) bias: Option<Tensor>,
    pub(super) running_mean: Tensor,
    pub(super) running_var: Tensor,
    pub(super) eps: f64,
    pub(super) epilogue: Named,
    pub(super) keep_mask: bool,
}

/// The gradients of either, those that are needed; no dz where it is dy.
pub(super) struct Backward {
    pub(super) dy: Tensor,
    pub(super) x: Tensor,
    pub(super) weight: Option<Tensor>,
    pub(super) bias: Option<Tensor>,
    pub(super) statistics: Statistics,
    pub(super) relu_mask: Option<Tensor>,
    /// The order of the mask's bits: of the memory of x in the forward pass, which may have come back in another.
    pub(super) mask_is_channels_last: bool,
    pub(super) running_eps: Option<f64>,
    pub(super) epilogue: Named,
    pub(super) needs: [bool; 4],
}

/// The statistics that a forward pass normalized by.
pub(super) enum Statistics {
    /// The mean, and `inv_std` or, of running ones, the variance.
    Tensors([Tensor; 2]),
    Saved(Saved),
}

/// An epilogue by its name, if it is one.
type Named = Result<Kind, Refusal>;

/// The address of a tensor that has values.
fn address(tensor: Option<&Tensor>) -> Option<usize> {
    tensor.filter(|tensor| tensor.len() > 0).map(Tensor::address)
}

/// Scratch memory for an operation whose stream is captured into a graph, which holds on to addresses: its replays are in order with
/// nothing else, so that it gets memory of its own, in the graph's pool. Else `None`: each thread has memory for each of its
/// streams, which its next operation uses again.
fn workspace(data: &Data, op: Op, epilogue: Kind) -> Result<Option<Tensor>, Refusal> {
    #[cfg(feature = "cuda")]
    if let crate::dispatch::Target::Cuda { ordinal, stream } = data.at.target
        && data.at.dtype != Dtype::F64
        && is_capturing(ordinal, stream)?
    {
        let bytes = dispatch(data.at, &crate::call::WorkspaceBytes { op, epilogue })?;
        let memory = Tensor::vector(super::tensor::Code::uint8(), data.place, bytes)?;
        memory.zero()?;
        return Ok(Some(memory));
    }
    let _ = (data, op, epilogue, Dtype::F64);
    Ok(None)
}

#[cfg(feature = "cuda")]
fn is_capturing(ordinal: usize, stream: u64) -> Result<bool, Refusal> {
    #[cfg(feature = "emulate")]
    if super::stand_in::is_capturing() {
        return Ok(true);
    }
    crate::cuda::keeping_the_current_device(|| crate::cuda::is_capturing(&crate::cuda::on(ordinal, stream)?))
}

/// Whether this thread runs a backward pass, which runs forward passes again for checkpoints: of a process without Python it does not.
fn is_in_a_backward_pass() -> bool {
    let graph_task = Python::try_attach(|py| {
        let task = py.import("torch._C")?.call_method0("_current_graph_task_id")?;
        task.extract::<i64>()
    });
    graph_task.is_some_and(|task| task.is_ok_and(|task| task != -1))
}

fn memory(workspace: Option<&Tensor>) -> WorkspaceMemory {
    workspace.map(|tensor| (tensor.address(), tensor.len()))
}

impl Operation for Train {
    const NAME: &'static CStr = c"train";

    fn take(arguments: &mut Arguments<'_>) -> Self {
        Self {
            x: arguments.tensor(),
            z: arguments.optional_tensor(),
            weight: arguments.optional_tensor(),
            bias: arguments.optional_tensor(),
            running_mean: arguments.optional_tensor(),
            running_var: arguments.optional_tensor(),
            num_batches_tracked: arguments.optional_tensor(),
            momentum: arguments.optional_float(),
            eps: arguments.float(),
            epilogue: arguments.epilogue(),
            keep_mask: arguments.flag(),
            skip_non_finite: arguments.flag(),
            skip_recomputed: arguments.flag(),
        }
    }

    fn run(self) -> Results {
        let (y, [mean, inv_std], mask) = self.train(
            |data| Ok([data.per_channel()?, data.per_channel()?]),
            |tensors| tensors.each_ref().map(Tensor::address),
        )?;
        Ok([Some(y), Some(mean), Some(inv_std), mask])
    }
}

impl Train {
    /// With mean and `inv_std` in one memory.
    pub(super) fn saving(self) -> Result<(Tensor, Saved, Option<Tensor>), Refusal> {
        self.train(Data::saved, Saved::addresses)
    }

    /// y, the statistics in what is made for them, and the mask.
    fn train<S>(
        self,
        new: impl FnOnce(&Data) -> Result<S, Refusal>,
        addresses: impl FnOnce(&S) -> [usize; 2],
    ) -> Result<(Tensor, S, Option<Tensor>), Refusal> {
        let Self { x, z, weight, bias, momentum, eps, .. } = self;
        let (running_mean, running_var, counter) = if self.skip_recomputed && is_in_a_backward_pass() {
            (None, None, None)
        } else {
            (self.running_mean, self.running_var, self.num_batches_tracked)
        };
        let data = Data::of(&x)?;
        if data.len() > 0 && data.at.shape.m() == 1 {
            return Err(Refusal::runtime("Expected more than 1 value per channel when training".into()));
        }
        if eps <= 0.0 {
            return Err(Refusal::value(format!("batch_norm eps must be positive during training, but got {eps}")));
        }
        if running_mean.is_some() != running_var.is_some() {
            let text = "Expected running_mean and running_var to both be None or neither be None";
            return Err(Refusal::runtime(text.into()));
        }
        let epilogue = self.epilogue?;
        let x = data.dense("input", x)?;
        let z = z.map(|z| data.dense("residual", z)).transpose()?;
        let weight = data.affine("weight", weight)?;
        let bias = data.affine("bias", bias)?;
        if let Some(counter) = &counter {
            data.expect_counter(counter)?;
        }
        // The kernels count what they track, and no empty batch; torch.nn counts all.
        let (counted, uncounted) =
            if data.len() > 0 && running_mean.is_some() { (counter, None) } else { (None, counter) };
        let running = match (running_mean, running_var) {
            (Some(mean), Some(var)) => {
                Some([data.updated("running_mean", mean)?, data.updated("running_var", var)?, data.counter(counted)?])
            }
            _ => None,
        };
        let uncounted = uncounted.map(with_one_more).transpose()?;
        let keeps_mask = self.keep_mask && epilogue.0.keeps_mask();
        let mask = keeps_mask.then(|| data.mask()).transpose()?;
        let (y, saved) = (data.empty()?, new(&data)?);
        let workspace = workspace(&data, Op::Train, epilogue)?;
        let call = TrainCall {
            forward: Forward {
                eps,
                epilogue,
                x: x.address(),
                y: y.address(),
                z: z.as_ref().map(Tensor::address),
                gamma: address(weight.as_ref()),
                beta: address(bias.as_ref()),
                relu_mask: address(mask.as_ref()),
            },
            saved: addresses(&saved),
            running: running.as_ref().map(|tensors| tensors.each_ref().map(|tensor| tensor.address())),
            momentum,
            skips_non_finite: self.skip_non_finite,
            workspace: memory(workspace.as_ref()),
        };
        dispatch(data.at, &call)?;
        for tensor in running.into_iter().flatten().chain(uncounted) {
            tensor.finish()?;
        }
        Ok((y, saved, mask))
    }
}

impl Operation for Infer {
    const NAME: &'static CStr = c"infer";

    fn take(arguments: &mut Arguments<'_>) -> Self {
        Self {
            x: arguments.tensor(),
            z: arguments.optional_tensor(),
            weight: arguments.optional_tensor(),
            bias: arguments.optional_tensor(),
            running_mean: arguments.tensor(),
            running_var: arguments.tensor(),
            eps: arguments.float(),
            epilogue: arguments.epilogue(),
            keep_mask: arguments.flag(),
        }
    }

    fn run(self) -> Results {
        let Self { x, z, weight, bias, running_mean, running_var, eps, .. } = self;
        let data = Data::of(&x)?;
        let epilogue = self.epilogue?;
        let x = data.dense("input", x)?;
        let z = z.map(|z| data.dense("residual", z)).transpose()?;
        let weight = data.affine("weight", weight)?;
        let bias = data.affine("bias", bias)?;
        let mean = data.param("running_mean", running_mean)?;
        let var = data.param("running_var", running_var)?;
        let keeps_mask = self.keep_mask && epilogue.0.keeps_mask();
        let mask = keeps_mask.then(|| data.mask()).transpose()?;
        let y = data.empty()?;
        let forward = Forward {
            eps,
            epilogue,
            x: x.address(),
            y: y.address(),
            z: z.as_ref().map(Tensor::address),
            gamma: address(weight.as_ref()),
            beta: address(bias.as_ref()),
            relu_mask: address(mask.as_ref()),
        };
        dispatch(data.at, &InferCall { forward, running: [mean.address(), var.address()] })?;
        Ok([Some(y), mask, None, None])
    }
}

impl Operation for Backward {
    const NAME: &'static CStr = c"backward";

    fn take(arguments: &mut Arguments<'_>) -> Self {
        Self {
            dy: arguments.tensor(),
            x: arguments.tensor(),
            weight: arguments.optional_tensor(),
            bias: arguments.optional_tensor(),
            statistics: Statistics::Tensors([arguments.tensor(), arguments.tensor()]),
            relu_mask: arguments.optional_tensor(),
            mask_is_channels_last: arguments.flag(),
            running_eps: arguments.optional_float(),
            epilogue: arguments.epilogue(),
            needs: core::array::from_fn(|_| arguments.flag()),
        }
    }

    fn run(self) -> Results {
        let Self { dy, x, weight, bias, relu_mask, running_eps, .. } = self;
        let [needs_dx, needs_dz, needs_dweight, needs_dbias] = self.needs;
        let data = match &relu_mask {
            Some(_) => Data::in_order(&x, self.mask_is_channels_last)?,
            None => Data::of(&x)?,
        };
        let epilogue = self.epilogue?;
        let (x, dy) = (data.dense("input", x)?, data.dense("the gradient", dy)?);
        let weight = data.affine("weight", weight)?;
        let bias = data.affine("bias", bias)?;
        let statistics = match self.statistics {
            Statistics::Tensors([mean, second]) => {
                Statistics::Tensors([data.param("mean", mean)?, data.param("inv_std or var", second)?])
            }
            saved => saved,
        };
        let relu_mask = relu_mask.map(|mask| data.expect_mask(mask)).transpose()?;
        // A residual behind which nothing is masked has dy itself as its gradient, which the caller has.
        let has_mask = relu_mask.is_some();
        let epilogue = match (epilogue.0.residual(), epilogue.0.keeps_mask()) {
            (Some(()), false) => Kind(Epilogue::IDENTITY),
            (Some(()), true) if !needs_dz && has_mask => Kind(Epilogue::RELU),
            _ => epilogue,
        };
        let has_dz = epilogue.0.residual().is_some();
        let kind = if running_eps.is_some() { StatisticsKind::Running } else { StatisticsKind::Batch };
        let dx = needs_dx.then(|| data.empty()).transpose()?;
        let dz = has_dz.then(|| data.empty()).transpose()?;
        let dweight = needs_dweight.then(|| data.per_channel()).transpose()?;
        let dbias = needs_dbias.then(|| data.per_channel()).transpose()?;
        let workspace = workspace(&data, Op::Backward(kind), epilogue)?;
        let call = BackwardCall {
            epilogue,
            running_eps,
            x: x.address(),
            dy: dy.address(),
            dx: dx.as_ref().map(Tensor::address),
            dz: dz.as_ref().map(Tensor::address),
            gamma: address(weight.as_ref()),
            beta: address(bias.as_ref()),
            relu_mask: address(relu_mask.as_ref()),
            statistics: match &statistics {
                Statistics::Tensors(tensors) => tensors.each_ref().map(Tensor::address),
                Statistics::Saved(saved) => data.saved_addresses(saved)?,
            },
            dgamma: dweight.as_ref().map(Tensor::address),
            dbeta: dbias.as_ref().map(Tensor::address),
            workspace: memory(workspace.as_ref()),
        };
        dispatch(data.at, &call)?;
        Ok([dx, dz, dweight, dbias])
    }
}

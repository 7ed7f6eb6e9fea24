//! Runs a case on a backend.

use std::collections::BTreeMap;

use super::{Case, Failure, Inputs};
use crate::backend::{Backend, Compute};
use crate::element::{Element, Stored};
use crate::error::Result;
use crate::offset::Offset;
use crate::op::{Backward, Gradients, Infer, Moments, Op, Problem, Statistics, StatisticsKind, Train, Update};
use crate::shape::{Shape, relu_mask_len};

/// The tensors that an operation wrote and no others, as f64 by name. The mask is not among them: a backward pass reads it.
pub type Outputs = BTreeMap<&'static str, Vec<f64>>;

/// The buffers of a case.
struct Buffers<B: Backend, T: Element> {
    /// Elements before those that the operations use.
    start: usize,
    x: B::Buf<T>,
    z: B::Buf<T>,
    gamma: B::Buf<T::Param>,
    beta: B::Buf<T::Param>,
    running_mean: B::Buf<T::Param>,
    running_var: B::Buf<T::Param>,
    count: B::Buf<i64>,
    y: B::Buf<T>,
    saved_mean: B::Buf<T::Param>,
    saved_inv_std: B::Buf<T::Param>,
    mask: B::Buf<u32>,
}

/// Runs a case through the functions over a caller's buffers. `dy` is [`Inputs::dy_of`] the case.
///
/// A backward pass is preceded by its forward pass on the same backend, as in training. Every data tensor begins `start`
/// elements behind the start of its memory, which decides its alignment.
///
/// # Errors
/// [`Failure::Refused`] with the error of the operation, [`Failure::Forward`] with that of the forward pass before it.
pub fn run<B: Compute<T> + Offset, T: Element>(
    backend: &B,
    case: &Case,
    inputs: &Inputs<T>,
    dy: &[T],
    start: usize,
) -> core::result::Result<Outputs, Failure> {
    let shape = case.group.shape;
    let problem = |op, epilogue| Problem::new(op, shape, T::DTYPE, epilogue, case.group.input.eps(), None);
    let problems = [problem(case.op, case.epilogue)?, problem(Op::Train, case.epilogue)?];
    let workspace = &mut backend.workspace(&problems)?;
    let mut buffers = Buffers::new(backend, case, inputs, start)?;
    match case.op {
        Op::Moments => Ok(buffers.moments(backend, workspace, shape)?),
        Op::Train => {
            buffers.train(backend, workspace, case)?;
            Ok(buffers.train_outputs(backend, case)?)
        }
        Op::Infer => {
            buffers.infer(backend, case)?;
            Ok(Outputs::from([("y", buffers.y(backend)?)]))
        }
        Op::Backward(statistics) => {
            let forward = match statistics {
                StatisticsKind::Batch => buffers.train(backend, workspace, case),
                StatisticsKind::Running => buffers.infer(backend, case),
            };
            // The download waits for the forward pass, so that its fault is not taken for the backward one's.
            forward.and_then(|()| backend.download(&buffers.count)).map_err(Failure::Forward)?;
            Ok(buffers.backward(backend, workspace, case, statistics, dy)?)
        }
    }
}

impl<B: Compute<T> + Offset, T: Element> Buffers<B, T> {
    fn new(backend: &B, case: &Case, inputs: &Inputs<T>, start: usize) -> Result<Self> {
        let shape = case.group.shape;
        let channels = || backend.upload(&vec![T::Param::default(); shape.c()]);
        Ok(Self {
            start,
            x: behind(backend, start, &inputs.x)?,
            z: behind(backend, start, &inputs.z)?,
            gamma: backend.upload(&inputs.gamma)?,
            beta: backend.upload(&inputs.beta)?,
            running_mean: backend.upload(&inputs.running_mean)?,
            running_var: backend.upload(&inputs.running_var)?,
            count: backend.upload(&[inputs.num_batches_tracked])?,
            y: behind(backend, start, &vec![T::default(); shape.len()])?,
            saved_mean: channels()?,
            saved_inv_std: channels()?,
            mask: backend.upload(&vec![0u32; relu_mask_len(shape)])?,
        })
    }

    fn moments(&self, backend: &B, workspace: &mut B::Workspace, shape: Shape) -> Result<Outputs> {
        let (mut mean, mut var) = (backend.duplicate(&self.saved_mean)?, backend.duplicate(&self.saved_mean)?);
        let x = B::slice(&self.x, self.start);
        backend.run_in(
            workspace,
            Moments { shape, x: B::view_input(&x), mean: B::output(&mut mean), var: B::output(&mut var) },
        )?;
        Ok(Outputs::from([("mean", values(backend, &mean)?), ("var", values(backend, &var)?)]))
    }

    fn train(&mut self, backend: &B, workspace: &mut B::Workspace, case: &Case) -> Result<()> {
        let (x, z) = (B::slice(&self.x, self.start), B::slice(&self.z, self.start));
        let mut y = B::slice_mut(&mut self.y, self.start);
        backend.run_in(
            workspace,
            Train {
                shape: case.group.shape,
                eps: case.group.input.eps(),
                x: B::view_input(&x),
                epilogue: case.epilogue.map(|()| B::view_input(&z)),
                gamma: case.affine.then(|| B::input(&self.gamma)),
                beta: case.affine.then(|| B::input(&self.beta)),
                y: B::view_output(&mut y),
                saved_mean: B::output(&mut self.saved_mean),
                saved_inv_std: B::output(&mut self.saved_inv_std),
                relu_mask: case.epilogue.keeps_mask().then(|| B::output(&mut self.mask)),
                running: case.tracking.map(|tracking| Update {
                    tracking,
                    mean: B::output(&mut self.running_mean),
                    var: B::output(&mut self.running_var),
                    num_batches_tracked: B::output(&mut self.count),
                }),
            },
        )
    }

    fn infer(&mut self, backend: &B, case: &Case) -> Result<()> {
        let (x, z) = (B::slice(&self.x, self.start), B::slice(&self.z, self.start));
        let mut y = B::slice_mut(&mut self.y, self.start);
        backend.run(Infer {
            shape: case.group.shape,
            eps: case.group.input.eps(),
            x: B::view_input(&x),
            epilogue: case.epilogue.map(|()| B::view_input(&z)),
            gamma: case.affine.then(|| B::input(&self.gamma)),
            beta: case.affine.then(|| B::input(&self.beta)),
            running_mean: B::input(&self.running_mean),
            running_var: B::input(&self.running_var),
            y: B::view_output(&mut y),
            relu_mask: case.epilogue.keeps_mask().then(|| B::output(&mut self.mask)),
        })
    }

    fn y(&self, backend: &B) -> Result<Vec<f64>> {
        Ok(values(backend, &self.y)?.split_off(self.start))
    }

    fn train_outputs(&self, backend: &B, case: &Case) -> Result<Outputs> {
        let mut outputs = Outputs::from([
            ("y", self.y(backend)?),
            ("saved_mean", values(backend, &self.saved_mean)?),
            ("saved_inv_std", values(backend, &self.saved_inv_std)?),
        ]);
        if case.tracking.is_some() {
            let count = backend.download(&self.count)?;
            outputs.extend([
                ("running_mean", values(backend, &self.running_mean)?),
                ("running_var", values(backend, &self.running_var)?),
                ("num_batches_tracked", count.iter().map(|&count| count as f64).collect()),
            ]);
        }
        Ok(outputs)
    }

    fn backward(
        &self,
        backend: &B,
        workspace: &mut B::Workspace,
        case: &Case,
        statistics: StatisticsKind,
        dy: &[T],
    ) -> Result<Outputs> {
        let (shape, start) = (case.group.shape, self.start);
        let data = || behind(backend, start, &vec![T::default(); shape.len()]);
        let (dy, mut dx, mut dz) = (behind(backend, start, dy)?, data()?, data()?);
        let (mut dgamma, mut dbeta) = (backend.zeros(shape.c())?, backend.zeros(shape.c())?);
        {
            let (x_view, dy_view) = (B::slice(&self.x, start), B::slice(&dy, start));
            let (mut dx_view, mut dz_view) = (B::slice_mut(&mut dx, start), B::slice_mut(&mut dz, start));
            backend.run_in(
                workspace,
                Backward {
                    shape,
                    x: B::view_input(&x_view),
                    dy: B::view_input(&dy_view),
                    epilogue: case.epilogue.map(|()| B::view_output(&mut dz_view)),
                    gamma: case.affine.then(|| B::input(&self.gamma)),
                    beta: case.affine.then(|| B::input(&self.beta)),
                    statistics: match statistics {
                        StatisticsKind::Batch => Statistics::Batch {
                            mean: B::input(&self.saved_mean),
                            inv_std: B::input(&self.saved_inv_std),
                        },
                        StatisticsKind::Running => Statistics::Running {
                            mean: B::input(&self.running_mean),
                            var: B::input(&self.running_var),
                            eps: case.group.input.eps(),
                        },
                    },
                    relu_mask: case.epilogue.keeps_mask().then(|| B::input(&self.mask)),
                    gradients: Gradients {
                        dx: Some(B::view_output(&mut dx_view)),
                        dgamma: Some(B::output(&mut dgamma)),
                        dbeta: Some(B::output(&mut dbeta)),
                    },
                },
            )?;
        }
        let mut outputs = Outputs::from([
            ("dx", values(backend, &dx)?.split_off(start)),
            ("dgamma", values(backend, &dgamma)?),
            ("dbeta", values(backend, &dbeta)?),
        ]);
        if case.epilogue.residual().is_some() {
            outputs.insert("dz", values(backend, &dz)?.split_off(start));
        }
        Ok(outputs)
    }
}

/// These values from the element `start` of a buffer on.
fn behind<B: Backend, T: Element>(backend: &B, start: usize, values: &[T]) -> Result<B::Buf<T>> {
    backend.upload(&[&vec![T::default(); start][..], values].concat())
}

fn values<B: Backend, T: Element + Stored>(backend: &B, buf: &B::Buf<T>) -> Result<Vec<f64>> {
    Ok(backend.download(buf)?.into_iter().map(|value| value.to_f64()).collect())
}

//! Runs a case on a backend.

use std::collections::BTreeMap;

use super::{Case, Failure, Inputs};
use crate::backend::{Backend, Compute};
use crate::element::Element;
use crate::error::Result;
use crate::offset::Offset;
use crate::op::{Backward, Gradients, Infer, Moments, Op, Problem, Statistics, StatisticsKind, Train, Update};
use crate::shape::{Shape, relu_mask_len};

/// The tensors that an operation wrote and no others, as f64 by name, in the order of memory. The mask is not among them: a backward
/// pass reads it.
pub type Outputs = BTreeMap<&'static str, Vec<f64>>;

/// [`Outputs`], with data as the operation wrote it.
pub(super) struct Written<T> {
    pub(super) data: Vec<(&'static str, Vec<T>)>,
    pub(super) channels: Outputs,
}

/// The data on a backend that the cases of a group read, and write nothing into.
pub(super) struct Data<B: Backend, T: Element> {
    /// Elements before those that the operations use.
    start: usize,
    x: B::Buf<T>,
    z: B::Buf<T>,
}

impl<B: Backend, T: Element> Data<B, T> {
    pub(super) fn new(backend: &B, inputs: &Inputs<T>, start: usize) -> Result<Self> {
        Ok(Self { start, x: behind(backend, start, &inputs.x)?, z: behind(backend, start, &inputs.z)? })
    }

    /// The values of a data tensor.
    fn values(&self, backend: &B, buf: B::Buf<T>) -> Result<Vec<T>> {
        let mut values = backend.download_buf(buf)?;
        values.drain(..self.start);
        Ok(values)
    }
}

/// The buffers of a case.
struct Buffers<'a, B: Backend, T: Element> {
    data: &'a Data<B, T>,
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

/// Runs a case through the functions over a caller's buffers. `dy` is that of [`Oracle::dy_of`](super::oracle::Oracle::dy_of).
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
    let Written { data, mut channels } = run_on(backend, case, inputs, &Data::new(backend, inputs, start)?, dy)?;
    channels.extend(data.into_iter().map(|(name, values)| (name, widen(&values))));
    Ok(channels)
}

/// [`run`] over data that is on the backend already.
pub(super) fn run_on<B: Compute<T> + Offset, T: Element>(
    backend: &B,
    case: &Case,
    inputs: &Inputs<T>,
    data: &Data<B, T>,
    dy: &[T],
) -> core::result::Result<Written<T>, Failure> {
    let shape = case.group.shape;
    let problem = |op, epilogue| Problem::new(op, shape, T::DTYPE, epilogue, case.group.input.eps(), None);
    let problems = [problem(case.op, case.epilogue)?, problem(Op::Train, case.epilogue)?];
    let workspace = &mut backend.workspace(&problems)?;
    let mut buffers = Buffers::new(backend, case, inputs, data)?;
    match case.op {
        Op::Moments => Ok(buffers.moments(backend, workspace, shape)?),
        Op::Train => {
            buffers.train(backend, workspace, case)?;
            Ok(buffers.train_outputs(backend, case)?)
        }
        Op::Infer => {
            buffers.infer(backend, case)?;
            Ok(Written { data: vec![("y", data.values(backend, buffers.y)?)], channels: Outputs::new() })
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

impl<'a, B: Compute<T> + Offset, T: Element> Buffers<'a, B, T> {
    fn new(backend: &B, case: &Case, inputs: &Inputs<T>, data: &'a Data<B, T>) -> Result<Self> {
        let shape = case.group.shape;
        let channels = || backend.zeros(shape.c());
        Ok(Self {
            data,
            gamma: backend.upload(&inputs.gamma)?,
            beta: backend.upload(&inputs.beta)?,
            running_mean: backend.upload(&inputs.running_mean)?,
            running_var: backend.upload(&inputs.running_var)?,
            count: backend.upload(&[inputs.num_batches_tracked])?,
            y: backend.zeros(data.start + shape.len())?,
            saved_mean: channels()?,
            saved_inv_std: channels()?,
            mask: backend.zeros(relu_mask_len(shape))?,
        })
    }

    fn moments(&self, backend: &B, workspace: &mut B::Workspace, shape: Shape) -> Result<Written<T>> {
        let (mut mean, mut var) = (backend.duplicate(&self.saved_mean)?, backend.duplicate(&self.saved_mean)?);
        let x = B::slice(&self.data.x, self.data.start);
        backend.run_in(
            workspace,
            Moments { shape, x: B::view_input(&x), mean: B::output(&mut mean), var: B::output(&mut var) },
        )?;
        let [mean, var] = [backend.download_buf(mean)?, backend.download_buf(var)?];
        let channels = Outputs::from([("mean", widen(&mean)), ("var", widen(&var))]);
        Ok(Written { data: Vec::new(), channels })
    }

    fn train(&mut self, backend: &B, workspace: &mut B::Workspace, case: &Case) -> Result<()> {
        let (x, z) = (B::slice(&self.data.x, self.data.start), B::slice(&self.data.z, self.data.start));
        let mut y = B::slice_mut(&mut self.y, self.data.start);
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
        let (x, z) = (B::slice(&self.data.x, self.data.start), B::slice(&self.data.z, self.data.start));
        let mut y = B::slice_mut(&mut self.y, self.data.start);
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

    fn train_outputs(self, backend: &B, case: &Case) -> Result<Written<T>> {
        let data = vec![("y", self.data.values(backend, self.y)?)];
        let mut channels = Outputs::from([
            ("saved_mean", widen(&backend.download_buf(self.saved_mean)?)),
            ("saved_inv_std", widen(&backend.download_buf(self.saved_inv_std)?)),
        ]);
        if case.tracking.is_some() {
            let count = backend.download(&self.count)?;
            channels.extend([
                ("running_mean", widen(&backend.download_buf(self.running_mean)?)),
                ("running_var", widen(&backend.download_buf(self.running_var)?)),
                ("num_batches_tracked", count.iter().map(|&count| count as f64).collect()),
            ]);
        }
        Ok(Written { data, channels })
    }

    fn backward(
        &self,
        backend: &B,
        workspace: &mut B::Workspace,
        case: &Case,
        statistics: StatisticsKind,
        dy: &[T],
    ) -> Result<Written<T>> {
        let (shape, start) = (case.group.shape, self.data.start);
        let data = |is_written: bool| backend.zeros(start + if is_written { shape.len() } else { 0 });
        let (mut dx, mut dz) = (data(true)?, data(case.epilogue.residual().is_some())?);
        let dy = behind(backend, start, dy)?;
        let (mut dgamma, mut dbeta) = (backend.zeros(shape.c())?, backend.zeros(shape.c())?);
        {
            let (x_view, dy_view) = (B::slice(&self.data.x, start), B::slice(&dy, start));
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
        let mut data = vec![("dx", self.data.values(backend, dx)?)];
        if case.epilogue.residual().is_some() {
            data.push(("dz", self.data.values(backend, dz)?));
        }
        let [dgamma, dbeta] = [backend.download_buf(dgamma)?, backend.download_buf(dbeta)?];
        let channels = Outputs::from([("dgamma", widen(&dgamma)), ("dbeta", widen(&dbeta))]);
        Ok(Written { data, channels })
    }
}

/// These values from the element `start` of a buffer on.
fn behind<B: Backend, T: Element>(backend: &B, start: usize, values: &[T]) -> Result<B::Buf<T>> {
    if start == 0 {
        return backend.upload(values);
    }
    backend.upload_vec([&vec![T::default(); start][..], values].concat())
}

fn widen<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.to_f64()).collect()
}

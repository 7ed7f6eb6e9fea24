//! Runs a case on a backend.

use std::collections::BTreeMap;

use super::{Case, Failure, Group, Inputs};
use crate::args::{BackwardArgs, BackwardFrozenArgs, Gradients, InferArgs, MomentsArgs, RunningArgs, TrainArgs};
use crate::{Backend, Compute, Element, Epilogue, Op, Problem, Result, Stored, relu_mask_len};

/// The tensors that an operation wrote, as f64 by name.
pub type Outputs = BTreeMap<&'static str, Vec<f64>>;

/// Runs a case through the functions over a caller's buffers. `dy` is [`Inputs::dy_of`] the case.
///
/// A backward pass is preceded by its forward pass on the same backend, as in training. Every data tensor begins `start`
/// elements behind the start of its memory, which decides its alignment.
///
/// # Errors
/// [`Failure::Refused`] with the error of the operation, [`Failure::Forward`] with that of the forward pass before it.
pub fn run<B: Compute<T>, T: Element>(
    backend: &B,
    case: &Case,
    inputs: &Inputs<T>,
    dy: &[T],
    start: usize,
) -> core::result::Result<Outputs, Failure> {
    let Case { op, group: Group { shape, .. }, .. } = *case;
    let (c, eps) = (shape.c(), case.group.input.eps());
    let is_backward = matches!(op, Op::Backward | Op::BackwardFrozen);
    let of_forward = |error| if is_backward { Failure::Forward(error) } else { Failure::Refused(error) };
    let behind = |values: &[T]| backend.upload(&[&vec![T::default(); start][..], values].concat());
    let data = || behind(&vec![T::default(); shape.len()]);
    let channels = || backend.upload(&vec![T::Param::default(); c]);
    let problem = |op, epilogue| Problem::new(op, shape, T::DTYPE, epilogue, eps, None);
    let workspace = &mut backend.workspace(&[problem(op, case.epilogue)?, problem(Op::Train, case.epilogue)?])?;

    let (x, z) = (&behind(&inputs.x)?, &behind(&inputs.z)?);
    let (x, z) = (&B::slice(x, start), &B::slice(z, start));
    let (gamma, beta) = (&backend.upload(&inputs.gamma)?, &backend.upload(&inputs.beta)?);
    let (mut running_mean, mut running_var) =
        (backend.upload(&inputs.running_mean)?, backend.upload(&inputs.running_var)?);
    let mut count = backend.upload(&[inputs.num_batches_tracked])?;
    let (mut y, mut saved_mean, mut saved_inv_std) = (data()?, channels()?, channels()?);
    let mut mask = backend.upload(&vec![0u32; relu_mask_len(shape)])?;
    let keeps_mask = case.epilogue == Epilogue::AddRelu(());

    let mut outputs = Outputs::new();
    if op == Op::Moments {
        let (mut mean, mut var) = (channels()?, channels()?);
        backend.moments(MomentsArgs::<B, T> {
            shape,
            x: B::view_input(x),
            mean: B::output(&mut mean),
            var: B::output(&mut var),
            workspace,
        })?;
        outputs.insert("mean", values(backend, &mean)?);
        outputs.insert("var", values(backend, &var)?);
        return Ok(outputs);
    }

    let mut y_view = B::slice_mut(&mut y, start);
    if matches!(op, Op::Infer | Op::BackwardFrozen) {
        backend
            .infer(InferArgs::<B, T> {
                shape,
                eps,
                x: B::view_input(x),
                epilogue: case.epilogue.map(|()| B::view_input(z)),
                gamma: case.affine.then(|| B::input(gamma)),
                beta: case.affine.then(|| B::input(beta)),
                running_mean: B::input(&running_mean),
                running_var: B::input(&running_var),
                y: B::view_output(&mut y_view),
                relu_mask: keeps_mask.then(|| B::output(&mut mask)),
            })
            .map_err(of_forward)?;
    } else {
        let running = case.tracking.map(|tracking| RunningArgs {
            tracking,
            mean: B::output(&mut running_mean),
            var: B::output(&mut running_var),
            num_batches_tracked: B::output(&mut count),
        });
        backend
            .train(TrainArgs::<B, T> {
                shape,
                eps,
                x: B::view_input(x),
                epilogue: case.epilogue.map(|()| B::view_input(z)),
                gamma: case.affine.then(|| B::input(gamma)),
                beta: case.affine.then(|| B::input(beta)),
                y: B::view_output(&mut y_view),
                saved_mean: B::output(&mut saved_mean),
                saved_inv_std: B::output(&mut saved_inv_std),
                relu_mask: keeps_mask.then(|| B::output(&mut mask)),
                running,
                workspace,
            })
            .map_err(of_forward)?;
    }
    drop(y_view);
    if is_backward {
        // Waits for the forward pass, so that its fault is not taken for the backward one's.
        backend.download(&count).map_err(of_forward)?;
    }
    if matches!(op, Op::Train | Op::Infer) {
        outputs.insert("y", values(backend, &y)?.split_off(start));
        outputs.insert("saved_mean", values(backend, &saved_mean)?);
        outputs.insert("saved_inv_std", values(backend, &saved_inv_std)?);
        outputs.insert("running_mean", values(backend, &running_mean)?);
        outputs.insert("running_var", values(backend, &running_var)?);
        let count = backend.download(&count)?;
        outputs.insert("num_batches_tracked", count.iter().map(|&count| count as f64).collect());
        return Ok(outputs);
    }

    let dy = &behind(dy)?;
    let dy = &B::slice(dy, start);
    let (mut dx_buf, mut dz_buf, mut dgamma, mut dbeta) = (data()?, data()?, channels()?, channels()?);
    let (mut dx, mut dz) = (B::slice_mut(&mut dx_buf, start), B::slice_mut(&mut dz_buf, start));
    let gradients = Gradients {
        dx: B::view_output(&mut dx),
        dgamma: Some(B::output(&mut dgamma)),
        dbeta: Some(B::output(&mut dbeta)),
    };
    let epilogue = case.epilogue.map(|()| B::view_output(&mut dz));
    let relu_mask = keeps_mask.then(|| B::input(&mask));
    let (x, dy) = (B::view_input(x), B::view_input(dy));
    if op == Op::Backward {
        let (saved_mean, saved_inv_std) = (B::input(&saved_mean), B::input(&saved_inv_std));
        backend.backward(BackwardArgs::<B, T> {
            shape,
            x,
            dy,
            epilogue,
            gamma: case.affine.then(|| B::input(gamma)),
            beta: case.affine.then(|| B::input(beta)),
            saved_mean,
            saved_inv_std,
            relu_mask,
            gradients,
            workspace,
        })?;
    } else {
        let (running_mean, running_var) = (B::input(&running_mean), B::input(&running_var));
        backend.backward_frozen(BackwardFrozenArgs::<B, T> {
            shape,
            eps,
            x,
            dy,
            epilogue,
            gamma: case.affine.then(|| B::input(gamma)),
            beta: case.affine.then(|| B::input(beta)),
            running_mean,
            running_var,
            relu_mask,
            gradients,
            workspace,
        })?;
    }
    drop((dx, dz));
    outputs.insert("dx", values(backend, &dx_buf)?.split_off(start));
    outputs.insert("dgamma", values(backend, &dgamma)?);
    outputs.insert("dbeta", values(backend, &dbeta)?);
    outputs.insert("dz", values(backend, &dz_buf)?.split_off(start));
    Ok(outputs)
}

fn values<B: Backend, T: Element + Stored>(backend: &B, buf: &B::Buf<T>) -> Result<Vec<f64>> {
    Ok(backend.download(buf)?.into_iter().map(|value| value.to_f64()).collect())
}

//! The operations, checked: from their tensors to the formulas, and from results in f64 to what is written.

use super::convert::SimdElement;
use super::forward::{self, Written};
use super::sweep::bookkeeping_bytes;
use super::{Cpu, backward, per_channel, threads, tracking};
use crate::element::Element;
use crate::error::Result;
use crate::memory;
use crate::op::{Backward, Epilogue, Infer, Moments, Operation, Train, Update};
use crate::shape::Shape;

pub(super) fn compute<T: SimdElement>(shape: Shape, operation: Operation<'_, Cpu, T>) -> Result<()> {
    if shape.is_empty() {
        return operation.fill_empty(|output, value| {
            output.fill(Element::from_f64(value));
            Ok(())
        });
    }
    match operation {
        Operation::Moments(op) => moments(op),
        Operation::Train(op) => train(op),
        Operation::Infer(op) => infer(op),
        Operation::Backward(op) => backward(op),
    }
}

fn moments<T: SimdElement>(Moments { shape, x, mean, var }: Moments<'_, Cpu, T>) -> Result<()> {
    let blocks = on_threads(shape, || forward::moments(shape, x))?;
    per_channel::write(blocks.iter().map(|moments| &moments.mean[..]), mean);
    per_channel::write(blocks.iter().map(|moments| &moments.var[..]), var);
    Ok(())
}

fn train<T: SimdElement>(op: Train<'_, Cpu, T>) -> Result<()> {
    let Train { shape, eps, x, epilogue, gamma, beta, y, saved_mean, saved_inv_std, relu_mask, running } = op;
    let blocks =
        on_threads(shape, || forward::train(shape, eps, x, [gamma, beta], epilogue, &Written::new(y, relu_mask)))?;
    per_channel::write(blocks.iter().map(|(moments, _)| &moments.mean[..]), saved_mean);
    per_channel::write(blocks.iter().map(|(_, inv_std)| &inv_std[..]), saved_inv_std);
    if let Some(Update { tracking, mean, var, num_batches_tracked }) = running {
        let batch = blocks.iter().map(|(moments, _)| [&moments.mean, &moments.var].map(Vec::as_slice));
        tracking::update(tracking.coefficients(shape.m()), batch, mean, var, &mut num_batches_tracked[0]);
    }
    Ok(())
}

fn infer<T: SimdElement>(op: Infer<'_, Cpu, T>) -> Result<()> {
    let Infer { shape, eps, x, epilogue, gamma, beta, running_mean, running_var, y, relu_mask } = op;
    let (affine, running) = ([gamma, beta], [running_mean, running_var]);
    on_threads(shape, || {
        forward::infer(shape, eps, x, affine, running, epilogue, &Written::new(y, relu_mask));
    })
}

fn backward<T: SimdElement>(op: Backward<'_, Cpu, T>) -> Result<()> {
    let Backward { shape, x, dy, epilogue, gamma, beta, statistics, relu_mask, gradients } = op;
    let affine = [gamma, beta];
    // The residual's gradient, where nobody needs it, behind the mask of its relu.
    let mut unneeded = match (&epilogue, relu_mask) {
        (epilogue, Some(_)) if epilogue.residual().is_none() => memory::filled(T::default(), shape.len())?,
        _ => Vec::new(),
    };
    let epilogue = if unneeded.is_empty() { epilogue } else { Epilogue::add_relu(&mut unneeded[..]) };
    on_threads(shape, || backward::gradients(shape, statistics, affine, [x, dy], epilogue, relu_mask, gradients))
}

/// An update of parameters, with the one rounding that a device has too.
pub(super) fn axpy(alpha: f32, x: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = alpha.mul_add(*x, *y));
}

/// Computes on the threads that there are, where there is memory for what that needs in addition to the buffers.
fn on_threads<R: Send>(shape: Shape, work: impl FnOnce() -> R + Send) -> Result<R> {
    // Values whose bookkeeping lies in what the allocator keeps anyway: a look at more takes longer than they do.
    const FEW: usize = 256;
    if shape.len() > FEW {
        memory::expect_room(bookkeeping_bytes(shape))?;
    }
    Ok(threads::run(shape.len(), work))
}

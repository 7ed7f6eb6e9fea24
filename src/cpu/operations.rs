//! The operations: every one reads the facts of its buffers, makes its Problem, and computes.

use super::Cpu;
use super::backward::{self, Statistics};
use super::convert::Lane;
use super::sweep::bookkeeping_bytes;
use super::{forward, threads};
use crate::args::{BackwardArgs, BackwardFrozenArgs, Gradients, InferArgs, MomentsArgs, RunningArgs, TrainArgs};
use crate::problem::{Access, Buffer, Kind};
use crate::{Element, Epilogue, Op, Param, Problem, Result, Shape, memory};

pub(super) fn moments<T: Lane>(args: MomentsArgs<'_, Cpu, T>) -> Result<()> {
    let MomentsArgs { shape, x, mean, var, workspace: () } = args;
    Problem::new(Op::Moments, shape, T::DTYPE, Epilogue::Identity, 0.0, None)?.over(&[
        read("x", Kind::Data, x),
        write("mean", Kind::Channel, mean),
        write("var", Kind::Channel, var),
    ])?;
    if shape.is_empty() {
        mean.fill(T::Param::from_f64(f64::NAN));
        var.fill(T::Param::from_f64(f64::NAN));
        return Ok(());
    }
    let moments = compute(shape, || forward::moments(shape, x))?;
    round(&moments, |moments| moments.mean, mean);
    round(&moments, |moments| moments.var, var);
    Ok(())
}

pub(super) fn train<T: Lane>(args: TrainArgs<'_, Cpu, T>) -> Result<()> {
    let TrainArgs { shape, eps, x, epilogue, gamma, beta, y, saved_mean, saved_inv_std, .. } = args;
    let TrainArgs { relu_mask, running, .. } = args;
    let tracking = running.as_ref().map(|running| running.tracking);
    Problem::new(Op::Train, shape, T::DTYPE, epilogue.kind(), eps, tracking)?.over(&[
        read("x", Kind::Data, x),
        epilogue.residual().and_then(|z| read("z", Kind::Data, z)),
        gamma.and_then(|gamma| read("gamma", Kind::Channel, gamma)),
        beta.and_then(|beta| read("beta", Kind::Channel, beta)),
        write("y", Kind::Data, y),
        write("saved_mean", Kind::Channel, saved_mean),
        write("saved_inv_std", Kind::Channel, saved_inv_std),
        relu_mask.as_deref().and_then(|mask| write("relu_mask", Kind::ReluMask, mask)),
        running.as_ref().and_then(|r| write("running_mean", Kind::Channel, r.mean)),
        running.as_ref().and_then(|r| write("running_var", Kind::Channel, r.var)),
        running.as_ref().and_then(|r| write("num_batches_tracked", Kind::Counter, r.num_batches_tracked)),
    ])?;
    if shape.is_empty() {
        saved_mean.fill(T::Param::default());
        saved_inv_std.fill(T::Param::default());
        return Ok(());
    }
    let batch = compute(shape, || {
        let batch = forward::train(shape, eps, x, [gamma, beta], epilogue, y);
        if let Some(relu_mask) = relu_mask {
            forward::pack_mask(y, relu_mask);
        }
        batch
    })?;
    round(&batch, |(moments, _)| moments.mean, saved_mean);
    round(&batch, |(_, inv_std)| *inv_std, saved_inv_std);
    if let Some(RunningArgs { tracking, mean, var, num_batches_tracked }) = running {
        forward::track(tracking, shape.m(), &batch, mean, var, &mut num_batches_tracked[0]);
    }
    Ok(())
}

pub(super) fn infer<T: Lane>(args: InferArgs<'_, Cpu, T>) -> Result<()> {
    let InferArgs { shape, eps, x, epilogue, gamma, beta, running_mean, running_var, y, relu_mask } = args;
    Problem::new(Op::Infer, shape, T::DTYPE, epilogue.kind(), eps, None)?.over(&[
        read("x", Kind::Data, x),
        epilogue.residual().and_then(|z| read("z", Kind::Data, z)),
        gamma.and_then(|gamma| read("gamma", Kind::Channel, gamma)),
        beta.and_then(|beta| read("beta", Kind::Channel, beta)),
        read("running_mean", Kind::Channel, running_mean),
        read("running_var", Kind::Channel, running_var),
        write("y", Kind::Data, y),
        relu_mask.as_deref().and_then(|mask| write("relu_mask", Kind::ReluMask, mask)),
    ])?;
    if !shape.is_empty() {
        compute(shape, || {
            forward::infer(shape, eps, x, [gamma, beta], [running_mean, running_var], epilogue, y);
            if let Some(relu_mask) = relu_mask {
                forward::pack_mask(y, relu_mask);
            }
        })?;
    }
    Ok(())
}

pub(super) fn backward<T: Lane>(args: BackwardArgs<'_, Cpu, T>) -> Result<()> {
    let BackwardArgs { shape, x, dy, epilogue, gamma, beta, saved_mean, saved_inv_std, .. } = args;
    let BackwardArgs { relu_mask, gradients, .. } = args;
    let [dx, dgamma, dbeta] = written(&gradients);
    Problem::new(Op::Backward, shape, T::DTYPE, epilogue.kind(), 0.0, None)?.over(&[
        read("x", Kind::Data, x),
        read("dy", Kind::Data, dy),
        epilogue.residual().and_then(|dz| write("dz", Kind::Data, dz)),
        gamma.and_then(|gamma| read("gamma", Kind::Channel, gamma)),
        beta.and_then(|beta| read("beta", Kind::Channel, beta)),
        read("saved_mean", Kind::Channel, saved_mean),
        read("saved_inv_std", Kind::Channel, saved_inv_std),
        relu_mask.and_then(|mask| read("relu_mask", Kind::ReluMask, mask)),
        dx,
        dgamma,
        dbeta,
    ])?;
    if shape.is_empty() {
        zero(gradients);
        return Ok(());
    }
    let statistics = Statistics::Batch { saved_mean, saved_inv_std };
    let affine = [gamma, beta];
    compute(shape, || backward::gradients(shape, statistics, affine, [x, dy], epilogue, relu_mask, gradients))
}

pub(super) fn backward_frozen<T: Lane>(args: BackwardFrozenArgs<'_, Cpu, T>) -> Result<()> {
    let BackwardFrozenArgs { shape, eps, x, dy, epilogue, gamma, beta, running_mean, running_var, .. } = args;
    let BackwardFrozenArgs { relu_mask, gradients, .. } = args;
    let [dx, dgamma, dbeta] = written(&gradients);
    Problem::new(Op::BackwardFrozen, shape, T::DTYPE, epilogue.kind(), eps, None)?.over(&[
        read("x", Kind::Data, x),
        read("dy", Kind::Data, dy),
        epilogue.residual().and_then(|dz| write("dz", Kind::Data, dz)),
        gamma.and_then(|gamma| read("gamma", Kind::Channel, gamma)),
        beta.and_then(|beta| read("beta", Kind::Channel, beta)),
        read("running_mean", Kind::Channel, running_mean),
        read("running_var", Kind::Channel, running_var),
        relu_mask.and_then(|mask| read("relu_mask", Kind::ReluMask, mask)),
        dx,
        dgamma,
        dbeta,
    ])?;
    if shape.is_empty() {
        zero(gradients);
        return Ok(());
    }
    let statistics = Statistics::Frozen { running_mean, running_var, eps };
    let affine = [gamma, beta];
    compute(shape, || backward::gradients(shape, statistics, affine, [x, dy], epilogue, relu_mask, gradients))
}

/// Computes on the threads that there are, where there is memory for what that needs beside the buffers.
fn compute<R: Send>(shape: Shape, work: impl FnOnce() -> R + Send) -> Result<R> {
    memory::expect_room(bookkeeping_bytes(shape))?;
    Ok(threads::run(shape.len(), work))
}

fn read<T>(name: &'static str, kind: Kind, slice: &[T]) -> Option<Buffer> {
    let (address, len, bytes) = (slice.as_ptr().addr(), slice.len(), size_of_val(slice));
    Some(Buffer { name, kind, access: Access::Read, address, len, bytes, place: None })
}

fn write<T>(name: &'static str, kind: Kind, slice: &[T]) -> Option<Buffer> {
    read(name, kind, slice).map(|buffer| Buffer { access: Access::Write, ..buffer })
}

/// The facts of the three buffers that both backward passes write.
fn written<T: Element>(gradients: &Gradients<'_, Cpu, T>) -> [Option<Buffer>; 3] {
    [
        write("dx", Kind::Data, gradients.dx),
        gradients.dgamma.as_deref().and_then(|dgamma| write("dgamma", Kind::Channel, dgamma)),
        gradients.dbeta.as_deref().and_then(|dbeta| write("dbeta", Kind::Channel, dbeta)),
    ]
}

fn round<R, P: Param>(of_channels: &[R], value: impl Fn(&R) -> f64, out: &mut [P]) {
    out.iter_mut().zip(of_channels).for_each(|(out, of_channel)| *out = P::from_f64(value(of_channel)));
}

/// The gradients of an empty tensor.
fn zero<T: Element>(gradients: Gradients<'_, Cpu, T>) {
    for out in gradients.dgamma.into_iter().chain(gradients.dbeta) {
        out.fill(T::Param::default());
    }
}

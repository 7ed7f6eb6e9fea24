//! The operations of a layer over buffers of one shape, on any backend, so that what is timed on a device is what is
//! compared with the CPU.

use super::reference::{Outputs, Reference};
use super::{Pass, Row};
use crate::backend::{Backend, Compute};
use crate::cpu::Cpu;
use crate::cpu::threads;
use crate::element::Element;
use crate::error::Result;
use crate::layer::{BatchNorm, Options, Saved, StateDict};
use crate::offset::Offset;
use crate::op::{Epilogue, Gradients, Op};
use crate::shape::Shape;

/// The buffers that one run of an operation reads and writes.
struct Set<B: Backend, T: Element> {
    x: B::Buf<T>,
    dy: B::Buf<T>,
    /// y of the forward passes, dx of the backward ones.
    out: B::Buf<T>,
    /// z of the forward passes, dz of the backward ones.
    residual: B::Buf<T>,
    saved: Saved<B>,
}

/// A layer with its parameters, and buffers that its runs take in turn.
pub struct Work<B: Backend, T: Element> {
    shape: Shape,
    offset: usize,
    layer: BatchNorm<B>,
    sets: Vec<Set<B, T>>,
    next: usize,
    dgamma: B::Buf<f32>,
    dbeta: B::Buf<f32>,
}

impl<B: Compute<T> + Offset, T: Element<Param = f32>> Work<B, T> {
    /// A number of sets of buffers of this shape, which begin `offset` elements beyond an aligned address: values that no
    /// branch and no cache line can be lucky with, the same in every set. [`Work::prepare`] comes before [`Work::run`].
    ///
    /// # Errors
    /// Those of [`BatchNorm::new`], [`Backend::upload`] and [`BatchNorm::train`].
    pub fn new(backend: &B, shape: Shape, offset: usize, sets: usize) -> Result<Self> {
        let channels: Vec<usize> = (0..shape.c()).collect();
        let (x, dy) = inputs(shape.len() + offset);
        Self::over(backend, shape, &channels, offset, sets, [&x, &dy])
    }

    /// The work over these values, with the parameters of these channels.
    pub(super) fn over(
        backend: &B,
        shape: Shape,
        channels: &[usize],
        offset: usize,
        sets: usize,
        [x, dy]: [&[T]; 2],
    ) -> Result<Self> {
        let mut layer = BatchNorm::new(backend.clone(), shape.c(), Options::default())?;
        layer.load_state_dict(&state(channels)?)?;
        layer.reserve::<T>(shape, Epilogue::ADD_RELU)?;
        // The values are uploaded once: the sets are copies on the device.
        let (x, dy) = (backend.upload(x)?, backend.upload(dy)?);
        let set = || {
            Ok(Set {
                x: backend.duplicate(&x)?,
                dy: backend.duplicate(&dy)?,
                out: backend.duplicate(&x)?,
                residual: backend.duplicate(&dy)?,
                saved: layer.saved(shape, Epilogue::ADD_RELU)?,
            })
        };
        let sets = (0..sets.max(1)).map(|_| set()).collect::<Result<Vec<_>>>()?;
        let (dgamma, dbeta) = (backend.zeros(shape.c())?, backend.zeros(shape.c())?);
        Ok(Self { shape, offset, layer, sets, next: 0, dgamma, dbeta })
    }

    /// The bytes of one set of buffers. Two tensors more are needed while the sets are made.
    pub fn set_bytes(row: &Row) -> usize {
        4 * row.bytes() + row.shape.len() / 8
    }

    /// Runs the forward pass that an operation goes with, on every set: a backward pass is that of what was saved last.
    ///
    /// # Errors
    /// Those of [`BatchNorm::train`] and [`BatchNorm::frozen`].
    pub fn prepare(&mut self, operation: Pass) -> Result<()> {
        let (shape, offset) = (self.shape, self.offset);
        for Set { x, out, residual, saved, .. } in &mut self.sets {
            let (x, z, mut y) = (B::slice(x, offset), B::slice(residual, offset), B::slice_mut(out, offset));
            let (x, y) = (B::view_input(&x), B::view_output(&mut y));
            let epilogue = operation.epilogue.map(|()| B::view_input(&z));
            if operation.op.needs_batch_statistics() {
                self.layer.train(shape, x, epilogue, y, saved)?;
            } else {
                self.layer.frozen(shape, x, epilogue, y, saved)?;
            }
        }
        Ok(())
    }

    /// Runs it on the next set, or on a device puts it on the stream.
    ///
    /// # Errors
    /// Those of the layer's operations.
    pub fn run(&mut self, operation: Pass) -> Result<()> {
        let (shape, offset) = (self.shape, self.offset);
        let current = self.next;
        self.next = (current + 1) % self.sets.len();
        let Set { x, dy, out, residual, saved } = &mut self.sets[current];
        let (x, dy, mut out) = (B::slice(x, offset), B::slice(dy, offset), B::slice_mut(out, offset));
        let x = B::view_input(&x);
        match operation.op {
            Op::Backward(_) => {
                let mut dz = B::slice_mut(residual, offset);
                let epilogue = operation.epilogue.map(|()| B::view_output(&mut dz));
                let (dgamma, dbeta) = (Some(B::output(&mut self.dgamma)), Some(B::output(&mut self.dbeta)));
                let gradients = Gradients { dx: Some(B::view_output(&mut out)), dgamma, dbeta };
                self.layer.backward(shape, x, B::view_input(&dy), epilogue, saved, gradients)
            }
            Op::Infer => {
                let z = B::slice(residual, offset);
                let epilogue = operation.epilogue.map(|()| B::view_input(&z));
                self.layer.infer(shape, x, epilogue, B::view_output(&mut out))
            }
            Op::Moments | Op::Train => {
                let z = B::slice(residual, offset);
                let epilogue = operation.epilogue.map(|()| B::view_input(&z));
                self.layer.train(shape, x, epilogue, B::view_output(&mut out), saved)
            }
        }
    }

    /// Holds an operation against the CPU path by a [`Reference`].
    ///
    /// # Errors
    /// In words: which value is wrong, or what failed.
    pub fn check(&mut self, operation: Pass) -> core::result::Result<(), String>
    where
        Cpu: Compute<T>,
    {
        let told = |error: crate::Error| format!("{}: {error}", operation.name());
        let backend = self.layer.backend().clone();
        let set = &mut self.sets[0];
        let (x, dy) = (backend.download(&set.x).map_err(told)?, backend.download(&set.dy).map_err(told)?);
        set.residual = backend.upload(&dy).map_err(told)?; // an earlier run's dz lies there
        self.next = 0;
        let channels: Vec<usize> = (0..self.shape.c()).collect();
        // Earlier runs have moved the running statistics.
        state(&channels).and_then(|state| self.layer.load_state_dict(&state)).map_err(told)?;
        self.prepare(operation).map_err(told)?;
        self.run(operation).map_err(told)?;
        let reference = Reference::new(self.shape, self.offset, operation, [&x, &dy])?;
        reference.compare(&self.outputs(operation).map_err(told)?)
    }

    /// The outputs of the operation in the first set.
    pub(super) fn outputs(&self, operation: Pass) -> Result<Outputs<T>> {
        let (backend, set) = (self.layer.backend(), &self.sets[0]);
        let mut outputs = Outputs { data: vec![backend.download(&set.out)?], channels: Vec::new() };
        if operation.is_backward() {
            outputs.channels = vec![backend.download(&self.dgamma)?, backend.download(&self.dbeta)?];
            if operation.epilogue.residual().is_some() {
                outputs.data.push(backend.download(&set.residual)?);
            }
        } else if operation.op == Op::Train {
            outputs.channels = vec![backend.download(set.saved.mean())?, backend.download(set.saved.inv_std())?];
        }
        Ok(outputs)
    }
}

/// `len` values of x, and of dy, which is z too, in [-1, 1).
pub fn inputs<T: Element>(len: usize) -> (Vec<T>, Vec<T>) {
    (values(len, 0x9E37_79B9_7F4A_7C15), values(len, 0xD1B5_4A32_D192_ED03))
}

/// gamma, beta, running mean and running variance of a channel.
pub fn parameters(channel: usize) -> [f32; 4] {
    let step = (channel % 16) as f32 / 16.0;
    [0.5, -0.5, -0.25, 0.25].map(|from| from + step)
}

/// The state of a layer of these channels.
fn state(channels: &[usize]) -> Result<StateDict<f32>> {
    let all = |which: usize| channels.iter().map(|&channel| parameters(channel)[which]).collect::<Vec<_>>();
    let mut state = StateDict::new(channels.len(), &Options::default())?;
    (state.gamma, state.beta) = (Some(all(0)), Some(all(1)));
    if let Some(running) = &mut state.running {
        (running.mean, running.var) = (all(2), all(3));
    }
    Ok(state)
}

fn values<T: Element>(len: usize, seed: u64) -> Vec<T> {
    let hash = |i: usize| (i as u64 + 1).wrapping_mul(seed) >> 40;
    let value = |i| T::from_f64(hash(i) as f64 / f64::from(1 << 23) - 1.0);
    let task = 1 << 16;
    let values = |i: usize| (i * task..((i + 1) * task).min(len)).map(value).collect::<Vec<T>>();
    threads::run(len, || threads::map(len.div_ceil(task), 1, values)).concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Layout;

    #[test]
    fn the_cpu_agrees_with_itself_channel_by_channel() {
        for (dims, layout) in [(&[3, 7, 5][..], Layout::ChannelsFirst), (&[3, 5, 7], Layout::ChannelsLast)] {
            let shape = Shape::new(dims, layout).unwrap();
            let mut work = Work::<Cpu, f32>::new(&Cpu, shape, 1, 2).unwrap();
            for operation in Pass::ALL {
                work.check(operation).unwrap();
            }
        }
    }
}

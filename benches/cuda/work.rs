//! What is measured: a layer's operations over buffers of one shape, on any backend, so that what is timed on the device
//! is what was held against the CPU.

use batchnorm::{
    Backend, BatchNorm, Compute, Cpu, Cuda, Element, Epilogue, Gradients, Options, Saved, Shape, StateDict,
};
use rayon::prelude::*;

/// An operation of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Operation {
    Train,
    Infer,
    Backward,
    BackwardFrozen,
}

impl Operation {
    pub(crate) const ALL: [Self; 4] = [Self::Train, Self::Infer, Self::Backward, Self::BackwardFrozen];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Infer => "infer",
            Self::Backward => "backward",
            Self::BackwardFrozen => "backward-frozen",
        }
    }

    /// The least that can be moved: each data tensor once. A kernel that reads `x` twice gets no credit for it.
    pub(crate) fn bytes<T>(self, shape: Shape) -> u64 {
        let tensors = match self {
            Self::Train | Self::Infer => 2,             // x, y
            Self::Backward | Self::BackwardFrozen => 3, // x, dy, dx
        };
        (tensors * shape.len() * size_of::<T>()) as u64
    }
}

/// A layer with its parameters, and its buffers.
pub(crate) struct Work<B: Backend, T: Element> {
    shape: Shape,
    layer: BatchNorm<B>,
    saved: Saved<B>,
    x: B::Buf<T>,
    dy: B::Buf<T>,
    /// y of the forward passes, dx of the backward ones.
    out: B::Buf<T>,
    dgamma: B::Buf<f32>,
    dbeta: B::Buf<f32>,
}

impl<B: Compute<T>, T: Element<Param = f32>> Work<B, T> {
    /// Buffers with values, statistics and gradients that mean something: every operation can run first.
    pub(crate) fn new(backend: &B, shape: Shape) -> batchnorm::Result<Self> {
        let ramp = |from: f32| (0..shape.c()).map(|c| from + (c % 16) as f32 / 16.0).collect::<Vec<_>>();
        let mut state = StateDict::new(shape.c(), &Options::default());
        (state.gamma, state.beta) = (Some(ramp(0.5)), Some(ramp(-0.5)));
        if let Some(running) = &mut state.running {
            (running.mean, running.var) = (ramp(-0.25), ramp(0.25));
        }
        let mut layer = BatchNorm::<B>::new(backend.clone(), shape.c(), Options::default())?;
        layer.load_state_dict(&state)?;
        layer.reserve::<T>(shape, Epilogue::Identity)?;
        let mut work = Self {
            shape,
            saved: layer.saved(shape, Epilogue::Identity)?,
            layer,
            x: backend.upload(&values(shape.len(), 0x9E37_79B9_7F4A_7C15))?,
            dy: backend.upload(&values(shape.len(), 0xD1B5_4A32_D192_ED03))?,
            out: backend.upload(&vec![T::default(); shape.len()])?,
            dgamma: backend.upload(&vec![0.0; shape.c()])?,
            dbeta: backend.upload(&vec![0.0; shape.c()])?,
        };
        work.prepare(Operation::Train)?;
        Ok(work)
    }

    /// The forward pass that a backward one goes with: each kind refuses what the other saved.
    pub(crate) fn prepare(&mut self, operation: Operation) -> batchnorm::Result<()> {
        let (x, out) = (B::input(&self.x), B::output(&mut self.out));
        match operation {
            Operation::BackwardFrozen => self.layer.frozen(self.shape, x, Epilogue::Identity, out, &mut self.saved),
            _ => self.layer.train(self.shape, x, Epilogue::Identity, out, &mut self.saved),
        }
    }

    /// Runs it, or on a device puts it on the stream.
    pub(crate) fn run(&mut self, operation: Operation) -> batchnorm::Result<()> {
        let (shape, x, dy, out) = (self.shape, B::input(&self.x), B::input(&self.dy), B::output(&mut self.out));
        if matches!(operation, Operation::Train | Operation::Infer) {
            return match operation {
                Operation::Train => self.layer.train(shape, x, Epilogue::Identity, out, &mut self.saved),
                _ => self.layer.infer(shape, x, Epilogue::Identity, out),
            };
        }
        let (dgamma, dbeta) = (Some(B::output(&mut self.dgamma)), Some(B::output(&mut self.dbeta)));
        let gradients = Gradients::<B, T> { dx: out, dgamma, dbeta };
        match operation {
            Operation::Backward => self.layer.backward(shape, x, dy, Epilogue::Identity, &self.saved, gradients),
            _ => self.layer.backward_frozen(shape, x, dy, Epilogue::Identity, &self.saved, gradients),
        }
    }

    /// What the operation wrote: data, then per-channel values.
    fn outputs(&self) -> batchnorm::Result<(Vec<T>, Vec<f32>)> {
        let backend = self.layer.backend();
        let channels = [self.saved.mean(), self.saved.inv_std(), &self.dgamma, &self.dbeta];
        let channels = channels.into_iter().map(|buf| backend.download(buf)).collect::<batchnorm::Result<Vec<_>>>()?;
        Ok((backend.download(&self.out)?, channels.concat()))
    }
}

/// Values in [-1, 1) that no branch and no cache line can be lucky with.
fn values<T: Element>(len: usize, seed: u64) -> Vec<T> {
    let hash = |i: usize| (i as u64 + 1).wrapping_mul(seed) >> 40;
    (0..len).into_par_iter().map(|i| T::from_f64(hash(i) as f64 / f64::from(1 << 23) - 1.0)).collect()
}

/// Asserts that the device computes what the CPU does, to a few roundings: nothing wrong is ever timed. How much a
/// rounding may be is the business of the table of cases.
pub(crate) fn assert_right<T: Element<Param = f32>>(cuda: &Cuda, shape: Shape, operation: Operation)
where
    Cpu: Compute<T>,
    Cuda: Compute<T>,
{
    let outputs = |result: batchnorm::Result<(Vec<T>, Vec<f32>)>| {
        result.unwrap_or_else(|error| panic!("{} of {shape} {}: {error}", operation.name(), T::DTYPE))
    };
    let (data, channels) = outputs(once::<Cuda, T>(cuda, shape, operation));
    let (wanted_data, wanted_channels) = outputs(once::<Cpu, T>(&Cpu, shape, operation));
    let data = data.iter().zip(&wanted_data).map(|(got, want)| (got.to_f64(), want.to_f64()));
    let channels = channels.iter().zip(&wanted_channels).map(|(got, want)| (f64::from(*got), f64::from(*want)));
    let roundings = 4.0 * T::DTYPE.unit_roundoff();
    let pairs = data.map(|pair| (pair, roundings.max(1e-4))).chain(channels.map(|pair| (pair, 1e-4)));
    for (i, ((got, want), allowed)) in pairs.enumerate() {
        let is_close = (got - want).abs() <= allowed * want.abs().max(1.0); // False for NaN.
        assert!(is_close, "{} of {shape} {}, value {i}: expected {want}, got {got}", operation.name(), T::DTYPE);
    }
}

fn once<B: Compute<T>, T: Element<Param = f32>>(
    backend: &B,
    shape: Shape,
    operation: Operation,
) -> batchnorm::Result<(Vec<T>, Vec<f32>)> {
    let mut work = Work::<B, T>::new(backend, shape)?;
    work.prepare(operation)?;
    work.run(operation)?;
    work.outputs()
}

//! The training step that the tests of the CUDA backend share.

use batchnorm::{
    Backend, BatchNorm, Compute, Cpu, Element, Epilogue, Gradients, Options, Result, Saved, Shape, StateDict,
};

/// A shape with two values of every residue in a row, whose rows are whole vectors.
pub(crate) fn shape() -> Shape {
    Shape::nchw(4, 6, 8, 8).unwrap()
}

/// Values that differ from channel to channel and from place to place.
pub(crate) fn values(shape: Shape, seed: usize) -> Vec<f32> {
    (0..shape.len()).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 16.0 - 3.0).collect()
}

/// A layer's buffers for a step with any epilogue; add-relu uses all of them.
pub(crate) struct Step<B: Backend, T: Element = f32> {
    shape: Shape,
    epilogue: Epilogue<()>,
    pub(crate) x: B::Buf<T>,
    pub(crate) z: B::Buf<T>,
    pub(crate) dy: B::Buf<T>,
    pub(crate) y: B::Buf<T>,
    pub(crate) dx: B::Buf<T>,
    pub(crate) dz: B::Buf<T>,
    pub(crate) dgamma: B::Buf<f32>,
    pub(crate) dbeta: B::Buf<f32>,
    pub(crate) saved: Saved<B>,
}

/// The operations of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Operation {
    Train,
    Infer,
    Frozen,
    /// The backward pass of the forward pass that was saved last.
    Backward,
}

impl Operation {
    /// Each of them in turn, the backward pass behind either of its forward passes.
    pub(crate) const ALL: [Self; 5] = [Self::Train, Self::Backward, Self::Infer, Self::Frozen, Self::Backward];

    /// Whether it leaves something for a backward pass.
    #[cfg(feature = "emulate")]
    pub(crate) fn saves(self) -> bool {
        match self {
            Self::Train | Self::Frozen => true,
            Self::Infer | Self::Backward => false,
        }
    }
}

impl<B: Compute<f32>> Step<B> {
    /// A step of [`shape`], with add-relu.
    pub(crate) fn new(layer: &BatchNorm<B>) -> Result<Self> {
        Self::of(layer, shape(), Epilogue::ADD_RELU)
    }
}

impl<B: Compute<T>, T: Element<Param = f32>> Step<B, T> {
    pub(crate) fn of(layer: &BatchNorm<B>, shape: Shape, epilogue: Epilogue<()>) -> Result<Self> {
        let backend = layer.backend();
        let data = |seed| {
            let rounded = values(shape, seed).into_iter().map(|value| T::from_f64(value.into()));
            backend.upload(&rounded.collect::<Vec<_>>())
        };
        let zeros = || backend.upload(&vec![T::default(); shape.len()]);
        let channels = || backend.upload(&vec![0.0; shape.c()]);
        Ok(Self {
            shape,
            epilogue,
            x: data(1)?,
            z: data(2)?,
            dy: data(3)?,
            y: zeros()?,
            dx: zeros()?,
            dz: zeros()?,
            dgamma: channels()?,
            dbeta: channels()?,
            saved: layer.saved(shape, epilogue)?,
        })
    }

    pub(crate) fn run(&mut self, layer: &mut BatchNorm<B>, operation: Operation) -> Result<()> {
        let (shape, x, z) = (self.shape, B::input(&self.x), self.epilogue.map(|()| B::input(&self.z)));
        match operation {
            Operation::Train => layer.train(shape, x, z, B::output(&mut self.y), &mut self.saved),
            Operation::Infer => layer.infer(shape, x, z, B::output(&mut self.y)),
            Operation::Frozen => layer.frozen(shape, x, z, B::output(&mut self.y), &mut self.saved),
            Operation::Backward => {
                let gradients = Gradients {
                    dx: Some(B::output(&mut self.dx)),
                    dgamma: Some(B::output(&mut self.dgamma)),
                    dbeta: Some(B::output(&mut self.dbeta)),
                };
                let dz = self.epilogue.map(|()| B::output(&mut self.dz));
                layer.backward(shape, x, B::input(&self.dy), dz, &self.saved, gradients)
            }
        }
    }
}

impl<B: Compute<f32>> Step<B> {
    /// The tensors that the operations wrote, one after the other.
    pub(crate) fn outputs(&self, layer: &BatchNorm<B>) -> Result<Vec<f32>> {
        let backend = layer.backend();
        let outputs = [&self.y, &self.dx, &self.dz, &self.dgamma, &self.dbeta, self.saved.mean(), self.saved.inv_std()];
        let parts = outputs.into_iter().map(|output| backend.download(output)).collect::<Result<Vec<_>>>()?;
        Ok(parts.concat())
    }
}

/// A state that no new layer has, of the channels of [`shape`].
pub(crate) fn state() -> StateDict<f32> {
    state_of(shape().c())
}

/// A state that no new layer of `c` channels has.
pub(crate) fn state_of(c: usize) -> StateDict<f32> {
    let mut state = StateDict::new(c, &Options::default()).unwrap();
    let ramp = |from: f32| (0..c).map(|c| from + c as f32 / 8.0).collect::<Vec<_>>();
    (state.gamma, state.beta) = (Some(ramp(0.5)), Some(ramp(-0.25)));
    let running = state.running.as_mut().unwrap();
    (running.mean, running.var, running.num_batches_tracked) = (ramp(-1.0), ramp(0.75), 41);
    state
}

/// A layer of [`state`], with a workspace for [`shape`].
pub(crate) fn layer<B: Backend>(backend: &B) -> Result<BatchNorm<B>> {
    let mut layer = BatchNorm::new(backend.clone(), shape().c(), Options::default())?;
    layer.load_state_dict(&state())?;
    layer.reserve::<f32>(shape(), Epilogue::ADD_RELU)?;
    Ok(layer)
}

/// The outputs of a step on the CPU, and the state after it.
pub(crate) fn reference() -> (Vec<f32>, StateDict<f32>) {
    let mut layer = layer(&Cpu).unwrap();
    let mut step = Step::new(&layer).unwrap();
    step.run(&mut layer, Operation::Train).unwrap();
    step.run(&mut layer, Operation::Backward).unwrap();
    (step.outputs(&layer).unwrap(), layer.state_dict().unwrap())
}

/// Asserts that two lists agree to 1e-4, relative to values beyond 1: derived tolerances are the table's business.
pub(crate) fn assert_close(name: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{name}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= 1e-4 * want.abs().max(1.0), "{name}[{i}]: expected {want}, got {got}");
    }
}

/// Asserts that two states agree by [`assert_close`], and in the count exactly.
pub(crate) fn assert_state(got: &StateDict<f32>, want: &StateDict<f32>) {
    assert_eq!((&got.gamma, &got.beta), (&want.gamma, &want.beta));
    let (got, want) = (got.running.as_ref().unwrap(), want.running.as_ref().unwrap());
    assert_close("running_mean", &got.mean, &want.mean);
    assert_close("running_var", &got.var, &want.var);
    assert_eq!(got.num_batches_tracked, want.num_batches_tracked);
}

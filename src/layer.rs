//! The layer: a batch normalization with its parameters and running statistics, on any backend.

mod keep;

use crate::args::{BackwardArgs, BackwardFrozenArgs, Gradients, InferArgs, RunningArgs, TrainArgs};
use crate::state::{State, StateDict};
use crate::{
    Backend, Compute, Dtype, Element, Epilogue, Error, ForwardPass, Op, Param, Problem, Result, Saved, Shape, Tracking,
};

/// What a layer is built with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// What is added to the variance; finite, at least 0. PyTorch, Flax and ONNX use 1e-5, Keras 1e-3.
    pub eps: f64,
    /// Whether the layer has a scale.
    #[doc(alias = "weight")]
    #[doc(alias = "affine")]
    pub gamma: bool,
    /// Whether the layer has an offset.
    #[doc(alias = "bias")]
    #[doc(alias = "affine")]
    pub beta: bool,
    /// How running statistics follow the batches; `None` for a layer without.
    #[doc(alias = "track_running_stats")]
    pub tracking: Option<Tracking>,
}

impl Default for Options {
    /// PyTorch's: eps 1e-5, scale and offset, tracking with momentum 0.1.
    fn default() -> Self {
        Self { eps: 1e-5, gamma: true, beta: true, tracking: Some(Tracking::default()) }
    }
}

/// A batch normalization of `c` channels on backend `B`, with parameters of type `P`: f32, or f64 for f64 data.
///
/// One layer takes data of any dtype whose [`Element::Param`] is `P`, in either layout, shape by shape.
///
/// ```
/// use batchnorm::{BatchNorm, Cpu, Epilogue, Options, Shape};
///
/// let mut layer = BatchNorm::<_>::new(Cpu, 2, Options::default())?;
/// let shape = Shape::nc(3, 2)?;
/// let x = [1.0f32, 10.0, 2.0, 20.0, 3.0, 30.0];
/// let (mut y, mut saved) = ([0.0; 6], layer.saved(shape, Epilogue::Identity)?);
/// layer.train(shape, &x, Epilogue::Identity, &mut y, &mut saved)?;
/// assert_eq!(saved.mean(), &[2.0, 20.0]);
/// # Ok::<(), batchnorm::Error>(())
/// ```
pub struct BatchNorm<B: Backend, P: Param = f32> {
    backend: B,
    c: usize,
    options: Options,
    state: B::State<P>,
    workspace: B::Workspace,
}

impl<B: Backend, P: Param> BatchNorm<B, P> {
    /// A layer of `c` channels: gamma 1, beta 0, running mean 0, running variance 1, no batch counted.
    ///
    /// # Errors
    /// [`Error::ZeroChannels`], [`Error::Eps`], [`Error::Momentum`]; where the device has no memory left.
    pub fn new(backend: B, c: usize, options: Options) -> Result<Self> {
        // The checks of options are Problem's; two values a channel, because the shape is not the matter here.
        let shape = Shape::nc(2, c)?;
        Problem::new(Op::Train, shape, Dtype::F32, Epilogue::Identity, options.eps, options.tracking)?;
        let state = backend.upload_state(&StateDict::new(c, &options)?)?;
        let workspace = backend.workspace(&[])?;
        Ok(Self { backend, c, options, state, workspace })
    }

    /// The device.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The channels.
    pub fn channels(&self) -> usize {
        self.c
    }

    /// What the layer was built with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Makes ready for data of type `T` and this shape, or any smaller batch of it: allocates what the operations
    /// need beyond the caller's buffers, so that they allocate nothing. Does nothing on the CPU.
    ///
    /// # Errors
    /// Those of [`BatchNorm::train`] that are about the shape; where the device has no memory left.
    pub fn reserve<T: Element<Param = P>>(&mut self, shape: Shape, epilogue: Epilogue<()>) -> Result<()> {
        self.check_channels(shape)?;
        let problem = |op, tracking| Problem::new(op, shape, T::DTYPE, epilogue, self.options.eps, tracking);
        self.workspace = self.backend.workspace(&[
            problem(Op::Train, self.options.tracking)?,
            problem(Op::Backward, None)?,
            problem(Op::BackwardFrozen, None)?,
        ])?;
        Ok(())
    }

    /// Room for what a forward pass of this shape and epilogue leaves for its backward pass.
    ///
    /// # Errors
    /// [`Error::Channels`]; where the device has no memory left.
    pub fn saved(&self, shape: Shape, epilogue: Epilogue<()>) -> Result<Saved<B, P>> {
        self.check_channels(shape)?;
        Saved::new(&self.backend, shape, epilogue)
    }

    /// The forward pass with the batch's statistics, which also move the running ones: [`Compute::train`].
    ///
    /// # Shapes
    /// `x`, `y` and the epilogue's `z` as `shape`; `saved` of the same shape.
    ///
    /// # Errors
    /// [`Error::Channels`], [`Error::SavedShape`], [`Error::Length`], [`Error::Aliasing`],
    /// [`Error::OneValuePerChannel`], and [`Error::Missing`] for add-relu with a `saved` that has no room for its
    /// mask. Nothing has changed then, and `saved` is still of the pass that it was of. After [`Error::Driver`] and
    /// [`Error::Launch`], which may come once the pass has begun, `saved` is of none.
    pub fn train<T: Element<Param = P>>(
        &mut self,
        shape: Shape,
        x: B::In<'_, T>,
        epilogue: Epilogue<B::In<'_, T>>,
        y: B::Out<'_, T>,
        saved: &mut Saved<B, P>,
    ) -> Result<()>
    where
        B: Compute<T>,
    {
        self.check_channels(shape)?;
        saved.check(shape)?;
        let relu_mask = mask_of(saved.relu_mask.as_mut(), &epilogue)?;
        let (pass, before) = (ForwardPass::Train(epilogue.kind()), saved.pass.take());
        let State { gamma, beta, mut running } = B::views_mut(&mut self.state);
        let running = running.as_mut().zip(self.options.tracking).map(|(running, tracking)| RunningArgs {
            tracking,
            mean: B::view_output(&mut running.mean),
            var: B::view_output(&mut running.var),
            num_batches_tracked: B::view_output(&mut running.num_batches_tracked),
        });
        let result = self.backend.train(TrainArgs {
            shape,
            eps: self.options.eps,
            x: B::shorten_input(x),
            epilogue: epilogue.map(B::shorten_input),
            gamma: gamma.as_ref().map(B::view_mut_input),
            beta: beta.as_ref().map(B::view_mut_input),
            y: B::shorten_output(y),
            saved_mean: B::output(&mut saved.mean),
            saved_inv_std: B::output(&mut saved.inv_std),
            relu_mask: relu_mask.map(B::output),
            running,
            workspace: &mut self.workspace,
        });
        saved.end(pass, before, &result);
        result
    }

    /// The forward pass with the running statistics: [`Compute::infer`].
    ///
    /// # Shapes
    /// `x`, `y` and the epilogue's `z` as `shape`.
    ///
    /// # Errors
    /// [`Error::Channels`], [`Error::NotTracking`], [`Error::Length`], [`Error::Aliasing`].
    pub fn infer<T: Element<Param = P>>(
        &self,
        shape: Shape,
        x: B::In<'_, T>,
        epilogue: Epilogue<B::In<'_, T>>,
        y: B::Out<'_, T>,
    ) -> Result<()>
    where
        B: Compute<T>,
    {
        self.infer_with(shape, x, epilogue, y, None)
    }

    /// [`BatchNorm::infer`] for fine-tuning: leaves in `saved` what [`BatchNorm::backward_frozen`] needs. Its mean and
    /// `inv_std` stay as they were.
    ///
    /// # Errors
    /// Those of [`BatchNorm::infer`]; [`Error::SavedShape`]; [`Error::Missing`] for add-relu with a `saved` that has
    /// no room for its mask. What they leave is as [`BatchNorm::train`] says.
    pub fn frozen<T: Element<Param = P>>(
        &self,
        shape: Shape,
        x: B::In<'_, T>,
        epilogue: Epilogue<B::In<'_, T>>,
        y: B::Out<'_, T>,
        saved: &mut Saved<B, P>,
    ) -> Result<()>
    where
        B: Compute<T>,
    {
        saved.check(shape)?;
        let relu_mask = mask_of(saved.relu_mask.as_mut(), &epilogue)?;
        let (pass, before) = (ForwardPass::Frozen(epilogue.kind()), saved.pass.take());
        let result = self.infer_with(shape, x, epilogue, y, relu_mask.map(B::output));
        saved.end(pass, before, &result);
        result
    }

    fn infer_with<T: Element<Param = P>>(
        &self,
        shape: Shape,
        x: B::In<'_, T>,
        epilogue: Epilogue<B::In<'_, T>>,
        y: B::Out<'_, T>,
        relu_mask: Option<B::Out<'_, u32>>,
    ) -> Result<()>
    where
        B: Compute<T>,
    {
        self.check_channels(shape)?;
        let State { gamma, beta, running } = B::views(&self.state);
        let running = running.as_ref().ok_or(Error::NotTracking)?;
        self.backend.infer(InferArgs {
            shape,
            eps: self.options.eps,
            x: B::shorten_input(x),
            epilogue: epilogue.map(B::shorten_input),
            gamma: gamma.as_ref().map(B::view_input),
            beta: beta.as_ref().map(B::view_input),
            running_mean: B::view_input(&running.mean),
            running_var: B::view_input(&running.var),
            y: B::shorten_output(y),
            relu_mask: relu_mask.map(B::shorten_output),
        })
    }

    /// The backward pass of [`BatchNorm::train`]: [`Compute::backward`]. The epilogue is that of the forward pass. (Who
    /// wants no copy of `dy` as `dz` after [`Epilogue::Add`] calls [`Compute::backward`] with [`Epilogue::Identity`].)
    ///
    /// # Shapes
    /// `x`, `dy`, `dx` and the epilogue's `dz` as `shape`; `dgamma`, `dbeta` `[c]`; `saved` of the same shape.
    ///
    /// # Errors
    /// [`Error::Channels`], [`Error::SavedShape`], [`Error::Length`], [`Error::Aliasing`], and [`Error::SavedPass`] for
    /// a `saved` that [`BatchNorm::train`] did not write last, or not with this epilogue.
    pub fn backward<T: Element<Param = P>>(
        &mut self,
        shape: Shape,
        x: B::In<'_, T>,
        dy: B::In<'_, T>,
        epilogue: Epilogue<B::Out<'_, T>>,
        saved: &Saved<B, P>,
        gradients: Gradients<'_, B, T>,
    ) -> Result<()>
    where
        B: Compute<T>,
    {
        self.check_channels(shape)?;
        saved.check(shape)?;
        saved.check_pass(ForwardPass::Train(epilogue.kind()))?;
        let relu_mask = mask_of(saved.relu_mask.as_ref(), &epilogue)?;
        let State { gamma, beta, .. } = B::views(&self.state);
        self.backend.backward(BackwardArgs {
            shape,
            x: B::shorten_input(x),
            dy: B::shorten_input(dy),
            epilogue: epilogue.map(B::shorten_output),
            gamma: gamma.as_ref().map(B::view_input),
            beta: beta.as_ref().map(B::view_input),
            saved_mean: B::input(&saved.mean),
            saved_inv_std: B::input(&saved.inv_std),
            relu_mask: relu_mask.map(B::input),
            gradients: shorten(gradients),
            workspace: &mut self.workspace,
        })
    }

    /// The backward pass of [`BatchNorm::frozen`], the running statistics being those of now:
    /// [`Compute::backward_frozen`].
    ///
    /// # Shapes
    /// As [`BatchNorm::backward`].
    ///
    /// # Errors
    /// Those of [`BatchNorm::backward`], with [`BatchNorm::frozen`] as the forward pass; [`Error::NotTracking`].
    pub fn backward_frozen<T: Element<Param = P>>(
        &mut self,
        shape: Shape,
        x: B::In<'_, T>,
        dy: B::In<'_, T>,
        epilogue: Epilogue<B::Out<'_, T>>,
        saved: &Saved<B, P>,
        gradients: Gradients<'_, B, T>,
    ) -> Result<()>
    where
        B: Compute<T>,
    {
        self.check_channels(shape)?;
        saved.check(shape)?;
        saved.check_pass(ForwardPass::Frozen(epilogue.kind()))?;
        let relu_mask = mask_of(saved.relu_mask.as_ref(), &epilogue)?;
        let State { gamma, beta, running } = B::views(&self.state);
        let running = running.as_ref().ok_or(Error::NotTracking)?;
        self.backend.backward_frozen(BackwardFrozenArgs {
            shape,
            eps: self.options.eps,
            x: B::shorten_input(x),
            dy: B::shorten_input(dy),
            epilogue: epilogue.map(B::shorten_output),
            gamma: gamma.as_ref().map(B::view_input),
            beta: beta.as_ref().map(B::view_input),
            running_mean: B::view_input(&running.mean),
            running_var: B::view_input(&running.var),
            relu_mask: relu_mask.map(B::input),
            gradients: shorten(gradients),
            workspace: &mut self.workspace,
        })
    }

    fn check_channels(&self, shape: Shape) -> Result<()> {
        if shape.c() == self.c { Ok(()) } else { Err(Error::Channels { shape, expected: self.c }) }
    }
}

/// The mask of a `Saved`, for the one epilogue that has one.
fn mask_of<M, Z>(relu_mask: Option<M>, epilogue: &Epilogue<Z>) -> Result<Option<M>> {
    match (epilogue.kind(), relu_mask) {
        (Epilogue::AddRelu(()), None) => {
            let reason = "`saved` was made for another epilogue than add-relu";
            Err(Error::Missing { tensor: "relu_mask", reason })
        }
        (Epilogue::AddRelu(()), mask) => Ok(mask),
        (Epilogue::Identity | Epilogue::Relu | Epilogue::Add(()), _) => Ok(None),
    }
}

fn shorten<'short, 'long: 'short, B: Backend, T: Element>(
    gradients: Gradients<'long, B, T>,
) -> Gradients<'short, B, T> {
    let Gradients { dx, dgamma, dbeta } = gradients;
    Gradients { dx: B::shorten_output(dx), dgamma: dgamma.map(B::shorten_output), dbeta: dbeta.map(B::shorten_output) }
}

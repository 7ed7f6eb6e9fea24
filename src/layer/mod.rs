//! The layer: a batch normalization with its parameters and running statistics, on any backend.

mod fold;
mod options;
mod saved;
mod state;
mod state_dict;

pub use options::Options;
pub use saved::Saved;
pub use state_dict::{Params, State, StateDict};

use core::fmt;

use crate::backend::{Backend, Compute};
use crate::element::{Element, Param};
use crate::error::{Error, Result};
use crate::op::{
    Backward, Epilogue, ForwardPass, Gradients, Infer, Op, Problem, Statistics, StatisticsKind, Train, Update,
};
use crate::shape::{Shape, relu_mask_len};
use saved::{mask_of, run_and_record};

/// A batch normalization of `c` channels on backend `B`, with parameters of type `P`: f32, or f64 for f64 data.
///
/// One layer takes data of any dtype whose [`Element::Param`] is `P`, in either layout, shape by shape.
///
/// ```
/// use batchnorm::{BatchNorm, Cpu, Epilogue, Options, Shape};
///
/// let mut layer = BatchNorm::new(Cpu, 2, Options::new())?;
/// let shape = Shape::nc(3, 2)?;
/// let x = [1.0f32, 10.0, 2.0, 20.0, 3.0, 30.0];
/// let (mut y, mut saved) = ([0.0; 6], layer.saved(shape, Epilogue::IDENTITY)?);
/// layer.train(shape, &x, Epilogue::IDENTITY, &mut y, &mut saved)?;
/// assert_eq!(saved.mean(), &[2.0, 20.0]);
/// # Ok::<(), batchnorm::Error>(())
/// ```
pub struct BatchNorm<B: Backend, P: Param = f32> {
    backend: B,
    c: usize,
    options: Options,
    state: State<B::Buf<P>, B::Buf<i64>>,
    workspace: B::Workspace,
}

impl<B: Backend> BatchNorm<B> {
    /// A layer of `c` channels: gamma 1, beta 0, running mean 0, running variance 1, no batch counted. Its parameters are f32,
    /// for data of f32, f16 and bf16. For data of f64, which the compiler refuses here as a type mismatch (E0271), there is
    /// [`BatchNorm::with_param_type`]; literals of f32 data are written `1.0f32`.
    ///
    /// # Errors
    /// [`Error::ZeroChannels`], [`Error::Eps`], [`Error::Momentum`]; where the device has no memory left.
    pub fn new(backend: B, c: usize, options: Options) -> Result<Self> {
        Self::with_param_type(backend, c, options)
    }
}

impl<B: Backend, P: Param> BatchNorm<B, P> {
    /// [`BatchNorm::new`] with parameters of any type: f64 for f64 data.
    ///
    /// ```
    /// # use batchnorm::{BatchNorm, Cpu, Options};
    /// let layer = BatchNorm::<_, f64>::with_param_type(Cpu, 64, Options::new())?;
    /// # Ok::<(), batchnorm::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`BatchNorm::new`].
    pub fn with_param_type(backend: B, c: usize, options: Options) -> Result<Self> {
        Shape::nc(2, c)?; // which refuses no channels
        Problem::check_options(options.eps, options.tracking)?;
        let state = StateDict::new(c, &options)?;
        let state = state.try_map(|values| backend.upload_vec(values), |count| backend.upload(&[count]))?;
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

    /// The options that the layer was built with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Makes ready for data of type `T` and this shape, or any smaller batch of it: allocates what the operations
    /// need beyond the caller's buffers, so that they allocate nothing. Does nothing on the CPU.
    ///
    /// # Errors
    /// Those of [`BatchNorm::train`] that are about the shape or the epilogue; where the device has no memory left.
    pub fn reserve<T: Element<Param = P>>(&mut self, shape: Shape, epilogue: Epilogue<()>) -> Result<()> {
        Op::Train.check_epilogue(epilogue)?;
        self.check_channels(shape)?;
        let problem = |op, tracking| Problem::new(op, shape, T::DTYPE, epilogue, self.options.eps, tracking);
        self.workspace = self.backend.workspace(&[
            problem(Op::Train, self.options.tracking)?,
            problem(Op::Backward(StatisticsKind::Batch), None)?,
            problem(Op::Backward(StatisticsKind::Running), None)?,
        ])?;
        Ok(())
    }

    /// Room for what a forward pass of this shape, or of any smaller batch of it, and this epilogue leaves for its backward pass.
    ///
    /// Of the epilogue it takes the kind, an `Epilogue<()>`; the passes take one with their buffers. What both have in common is
    /// the [`Activation`](crate::Activation), or the kind that [`Epilogue::kind`] gives:
    ///
    /// ```
    /// use batchnorm::{Activation, BatchNorm, Cpu, Epilogue, Options, Shape};
    ///
    /// let (mut layer, shape, x) = (BatchNorm::new(Cpu, 1, Options::new())?, Shape::nc(2, 1)?, [1.0f32, 3.0]);
    /// let mut y = [0.0; 2];
    ///
    /// let activation = Activation::Silu;
    /// let mut saved = layer.saved(shape, Epilogue::new(activation, None))?;
    /// layer.train(shape, &x, Epilogue::new(activation, None), &mut y, &mut saved)?;
    ///
    /// let epilogue = Epilogue::add_relu(&x[..]);
    /// let mut saved = layer.saved(shape, epilogue.kind())?;
    /// layer.train(shape, &x, epilogue, &mut y, &mut saved)?;
    /// # Ok::<(), batchnorm::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Epilogue`], [`Error::Channels`]; where the device has no memory left.
    pub fn saved(&self, shape: Shape, epilogue: Epilogue<()>) -> Result<Saved<B, P>> {
        Op::Train.check_epilogue(epilogue)?;
        self.check_channels(shape)?;
        Saved::new(&self.backend, shape, epilogue)
    }

    /// The forward pass with the batch's statistics, which also move the running ones: [`Train`].
    ///
    /// The parameters of a layer of [`BatchNorm::new`] are f32: f64 data takes `BatchNorm::<_, f64>::with_param_type`.
    /// Literals are f64 where none of the tensors has a type: `[1.0f32, 2.0]` in one of them gives it to all.
    ///
    /// # Shapes
    /// `x`, `y` and the epilogue's `z` as `shape`; `saved` made for it or for a larger batch of it.
    ///
    /// # Errors
    /// [`Error::Epilogue`], [`Error::Channels`], [`Error::SavedShape`], [`Error::Length`], [`Error::Aliasing`],
    /// [`Error::OneValuePerChannel`], and [`Error::Missing`] for add-relu with a `saved` that has no room for its
    /// mask. Nothing has changed then, and `saved` is still of the pass that it was of. After [`Error::Driver`] and
    /// [`Error::Launch`], which may come once the pass has begun, `saved` is of none.
    pub fn train<'a, T: Element<Param = P>>(
        &'a mut self,
        shape: Shape,
        x: B::In<'a, T>,
        epilogue: Epilogue<B::In<'a, T>>,
        y: B::Out<'a, T>,
        saved: &'a mut Saved<B, P>,
    ) -> Result<()>
    where
        B: Compute<T>,
    {
        Op::Train.check_epilogue(epilogue.kind())?;
        self.check_channels(shape)?;
        saved.check(shape)?;
        let Self { backend, options, state: State { gamma, beta, running }, workspace, .. } = self;
        let Saved { mean, inv_std, relu_mask, pass, .. } = saved;
        let mask = mask_of(relu_mask.as_mut(), &epilogue)?;
        let mut mask = mask.map(|mask| B::view_mut(mask, 0..relu_mask_len(shape)));
        let next = ForwardPass { statistics: StatisticsKind::Batch, epilogue: epilogue.kind() };
        let train = Train {
            shape,
            eps: options.eps,
            x: B::shorten_in(x),
            epilogue: epilogue.map(B::shorten_in),
            gamma: gamma.as_ref().map(B::input),
            beta: beta.as_ref().map(B::input),
            y: B::shorten_out(y),
            saved_mean: B::output(mean),
            saved_inv_std: B::output(inv_std),
            relu_mask: mask.as_mut().map(B::view_output),
            running: running.as_mut().zip(options.tracking).map(|(running, tracking)| Update {
                tracking,
                mean: B::output(&mut running.mean),
                var: B::output(&mut running.var),
                num_batches_tracked: B::output(&mut running.num_batches_tracked),
            }),
        };
        run_and_record(pass, (next, shape), || backend.run_in(workspace, train))
    }

    /// The forward pass with the running statistics: [`Infer`].
    ///
    /// # Shapes
    /// `x`, `y` and the epilogue's `z` as `shape`.
    ///
    /// # Errors
    /// [`Error::Epilogue`], [`Error::Channels`], [`Error::NotTracking`], [`Error::Length`], [`Error::Aliasing`].
    pub fn infer<'a, T: Element<Param = P>>(
        &'a self,
        shape: Shape,
        x: B::In<'a, T>,
        epilogue: Epilogue<B::In<'a, T>>,
        y: B::Out<'a, T>,
    ) -> Result<()>
    where
        B: Compute<T>,
    {
        Op::Infer.check_epilogue(epilogue.kind())?;
        self.check_channels(shape)?;
        self.infer_with(shape, x, epilogue, y, None)
    }

    /// [`BatchNorm::infer`] for fine-tuning: leaves in `saved` what [`BatchNorm::backward`] needs. Its mean and `inv_std` stay as
    /// they were.
    ///
    /// # Errors
    /// Those of [`BatchNorm::infer`]; [`Error::SavedShape`]; [`Error::Missing`] for add-relu with a `saved` that has
    /// no room for its mask. What they leave is as [`BatchNorm::train`] says.
    pub fn frozen<'a, T: Element<Param = P>>(
        &'a self,
        shape: Shape,
        x: B::In<'a, T>,
        epilogue: Epilogue<B::In<'a, T>>,
        y: B::Out<'a, T>,
        saved: &'a mut Saved<B, P>,
    ) -> Result<()>
    where
        B: Compute<T>,
    {
        Op::Infer.check_epilogue(epilogue.kind())?;
        self.check_channels(shape)?;
        saved.check(shape)?;
        let Saved { relu_mask, pass, .. } = saved;
        let mask = mask_of(relu_mask.as_mut(), &epilogue)?;
        let mut mask = mask.map(|mask| B::view_mut(mask, 0..relu_mask_len(shape)));
        let next = ForwardPass { statistics: StatisticsKind::Running, epilogue: epilogue.kind() };
        let (x, epilogue, y) = (B::shorten_in(x), epilogue.map(B::shorten_in), B::shorten_out(y));
        let mask = mask.as_mut().map(B::view_output);
        run_and_record(pass, (next, shape), || self.infer_with(shape, x, epilogue, y, mask))
    }

    fn infer_with<'a, T: Element<Param = P>>(
        &'a self,
        shape: Shape,
        x: B::In<'a, T>,
        epilogue: Epilogue<B::In<'a, T>>,
        y: B::Out<'a, T>,
        relu_mask: Option<B::Out<'a, u32>>,
    ) -> Result<()>
    where
        B: Compute<T>,
    {
        let State { gamma, beta, running } = &self.state;
        let running = running.as_ref().ok_or(Error::NotTracking)?;
        self.backend.run(Infer {
            shape,
            eps: self.options.eps,
            x,
            epilogue,
            gamma: gamma.as_ref().map(B::input),
            beta: beta.as_ref().map(B::input),
            running_mean: B::input(&running.mean),
            running_var: B::input(&running.var),
            y,
            relu_mask,
        })
    }

    /// The backward pass of the forward pass that wrote `saved`: [`Backward`], through the batch's statistics of
    /// [`BatchNorm::train`], or through the running ones of now after [`BatchNorm::frozen`]. The epilogue is that of the forward
    /// pass. (Who wants no copy of `dy` as `dz` after [`Epilogue::add`] runs [`Backward`] with [`Epilogue::IDENTITY`].)
    ///
    /// # Shapes
    /// `x`, `dy`, `dx` and the epilogue's `dz` as `shape`, which is that of the forward pass; `dgamma`, `dbeta` `[c]`.
    ///
    /// # Errors
    /// [`Error::Epilogue`], [`Error::Channels`], [`Error::SavedShape`], [`Error::SavedBatch`], [`Error::Length`],
    /// [`Error::Aliasing`], [`Error::NotTracking`], and [`Error::SavedPass`] for a `saved` that no forward pass of this
    /// epilogue wrote last.
    pub fn backward<'a, T: Element<Param = P>>(
        &'a mut self,
        shape: Shape,
        x: B::In<'a, T>,
        dy: B::In<'a, T>,
        epilogue: Epilogue<B::Out<'a, T>>,
        saved: &'a Saved<B, P>,
        gradients: Gradients<'a, B, T>,
    ) -> Result<()>
    where
        B: Compute<T>,
    {
        Op::Backward(StatisticsKind::Batch).check_epilogue(epilogue.kind())?;
        self.check_channels(shape)?;
        let pass = saved.pass_of(shape, epilogue.kind())?;
        let mask = mask_of(saved.relu_mask.as_ref(), &epilogue)?.map(|mask| B::view(mask, 0..relu_mask_len(shape)));
        let Self { backend, options, state: State { gamma, beta, running }, workspace, .. } = self;
        let statistics = match pass.statistics {
            StatisticsKind::Batch => {
                Statistics::Batch { mean: B::input(&saved.mean), inv_std: B::input(&saved.inv_std) }
            }
            StatisticsKind::Running => {
                let running = running.as_ref().ok_or(Error::NotTracking)?;
                Statistics::Running { mean: B::input(&running.mean), var: B::input(&running.var), eps: options.eps }
            }
        };
        let Gradients { dx, dgamma, dbeta } = gradients;
        let backward = Backward {
            shape,
            x: B::shorten_in(x),
            dy: B::shorten_in(dy),
            epilogue: epilogue.map(B::shorten_out),
            gamma: gamma.as_ref().map(B::input),
            beta: beta.as_ref().map(B::input),
            statistics,
            relu_mask: mask.as_ref().map(B::view_input),
            gradients: Gradients {
                dx: B::shorten_out(dx),
                dgamma: dgamma.map(B::shorten_out),
                dbeta: dbeta.map(B::shorten_out),
            },
        };
        backend.run_in(workspace, backward)
    }

    fn check_channels(&self, shape: Shape) -> Result<()> {
        if shape.c() == self.c { Ok(()) } else { Err(Error::Channels { shape, expected: self.c }) }
    }
}

/// Channels, dtype of the parameters, and options: nothing of what is on a device.
impl<B: Backend, P: Param> fmt::Debug for BatchNorm<B, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchNorm")
            .field("channels", &self.c)
            .field("param_type", &P::DTYPE)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

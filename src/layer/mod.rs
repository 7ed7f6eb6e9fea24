//! The layer: a batch normalization with its parameters and running statistics, on any backend.

mod fold;
mod options;
mod passes;
mod saved;
mod state;
mod state_dict;

pub use options::Options;
pub use saved::Saved;
pub use state_dict::{Params, State, StateDict};

use core::fmt;

use crate::backend::Backend;
use crate::element::{Element, Param};
use crate::error::{Error, Result};
use crate::op::{Epilogue, Op, Problem, StatisticsKind};
use crate::shape::Shape;

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

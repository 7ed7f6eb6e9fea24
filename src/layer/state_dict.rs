//! A layer's state: on the host, on a backend, and in safetensors files under PyTorch's names.

use super::Options;
use crate::element::Param;
use crate::error::{Error, Result};
use crate::memory;
use crate::op::Running;
use crate::tensors::{TensorFile, Tensors};

/// The state of a layer: per-channel vectors `V` and a counter `N`, each where the layer has it. A field more is a
/// breaking change.
#[derive(Clone, Debug, PartialEq)]
pub struct State<V, N> {
    /// The scale of each channel; `weight` in files.
    #[doc(alias = "weight")]
    pub gamma: Option<V>,
    /// The offset of each channel; `bias` in files.
    #[doc(alias = "bias")]
    pub beta: Option<V>,
    /// The running statistics; `running_mean`, `running_var` and `num_batches_tracked` in files.
    pub running: Option<Running<V, N>>,
}

impl<V, N> State<V, N> {
    pub(super) fn as_ref(&self) -> State<&V, &N> {
        State {
            gamma: self.gamma.as_ref(),
            beta: self.beta.as_ref(),
            running: self.running.as_ref().map(|running| Running {
                mean: &running.mean,
                var: &running.var,
                num_batches_tracked: &running.num_batches_tracked,
            }),
        }
    }

    /// The same state elsewhere, up to the first error.
    pub(super) fn try_map<W, M>(
        self,
        vector: impl Fn(V) -> Result<W>,
        count: impl FnOnce(N) -> Result<M>,
    ) -> Result<State<W, M>> {
        let running = self.running.map(|Running { mean, var, num_batches_tracked }| {
            let (mean, var) = (vector(mean)?, vector(var)?);
            Ok(Running { mean, var, num_batches_tracked: count(num_batches_tracked)? })
        });
        Ok(State {
            gamma: self.gamma.map(&vector).transpose()?,
            beta: self.beta.map(&vector).transpose()?,
            running: running.transpose()?,
        })
    }
}

/// The parameters of a layer, one vector `V` of a value a channel each, where the layer has it.
///
/// ```
/// use batchnorm::{BatchNorm, Cpu, Options, Params};
///
/// let mut layer = BatchNorm::new(Cpu, 2, Options::new())?;
/// let (dgamma, dbeta, rate) = ([0.5, 1.0], [2.0, 0.0], 0.1);
/// let Params { gamma, beta } = layer.params_mut();
/// for (values, gradient) in [(gamma, dgamma), (beta, dbeta)] {
///     values.into_iter().flatten().zip(gradient).for_each(|(value, gradient)| *value -= rate * gradient);
/// }
/// assert_eq!(layer.gamma(), Some(&vec![0.95, 0.9]));
/// # Ok::<(), batchnorm::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params<V> {
    /// The scale of each channel.
    #[doc(alias = "weight")]
    pub gamma: Option<V>,
    /// The offset of each channel.
    #[doc(alias = "bias")]
    pub beta: Option<V>,
}

/// A layer's state on the host.
pub type StateDict<P> = State<Vec<P>, i64>;

impl<P: Param> StateDict<P> {
    /// The state of a new layer of `c` channels: gamma 1, beta 0, running mean 0, running variance 1.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(c: usize, options: &Options) -> Result<Self> {
        let filled = |value: f64| memory::filled(P::from_f64(value), c);
        Ok(Self {
            gamma: options.gamma.then(|| filled(1.0)).transpose()?,
            beta: options.beta.then(|| filled(0.0)).transpose()?,
            running: options.tracking.map(|_| Running::<Vec<P>, i64>::new(c)).transpose()?,
        })
    }

    /// Whether this is a state of a layer of `c` channels with these options.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Unexpected`], [`Error::Length`], [`Error::NegativeCount`].
    pub fn check(&self, c: usize, options: &Options) -> Result<()> {
        let running = |f: fn(&Running<Vec<P>, i64>) -> &Vec<P>| self.running.as_ref().map(f);
        let tracks = options.tracking.is_some();
        for (tensor, values, wanted) in [
            ("gamma", self.gamma.as_ref(), options.gamma),
            ("beta", self.beta.as_ref(), options.beta),
            ("running_mean", running(|r| &r.mean), tracks),
            ("running_var", running(|r| &r.var), tracks),
        ] {
            match values {
                None if wanted => {
                    return Err(Error::Missing { tensor, reason: "the layer was built with it" });
                }
                Some(_) if !wanted => {
                    return Err(Error::Unexpected { tensor, reason: "the layer was built without it" });
                }
                Some(values) if values.len() != c => {
                    return Err(Error::Length { tensor, expected: c, actual: values.len() });
                }
                _ => {}
            }
        }
        match &self.running {
            Some(Running { num_batches_tracked: actual @ ..0, .. }) => {
                Err(Error::NegativeCount { tensor: "num_batches_tracked".into(), actual: *actual })
            }
            _ => Ok(()),
        }
    }

    /// The state of a layer of `c` channels with these options, out of a file's tensors.
    ///
    /// Names are PyTorch's behind `prefix`, for instance `layer1.0.bn1.`; other prefixes are left alone. Any float
    /// dtype is converted. A file without `num_batches_tracked` counts from 0.
    ///
    /// # Errors
    /// [`Error::TensorMissing`], [`Error::TensorUnexpected`] for one that the layer has no place for,
    /// [`Error::TensorShape`], [`Error::Dtype`], [`Error::NegativeCount`].
    pub fn from_tensors(tensors: &Tensors<'_>, prefix: &str, c: usize, options: &Options) -> Result<Self> {
        let vector = |name: &str, wanted: bool| {
            let name = format!("{prefix}{name}");
            if wanted {
                tensors.channels(&name, c).map(Some)
            } else if tensors.contains(&name) {
                Err(Error::TensorUnexpected { tensor: name })
            } else {
                Ok(None)
            }
        };
        let tracks = options.tracking.is_some();
        let (gamma, beta) = (vector("weight", options.gamma)?, vector("bias", options.beta)?);
        let (mean, var) = (vector("running_mean", tracks)?, vector("running_var", tracks)?);
        let counter = format!("{prefix}num_batches_tracked");
        let num_batches_tracked = match tensors.contains(&counter) {
            true if tracks => tensors.count(&counter)?,
            true => return Err(Error::TensorUnexpected { tensor: counter }),
            false => 0,
        };
        let running = mean.zip(var).map(|(mean, var)| Running { mean, var, num_batches_tracked });
        Ok(Self { gamma, beta, running })
    }

    /// Adds this state to a file under PyTorch's names behind `prefix`.
    ///
    /// # Errors
    /// [`Error::TensorRepeated`] where the file has one of these names, as of another layer with this prefix. Nothing is
    /// added then.
    pub fn to_tensors(&self, file: &mut TensorFile, prefix: &str) -> Result<()> {
        let mut own = TensorFile::default();
        let mut push = |name: &str, values: &Vec<P>| own.push(format!("{prefix}{name}"), &[values.len()], values);
        if let Some(gamma) = &self.gamma {
            push("weight", gamma)?;
        }
        if let Some(beta) = &self.beta {
            push("bias", beta)?;
        }
        if let Some(Running { mean, var, num_batches_tracked }) = &self.running {
            push("running_mean", mean)?;
            push("running_var", var)?;
            own.push_count(format!("{prefix}num_batches_tracked"), *num_batches_tracked)?;
        }
        file.append(own)
    }
}

//! A layer's parameters and running statistics: on its device, on the host, in files.

use std::path::Path;

use super::{BatchNorm, Params, StateDict};
use crate::backend::Backend;
use crate::element::Param;
use crate::error::Result;
use crate::op::Running;
use crate::tensors::{TensorFile, Tensors, read};

/// Running statistics in buffers of a backend.
type BackendRunning<B, P> = Running<<B as Backend>::Buf<P>, <B as Backend>::Buf<i64>>;

impl<B: Backend, P: Param> BatchNorm<B, P> {
    /// The scale of each channel, where the layer has one.
    #[doc(alias = "weight")]
    pub fn gamma(&self) -> Option<&B::Buf<P>> {
        self.state.gamma.as_ref()
    }

    /// The scale of each channel, for an optimizer to write.
    pub fn gamma_mut(&mut self) -> Option<&mut B::Buf<P>> {
        self.state.gamma.as_mut()
    }

    /// The offset of each channel, where the layer has one.
    #[doc(alias = "bias")]
    pub fn beta(&self) -> Option<&B::Buf<P>> {
        self.state.beta.as_ref()
    }

    /// The offset of each channel, for an optimizer to write.
    pub fn beta_mut(&mut self) -> Option<&mut B::Buf<P>> {
        self.state.beta.as_mut()
    }

    /// Scale and offset at once, for an optimizer to write: see [`Params`].
    pub fn params_mut(&mut self) -> Params<&mut B::Buf<P>> {
        Params { gamma: self.state.gamma.as_mut(), beta: self.state.beta.as_mut() }
    }

    /// The running statistics, where the layer tracks them.
    pub fn running(&self) -> Option<&BackendRunning<B, P>> {
        self.state.running.as_ref()
    }

    /// A copy of the state on the host. Waits for the work that writes it.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) where an optimizer has put a buffer of another length into a parameter's place;
    /// where the device fails.
    pub fn state_dict(&self) -> Result<StateDict<P>> {
        let count = |buf| Ok(self.backend.download(buf)?.first().copied().unwrap_or_default());
        let state = self.state.as_ref().try_map(|buf| self.backend.download(buf), count)?;
        state.check(self.c, &self.options)?;
        Ok(state)
    }

    /// Replaces the whole state.
    ///
    /// # Errors
    /// Those of [`StateDict::check`]; where the device fails. The state is as it was then.
    pub fn load_state_dict(&mut self, state: &StateDict<P>) -> Result<()> {
        state.check(self.c, &self.options)?;
        let count = |count: &i64| self.backend.upload(&[*count]);
        self.state = state.as_ref().try_map(|values| self.backend.upload(values), count)?;
        Ok(())
    }

    /// Writes the state to a safetensors file, whole or not at all, under PyTorch's names (`weight`, `bias`,
    /// `running_mean`, `running_var`, `num_batches_tracked`) behind `prefix`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) and those of [`BatchNorm::state_dict`]. No file is written then.
    pub fn save(&self, path: impl AsRef<Path>, prefix: &str) -> Result<()> {
        let mut file = TensorFile::default();
        self.state_dict()?.to_tensors(&mut file, prefix)?;
        file.write(path)
    }

    /// Replaces the state by that of a safetensors file: [`StateDict::from_tensors`].
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), [`Error::Format`](crate::Error::Format) and those of
    /// [`StateDict::from_tensors`]. The state is as it was then.
    pub fn load(&mut self, path: impl AsRef<Path>, prefix: &str) -> Result<()> {
        let bytes = read(path)?;
        let tensors = Tensors::parse(&bytes)?;
        self.load_state_dict(&StateDict::from_tensors(&tensors, prefix, self.c, &self.options)?)
    }

    /// A copy of this layer on its own backend, which on a device does not go over the host. It has no scratch memory yet:
    /// [`BatchNorm::reserve`].
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory); where the device fails.
    pub fn try_clone(&self) -> Result<Self> {
        let Self { backend, c, options, state, .. } = self;
        let state = state.as_ref().try_map(|buf| backend.duplicate(buf), |count| backend.duplicate(count))?;
        let workspace = backend.workspace(&[])?;
        Ok(Self { backend: backend.clone(), c: *c, options: *options, state, workspace })
    }

    /// A copy of this layer on another backend.
    ///
    /// # Errors
    /// Those of [`BatchNorm::state_dict`]; where the other device fails.
    pub fn to<C: Backend>(&self, backend: C) -> Result<BatchNorm<C, P>> {
        let state = self.state_dict()?;
        let state = state.try_map(|values| backend.upload_vec(values), |count| backend.upload(&[count]))?;
        let workspace = backend.workspace(&[])?;
        Ok(BatchNorm { backend, c: self.c, options: self.options, state, workspace })
    }
}

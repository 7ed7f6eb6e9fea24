//! What a layer keeps: its parameters and running statistics, on its device, on the host, in files.

use std::path::Path;

use super::BatchNorm;
use crate::state::StateDict;
use crate::tensors::{TensorFile, Tensors, read};
use crate::{Backend, Param, Result, Running};

impl<B: Backend, P: Param> BatchNorm<B, P> {
    /// The scale of each channel, where the layer has one.
    #[doc(alias = "weight")]
    pub fn gamma(&self) -> Option<B::View<'_, P>> {
        B::views(&self.state).gamma
    }

    /// The scale of each channel, for an optimizer to write.
    pub fn gamma_mut(&mut self) -> Option<B::ViewMut<'_, P>> {
        B::views_mut(&mut self.state).gamma
    }

    /// The offset of each channel, where the layer has one.
    #[doc(alias = "bias")]
    pub fn beta(&self) -> Option<B::View<'_, P>> {
        B::views(&self.state).beta
    }

    /// The offset of each channel, for an optimizer to write.
    pub fn beta_mut(&mut self) -> Option<B::ViewMut<'_, P>> {
        B::views_mut(&mut self.state).beta
    }

    /// The running statistics, where the layer tracks them.
    pub fn running(&self) -> Option<Running<B::View<'_, P>, B::View<'_, i64>>> {
        B::views(&self.state).running
    }

    /// A copy of the state on the host. Waits for the work that writes it.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn state_dict(&self) -> Result<StateDict<P>> {
        self.backend.download_state(&self.state)
    }

    /// Replaces the whole state.
    ///
    /// # Errors
    /// Those of [`StateDict::check`]; where the device fails. The state is as it was then.
    pub fn load_state_dict(&mut self, state: &StateDict<P>) -> Result<()> {
        state.check(self.c, &self.options)?;
        self.state = self.backend.upload_state(state)?;
        Ok(())
    }

    /// Writes the state to a safetensors file, whole or not at all, under PyTorch's names (`weight`, `bias`,
    /// `running_mean`, `running_var`, `num_batches_tracked`) behind `prefix`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io); where the device fails.
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

    /// A copy of this layer on another backend.
    ///
    /// # Errors
    /// Where either device fails.
    pub fn to<C: Backend>(&self, backend: C) -> Result<BatchNorm<C, P>> {
        let state = backend.upload_state(&self.state_dict()?)?;
        let workspace = backend.workspace(&[])?;
        Ok(BatchNorm { backend, c: self.c, options: self.options, state, workspace })
    }
}

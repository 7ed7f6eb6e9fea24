//! The part that every operation of `run` shares: the input's tensors on the device, and room for results.

use batchnorm::op::Problem;
use batchnorm::tensors::{TensorFile, Tensors};
use batchnorm::{Backend, Compute, Element, Epilogue, Layout, Op, Param, Result, Running, Shape, Stored};

use crate::failure::Failure;

/// One operation's input.
pub(crate) struct Job<'a, B: Backend, T: Element> {
    pub(crate) backend: B,
    pub(crate) shape: Shape,
    pub(crate) op: Op,
    pub(crate) epilogue: Epilogue<()>,
    pub(crate) eps: f64,
    /// The data, on the device.
    pub(crate) x: B::Buf<T>,
    /// How many channels of x hold one value again and again.
    pub(crate) constant_channels: usize,
    tensors: &'a Tensors<'a>,
}

/// Running statistics on the device.
pub(crate) type RunningBufs<B, P> = Running<<B as Backend>::Buf<P>, <B as Backend>::Buf<i64>>;

impl<'a, B: Compute<T>, T: Element> Job<'a, B, T> {
    pub(crate) fn new(
        backend: B,
        tensors: &'a Tensors<'a>,
        shape: Shape,
        op: Op,
        epilogue: Epilogue<()>,
        eps: f64,
    ) -> Result<Self> {
        let host = tensors.data::<T>("x", shape.dims())?;
        let constant_channels = constant_channels(shape, &host);
        let x = backend.upload_vec(host)?;
        Ok(Self { backend, shape, op, epilogue, eps, x, constant_channels, tensors })
    }

    /// A tensor that must be like x.
    pub(crate) fn data(&self, name: &str) -> Result<B::Buf<T>> {
        self.backend.upload_vec(self.tensors.data::<T>(name, self.shape.dims())?)
    }

    /// The residual of an epilogue that reads one; else an empty buffer.
    pub(crate) fn residual(&self) -> Result<B::Buf<T>> {
        if self.epilogue.residual().is_some() { self.data("z") } else { self.backend.upload(&[]) }
    }

    /// A tensor of one value a channel.
    pub(crate) fn channels(&self, name: &str) -> Result<B::Buf<T::Param>> {
        self.backend.upload_vec(self.tensors.channels::<T::Param>(name, self.shape.c())?)
    }

    /// A tensor of one value a channel, where the input has it.
    pub(crate) fn optional(&self, name: &str) -> Result<Option<B::Buf<T::Param>>> {
        self.tensors.contains(name).then(|| self.channels(name)).transpose()
    }

    /// The running statistics, where the input has any of them; then it must have both.
    pub(crate) fn running(&self) -> Result<Option<RunningBufs<B, T::Param>>> {
        let has = |name| self.tensors.contains(name);
        if !(has("running_mean") || has("running_var") || has("num_batches_tracked")) {
            return Ok(None);
        }
        let (mean, var) = (self.channels("running_mean")?, self.channels("running_var")?);
        let count = if has("num_batches_tracked") { self.tensors.count("num_batches_tracked")? } else { 0 };
        Ok(Some(Running { mean, var, num_batches_tracked: self.backend.upload(&[count])? }))
    }

    /// Room for `len` values. A file of a few bytes can name a shape of many channels without a value.
    pub(crate) fn room<V: Stored>(&self, len: usize) -> Result<B::Buf<V>, Failure> {
        let shape = self.shape;
        self.backend.zeros(len).map_err(|error| Failure::new(format!("results for x of {shape}: {error}")))
    }

    /// Room for a tensor like x.
    pub(crate) fn data_room(&self) -> Result<B::Buf<T>, Failure> {
        self.room(self.shape.len())
    }

    /// Room for one value a channel.
    pub(crate) fn channel_room(&self) -> Result<B::Buf<T::Param>, Failure> {
        self.room(self.shape.c())
    }

    /// Scratch memory for these operations on this shape.
    pub(crate) fn workspace(&self, ops: &[Op]) -> Result<B::Workspace> {
        let problem = |&op: &Op| {
            let epilogue = if op.takes_epilogue() { self.epilogue } else { Epilogue::IDENTITY };
            Problem::new(op, self.shape, T::DTYPE, epilogue, self.eps, None)
        };
        self.backend.workspace(&ops.iter().map(problem).collect::<Result<Vec<_>>>()?)
    }

    /// Adds a tensor like x to the output.
    pub(crate) fn push_data(&self, file: &mut TensorFile, name: &str, buf: B::Buf<T>) -> Result<()> {
        file.push_vec(name, self.shape.dims(), self.backend.download_buf(buf)?)
    }

    /// Adds a tensor of one value a channel to the output.
    pub(crate) fn push_channels<P: Param>(&self, file: &mut TensorFile, name: &str, buf: B::Buf<P>) -> Result<()> {
        file.push_vec(name, &[self.shape.c()], self.backend.download_buf(buf)?)
    }
}

/// How many channels hold one value again and again. A computed variance would not tell: it may be a rounding above 0.
fn constant_channels<T: Element>(shape: Shape, x: &[T]) -> usize {
    if shape.is_empty() {
        return 0;
    }
    let stride = match shape.layout() {
        Layout::ChannelsFirst => shape.s(),
        Layout::ChannelsLast => 1,
    };
    let mut constant = vec![true; shape.c()];
    for (run, values) in x.chunks(stride).enumerate() {
        let channel = run % shape.c();
        let first = x[channel * stride].to_f64();
        constant[channel] &= values.iter().all(|value| value.to_f64() == first);
    }
    constant.into_iter().filter(|&constant| constant).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_channels_in_both_layouts() {
        let first = Shape::new(&[2, 3, 2], Layout::ChannelsFirst).unwrap();
        let x = [1.0, 1.0, 5.0, 6.0, f64::NAN, f64::NAN, 1.0, 1.0, 5.0, 5.0, 0.0, 0.0];
        assert_eq!(constant_channels(first, &x), 1);
        let last = Shape::new(&[2, 2, 3], Layout::ChannelsLast).unwrap();
        assert_eq!(constant_channels(last, &[1.0, 2.0, 3.0, 1.0, 2.0, 4.0, 1.0, 2.0, 5.0, 1.0, 2.0, 6.0]), 2);
        assert_eq!(constant_channels(Shape::nc(0, 3).unwrap(), &[] as &[f32]), 0);
    }
}

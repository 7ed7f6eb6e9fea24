//! The tensors of a call as the kernels read them: dense, of their types, where the values of their types may lie.

use batchnorm::{Dtype, relu_mask_len};
use smallvec::SmallVec;

use super::statistics::{Saved, Updated, converted};
use super::tensor::{Code, Place, Tensor};
use crate::dispatch::{At, Target, shape};
use crate::error::Refusal;

/// One value for each dimension, of most tensors without memory of their own.
type Axes<T> = SmallVec<[T; 6]>;

/// The data tensors of a call, which all are like x.
pub(super) struct Data {
    pub(super) at: At,
    pub(super) place: Place,
    dtype: Dtype,
    sizes: Axes<i64>,
    /// The strides of results: channels-last where x's are in that order, as torch's own batch norm has it.
    strides: Axes<i64>,
    /// The dimensions from the outermost in memory to the innermost.
    order: Axes<usize>,
}

impl Data {
    /// That of a call with this x: in the order that the bits of a mask are in, if that is said, or in x's own.
    pub(super) fn in_order(x: &Tensor, is_channels_last: Option<bool>) -> Result<Self, Refusal> {
        if is_channels_last == Some(true) && !matches!(x.dims(), 4 | 5) {
            let text =
                format!("expected a mask in the order of channels_last with 4 or 5 dimensions, got {}", x.dims());
            return Err(Refusal::runtime(text));
        }
        let place = x.place();
        if !x.is_strided() || x.dims() < 2 {
            return Err(Refusal::runtime(format!("expected at least 2D input (got {}D input)", x.dims())));
        }
        let Some(dtype) = x.code().dtype() else {
            return Err(Refusal::runtime("batch_norm is not implemented for the dtype of input".into()));
        };
        let sizes = Axes::from_slice(x.sizes());
        let is_last = is_channels_last.unwrap_or_else(|| is_in_channels_last(x));
        let order = order(sizes.len(), is_last);
        let mut strides = Axes::from_elem(1, sizes.len());
        let mut stride = 1;
        for &axis in order.iter().rev() {
            strides[axis] = stride;
            stride *= sizes[axis].max(1);
        }
        let [n, c, s] = [sizes[0], sizes[1], sizes[2..].iter().product()].map(|size| size as usize);
        let at = At { target: target(place)?, dtype, shape: shape((n, c, s), is_last)? };
        Ok(Self { at, place, dtype, sizes, strides, order })
    }

    pub(super) fn len(&self) -> usize {
        self.at.shape.len()
    }

    /// A tensor for results, like x.
    pub(super) fn empty(&self) -> Result<Tensor, Refusal> {
        Tensor::empty(Code::of(self.dtype), self.place, &self.sizes, &self.strides)
    }

    /// A tensor for results of each channel.
    pub(super) fn per_channel(&self) -> Result<Tensor, Refusal> {
        Tensor::vector(Code::of(self.dtype.param()), self.place, self.at.shape.c())
    }

    /// Memory for what a training forward saves.
    pub(super) fn saved(&self) -> Result<Saved, Refusal> {
        Saved::new(self.at.shape.c(), self.dtype.param(), self.place)
    }

    /// The addresses of what a training forward saved, if it was of such data.
    pub(super) fn saved_addresses(&self, saved: &Saved) -> Result<[usize; 2], Refusal> {
        if !saved.is_of(self.at.shape.c(), self.dtype.param()) {
            let dtype = self.dtype.array_name();
            let text = format!("expected statistics of {} channels that go with {dtype}", self.at.shape.c());
            return Err(Refusal::runtime(text));
        }
        self.expect_place("the statistics", saved.tensor())?;
        Ok(saved.addresses())
    }

    /// A tensor for a mask.
    pub(super) fn mask(&self) -> Result<Tensor, Refusal> {
        Tensor::vector(Code::int32(), self.place, relu_mask_len(self.at.shape))
    }

    /// A data tensor in x's order.
    pub(super) fn dense(&self, name: &str, tensor: Tensor) -> Result<Tensor, Refusal> {
        if tensor.sizes() != self.sizes.as_slice() {
            return Err(Refusal::runtime(format!(
                "expected {name} of size {:?}, got {:?}",
                self.sizes,
                tensor.sizes()
            )));
        }
        if tensor.code() != Code::of(self.dtype) {
            return Err(Refusal::runtime(format!("expected {name} in {}", self.dtype.array_name())));
        }
        self.expect_place(name, &tensor)?;
        let align = self.dtype.bytes() as usize;
        if tensor.is_dense(self.order.iter().copied()) && tensor.address().is_multiple_of(align) {
            return Ok(tensor);
        }
        let copy = self.empty()?;
        copy.copy_from(&tensor)?;
        Ok(copy)
    }

    /// A weight or a bias: its gradient has one dimension.
    pub(super) fn affine(&self, name: &str, tensor: Option<Tensor>) -> Result<Option<Tensor>, Refusal> {
        let Some(tensor) = tensor else { return Ok(None) };
        match tensor.dims() {
            1 => self.param(name, tensor).map(Some),
            dims => Err(Refusal::runtime(format!("expected {name} of 1 dimension, got {dims}"))),
        }
    }

    /// Per-channel values that are read.
    pub(super) fn param(&self, name: &str, tensor: Tensor) -> Result<Tensor, Refusal> {
        self.expect_param(name, &tensor)?;
        if self.is_param(&tensor) { Ok(tensor) } else { self.converted(&tensor, Code::of(self.dtype.param())) }
    }

    /// Per-channel values that are updated.
    pub(super) fn updated(&self, name: &str, given: Tensor) -> Result<Updated, Refusal> {
        self.expect_param(name, &given)?;
        if given.strides().iter().zip(given.sizes()).any(|(&stride, &size)| stride == 0 && size > 1) {
            let text =
                format!("unsupported operation: {name} is written, and some elements of it are one memory location");
            return Err(Refusal::runtime(text));
        }
        let copy = (!self.is_param(&given)).then(|| self.converted(&given, Code::of(self.dtype.param())));
        Updated::new(given, copy.transpose()?)
    }

    /// The number of batches as the kernels count it: without one, from 0.
    pub(super) fn counter(&self, given: Option<Tensor>) -> Result<Updated, Refusal> {
        let Some(given) = given else {
            let zero = Tensor::vector(Code::int64(), self.place, 1)?;
            zero.zero()?;
            return Updated::new(zero, None);
        };
        let is_counter = given.place() == self.place && is_count(&given);
        let copy = (!is_counter).then(|| self.converted(&given, Code::int64()));
        Updated::new(given, copy.transpose()?)
    }

    /// A mask that is read.
    pub(super) fn expect_mask(&self, mask: Tensor) -> Result<Tensor, Refusal> {
        self.expect_place("relu_mask", &mask)?;
        let expected = relu_mask_len(self.at.shape);
        if mask.code() == Code::int32() && mask.len() == expected && mask.is_contiguous(align_of::<i32>()) {
            return Ok(mask);
        }
        Err(Refusal::runtime(format!(
            "expected a relu_mask of {expected} numbers in int32, got {} numbers",
            mask.len()
        )))
    }

    fn converted(&self, tensor: &Tensor, code: Code) -> Result<Tensor, Refusal> {
        converted(tensor, code, self.place)
    }

    fn is_param(&self, tensor: &Tensor) -> bool {
        let param = self.dtype.param();
        tensor.code() == Code::of(param) && tensor.is_contiguous(param.bytes() as usize)
    }

    fn expect_param(&self, name: &str, tensor: &Tensor) -> Result<(), Refusal> {
        let (c, len) = (self.at.shape.c(), tensor.len());
        if len != c {
            return Err(Refusal::runtime(format!("{name} should contain {c} elements not {len}")));
        }
        self.expect_place(name, tensor)?;
        if tensor.code().dtype().map(Dtype::param) != Some(self.dtype.param()) {
            let with = self.dtype.array_name();
            return Err(Refusal::runtime(format!("expected {name} to have a dtype that goes with {with}")));
        }
        Ok(())
    }

    pub(super) fn expect_counter(&self, counter: &Tensor) -> Result<(), Refusal> {
        let (name, len) = ("num_batches_tracked", counter.len());
        if len != 1 {
            return Err(Refusal::runtime(format!("{name} should contain 1 element not {len}")));
        }
        if counter.place().is_cpu() && counter.is_strided() {
            expect_memory(name, counter)
        } else {
            self.expect_place(name, counter)
        }
    }

    fn expect_place(&self, name: &str, tensor: &Tensor) -> Result<(), Refusal> {
        if tensor.place() == self.place && tensor.is_strided() {
            return expect_memory(name, tensor);
        }
        Err(Refusal::runtime(format!("Expected all tensors to be on the same device, but {name} is not on input's")))
    }
}

fn expect_memory(name: &str, tensor: &Tensor) -> Result<(), Refusal> {
    if tensor.has_memory() {
        return Ok(());
    }
    let text = format!("The tensor has a non-zero number of elements, but its data is not allocated yet: {name}");
    Err(Refusal::runtime(text))
}

/// Whether a number of batches is as the kernels count it.
fn is_count(tensor: &Tensor) -> bool {
    tensor.code() == Code::int64() && tensor.address().is_multiple_of(align_of::<i64>())
}

/// The dimensions from the outermost in memory to the innermost.
fn order(dims: usize, is_channels_last: bool) -> Axes<usize> {
    if is_channels_last { [0].into_iter().chain(2..dims).chain([1]).collect() } else { (0..dims).collect() }
}

/// Whether the strides of a tensor are in the order of channels-last, as torch decides it.
fn is_in_channels_last(x: &Tensor) -> bool {
    let dims = x.dims();
    if !matches!(dims, 4 | 5) || x.is_dense(0..dims) {
        return false;
    }
    let (sizes, strides) = (x.sizes(), x.strides());
    let mut least = 0;
    for axis in [1].into_iter().chain((2..dims).rev()).chain([0]) {
        if sizes[axis] == 0 || strides[axis] < least || (axis == 0 && least == strides[1]) {
            return false;
        }
        least = strides[axis] * sizes[axis].max(1);
    }
    true
}

/// The device of a tensor, as backends know it.
fn target(place: Place) -> Result<Target, Refusal> {
    #[cfg(feature = "emulate")]
    if let Some(target) = super::stand_in::target() {
        return Ok(target);
    }
    if place.is_cpu() {
        return Ok(Target::Cpu { threads: super::abi::threads() });
    }
    if !place.is_cuda() {
        return Err(Refusal::runtime("expected tensors of the CPU or a CUDA device".into()));
    }
    #[cfg(feature = "cuda")]
    {
        let stream = super::abi::current_stream(place.index()).ok_or_else(|| {
            Refusal::runtime("batchnorm: this PyTorch does not say which CUDA stream is current".into())
        })?;
        Ok(Target::Cuda { ordinal: place.index() as usize, stream })
    }
    #[cfg(not(feature = "cuda"))]
    Err(crate::dispatch::without_cuda())
}

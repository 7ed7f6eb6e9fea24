//! The values of each channel: those that a forward pass saves, and running ones, which it updates.

use batchnorm::Dtype;
use smallvec::SmallVec;

use super::tensor::{Code, Place, Tensor};
use crate::error::Refusal;

/// The statistics that a forward pass normalized by.
pub(super) enum Statistics {
    /// The mean, and `inv_std` or, of running ones, the variance.
    Tensors([Tensor; 2]),
    Saved(Saved),
}

/// The mean and the `inv_std` of each channel, which a training forward saves: of one memory, since a small batch norm takes no longer
/// than an allocation does.
pub(super) struct Saved {
    tensor: Tensor,
    c: usize,
    dtype: Dtype,
}

impl Saved {
    /// For the channels of data whose per-channel values are of this type.
    pub(super) fn new(c: usize, dtype: Dtype, place: Place) -> Result<Self, Refusal> {
        let len = second_row(c) + c;
        Ok(Self { tensor: Tensor::vector(Code::of(dtype), place, len)?, c, dtype })
    }

    /// Whether it is of such channels.
    pub(super) fn is_of(&self, c: usize, dtype: Dtype) -> bool {
        self.c == c && self.dtype == dtype
    }

    pub(super) fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    pub(super) fn addresses(&self) -> [usize; 2] {
        let first = self.tensor.address();
        [first, first + second_row(self.c) * self.dtype.bytes() as usize]
    }

    /// The same memory once more.
    pub(super) fn another(&self) -> Result<Self, Refusal> {
        Ok(Self { tensor: self.tensor.another()?, c: self.c, dtype: self.dtype })
    }

    /// A tensor of each.
    pub(super) fn tensors(&self) -> Result<[Tensor; 2], Refusal> {
        Ok([self.tensor.part(0, self.c)?, self.tensor.part(second_row(self.c), self.c)?])
    }
}

/// Where the second row begins: on a boundary that any device's memory has, of values of any type.
fn second_row(c: usize) -> usize {
    c.next_multiple_of(64)
}

/// A tensor that is updated: itself, or a copy as the kernels take it.
pub(super) struct Updated {
    given: Tensor,
    copy: Option<Tensor>,
}

impl Updated {
    /// Finds out whether the tensor takes what its copy will have, by what it has.
    pub(super) fn new(given: Tensor, copy: Option<Tensor>) -> Result<Self, Refusal> {
        copy.as_ref().map_or(Ok(()), |copy| given.copy_from(copy))?;
        Ok(Self { given, copy })
    }

    pub(super) fn address(&self) -> usize {
        self.copy.as_ref().unwrap_or(&self.given).address()
    }

    /// Takes over what the kernels wrote.
    pub(super) fn finish(self) -> Result<(), Refusal> {
        self.copy.map_or(Ok(()), |copy| self.given.copy_from(&copy))
    }
}

/// A copy of a tensor in another type, or at another place.
pub(super) fn converted(tensor: &Tensor, code: Code, place: Place) -> Result<Tensor, Refusal> {
    let strides = contiguous(tensor.sizes());
    let copy = Tensor::empty(code, place, tensor.sizes(), &strides)?;
    copy.copy_from(tensor)?;
    Ok(copy)
}

/// A number of batches with one more, which the kernels do not count.
pub(super) fn with_one_more(given: Tensor) -> Result<Updated, Refusal> {
    let copy = converted(&given, Code::int64(), Place::cpu())?;
    let address = copy.address();
    let counted = Updated::new(given, Some(copy))?;
    // SAFETY: the memory of one number, of torch's allocator and this function's alone.
    unsafe { *core::ptr::with_exposed_provenance_mut::<i64>(address) += 1 };
    Ok(counted)
}

fn contiguous(sizes: &[i64]) -> SmallVec<[i64; 1]> {
    let mut strides = SmallVec::from_elem(1, sizes.len());
    for axis in (1..sizes.len()).rev() {
        strides[axis - 1] = strides[axis] * sizes[axis].max(1);
    }
    strides
}

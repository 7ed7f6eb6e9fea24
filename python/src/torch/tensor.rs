//! Tensors of PyTorch's.

use core::{ptr, slice};

use batchnorm::Dtype;

use super::abi::{Handle, Status, lib};
use crate::error::Refusal;

/// A tensor, which is let go of in the end.
pub(crate) struct Tensor(Handle);

/// The device of a tensor: its type and its number, as torch has them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    kind: i32,
    index: i32,
}

/// A dtype of torch's, by its code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(i32);

// SAFETY: torch counts the references of a tensor atomically, and any thread may let go of one.
unsafe impl Send for Tensor {}
// SAFETY: what this does with a shared tensor is to ask for its metadata, which nothing here changes, and for another reference.
unsafe impl Sync for Tensor {}

impl Drop for Tensor {
    fn drop(&mut self) {
        // SAFETY: the handle is this tensor's own.
        unsafe { (lib().aoti_torch_delete_tensor_object)(self.0) };
    }
}

/// The value that a function writes, or this one.
fn ask<T>(default: T, function: impl FnOnce(*mut T) -> Status) -> T {
    let mut value = default;
    function(&mut value); // Where that fails it writes nothing.
    value
}

impl Tensor {
    /// A tensor of this handle.
    ///
    /// # Safety
    /// It is a handle of a defined tensor, and the caller's to let go of.
    pub(super) unsafe fn from_handle(handle: Handle) -> Self {
        Self(handle)
    }

    /// The same tensor once more.
    pub(super) fn another(&self) -> Result<Self, Refusal> {
        let mut handle = ptr::null_mut();
        // SAFETY: a tensor, and a place for the result.
        match unsafe { (lib().aoti_torch_new_tensor_handle)(self.0, &mut handle) } {
            0 => Ok(Self(handle)),
            _ => Err(Refusal::runtime("torch could not hand out a tensor".into())),
        }
    }

    /// `len` of its values, one behind the other in memory, from this one on.
    pub(super) fn part(&self, from: usize, len: usize) -> Result<Self, Refusal> {
        let (size, stride, mut handle) = (len as i64, 1, ptr::null_mut());
        // SAFETY: a tensor, one size and one stride, and a place for the result.
        let status =
            unsafe { (lib().aoti_torch__reinterpret_tensor)(self.0, 1, &size, &stride, from as i64, &mut handle) };
        if status == 0 { Ok(Self(handle)) } else { Err(Refusal::runtime("torch could not hand out a tensor".into())) }
    }

    /// Whether its memory has its values, as far as torch says.
    pub(super) fn has_its_values(&self) -> bool {
        // SAFETY: a tensor.
        !lib().is_neg.is_some_and(|is_neg| unsafe { is_neg(self.0) })
    }

    /// Whether autograd can keep it, as far as torch says.
    pub(super) fn can_be_kept(&self) -> bool {
        // SAFETY: a tensor.
        !lib().is_inference.is_some_and(|is_inference| unsafe { is_inference(self.0) })
    }

    /// A function of its handle, which stays this tensor's.
    pub(super) fn with_handle<R>(&self, function: impl FnOnce(Handle) -> R) -> R {
        function(self.0)
    }

    /// Its handle, for somebody else to let go of.
    pub(super) fn into_handle(self) -> Handle {
        let handle = self.0;
        core::mem::forget(self);
        handle
    }

    /// The handle of no tensor, for somebody else to let go of.
    pub(super) fn undefined_handle() -> Handle {
        // SAFETY: there is a place for the result.
        ask(ptr::null_mut(), |to| unsafe { (lib().aoti_torch_new_uninitialized_tensor)(to) })
    }

    /// Memory that was not written, in this dtype, with these sizes and strides.
    pub(super) fn empty(code: Code, place: Place, sizes: &[i64], strides: &[i64]) -> Result<Self, Refusal> {
        #[cfg(feature = "emulate")]
        if let Some(tensor) = super::stand_in::empty(code, place, sizes, strides)? {
            return Ok(tensor);
        }
        if sizes.iter().product::<i64>() >= MANY && !has_room_for_messages() {
            return Err(Refusal::no_memory(sizes, false));
        }
        let mut handle = ptr::null_mut();
        let (dims, sizes_at, strides_at) = (sizes.len() as i64, sizes.as_ptr(), strides.as_ptr());
        let Place { kind, index } = place;
        // SAFETY: as many sizes and strides as dimensions.
        let status =
            unsafe { (lib().aoti_torch_empty_strided)(dims, sizes_at, strides_at, code.0, kind, index, &mut handle) };
        if status == 0 { Ok(Self(handle)) } else { Err(Refusal::no_memory(sizes, place.is_cuda())) }
    }

    /// `len` values that were not written.
    pub(super) fn vector(code: Code, place: Place, len: usize) -> Result<Self, Refusal> {
        Self::empty(code, place, &[len as i64], &[1])
    }

    /// A tensor over memory that somebody else keeps.
    ///
    /// # Safety
    /// The memory is there for as long as the tensor.
    #[cfg(feature = "emulate")]
    pub(super) unsafe fn over(
        address: u64,
        code: Code,
        place: Place,
        sizes: &[i64],
        strides: &[i64],
    ) -> Result<Self, Refusal> {
        let mut handle = ptr::null_mut();
        let (dims, sizes_at, strides_at) = (sizes.len() as i64, sizes.as_ptr(), strides.as_ptr());
        let memory = ptr::with_exposed_provenance_mut(address as usize);
        let Place { kind, index } = place;
        let create = lib().aoti_torch_create_tensor_from_blob;
        // SAFETY: as in `empty`; and the caller's.
        let status = unsafe { create(memory, dims, sizes_at, strides_at, 0, code.0, kind, index, &mut handle) };
        if status == 0 { Ok(Self(handle)) } else { Err(Refusal::no_memory(sizes, true)) }
    }

    /// Takes the values of another of the same sizes, converted and moved to this one's device.
    pub(super) fn copy_from(&self, source: &Self) -> Result<(), Refusal> {
        // SAFETY: both are tensors.
        match unsafe { (lib().aoti_torch_copy_)(self.0, source.0, 0) } {
            0 => Ok(()),
            _ => Err(Refusal::runtime("torch could not copy a tensor".into())),
        }
    }

    /// Sets all values to 0.
    pub(super) fn zero(&self) -> Result<(), Refusal> {
        // SAFETY: it is a tensor.
        match unsafe { (lib().aoti_torch_zero_)(self.0) } {
            0 => Ok(()),
            _ => Err(Refusal::runtime("torch could not fill a tensor".into())),
        }
    }

    /// The address of its first value; 0 of a tensor without memory.
    pub(super) fn address(&self) -> usize {
        // SAFETY: of all functions of this kind: the handle is a tensor's, and there is a place for the result.
        ask(ptr::null_mut(), |to| unsafe { (lib().aoti_torch_get_data_ptr)(self.0, to) }).expose_provenance()
    }

    /// Whether its values, if it has any, are somewhere: those of a storage that was let go of are not, nor those of transforms.
    pub(super) fn has_memory(&self) -> bool {
        // SAFETY: see `address`.
        let bytes = ask(0, |to| unsafe { (lib().aoti_torch_get_storage_size)(self.0, to) });
        self.len() == 0 || (bytes > 0 && self.address() != 0)
    }

    /// Dimensions; 0 of a nested tensor, which has no sizes.
    pub(super) fn dims(&self) -> usize {
        self.sizes().len()
    }

    pub(super) fn len(&self) -> usize {
        // SAFETY: see `address`.
        ask(0, |to| unsafe { (lib().aoti_torch_get_numel)(self.0, to) }) as usize
    }

    pub(super) fn sizes(&self) -> &[i64] {
        // SAFETY: see `address`.
        self.numbers(ask(ptr::null(), |to| unsafe { (lib().aoti_torch_get_sizes)(self.0, to) }))
    }

    pub(super) fn strides(&self) -> &[i64] {
        // SAFETY: see `address`.
        self.numbers(ask(ptr::null(), |to| unsafe { (lib().aoti_torch_get_strides)(self.0, to) }))
    }

    /// One number for each dimension, where a question has led to some.
    fn numbers(&self, from: *const i64) -> &[i64] {
        // SAFETY: see `address`.
        let dims = ask(0, |to| unsafe { (lib().aoti_torch_get_dim)(self.0, to) }) as usize;
        // SAFETY: as many as dimensions, which the tensor keeps.
        if dims == 0 || from.is_null() { &[] } else { unsafe { slice::from_raw_parts(from, dims) } }
    }

    pub(super) fn code(&self) -> Code {
        // SAFETY: see `address`.
        Code(ask(0, |to| unsafe { (lib().aoti_torch_get_dtype)(self.0, to) }))
    }

    /// Whether it has strides, as sparse tensors have not.
    pub(super) fn is_strided(&self) -> bool {
        // SAFETY: see `address`; and a constant.
        unsafe { ask(0, |to| (lib().aoti_torch_get_layout)(self.0, to)) == (lib().aoti_torch_layout_strided)() }
    }

    pub(super) fn place(&self) -> Place {
        // SAFETY: see `address`.
        let kind = ask(0, |to| unsafe { (lib().aoti_torch_get_device_type)(self.0, to) });
        // SAFETY: see `address`.
        let index = ask(0, |to| unsafe { (lib().aoti_torch_get_device_index)(self.0, to) });
        Place { kind, index }
    }

    /// Whether its values lie one after the other in the order of its dimensions from `order`'s last to its first.
    pub(super) fn is_dense(&self, order: impl DoubleEndedIterator<Item = usize>) -> bool {
        let (sizes, strides) = (self.sizes(), self.strides());
        if sizes.contains(&0) {
            return true;
        }
        let mut expected = 1;
        for axis in order.rev() {
            if sizes[axis] != 1 {
                if strides[axis] != expected {
                    return false;
                }
                expected *= sizes[axis];
            }
        }
        true
    }

    /// Whether its values lie one after the other, each at a multiple of `align`.
    pub(super) fn is_contiguous(&self, align: usize) -> bool {
        self.is_dense(0..self.dims()) && self.address().is_multiple_of(align)
    }
}

/// Values of a tensor that may be what takes the last memory.
const MANY: i64 = 16 * 1024;

/// Whether there is memory for what torch writes where a tensor gets none: without, it throws once more, from where it hands out errors,
/// through functions of C, and no Rust may catch that.
fn has_room_for_messages() -> bool {
    let mut room = Vec::<u8>::new();
    let is_there = room.try_reserve_exact(64 * 1024).is_ok();
    core::hint::black_box(room.as_ptr());
    is_there
}

impl Place {
    /// The CPU.
    pub(super) fn cpu() -> Self {
        // SAFETY: a constant.
        Self { kind: unsafe { (lib().aoti_torch_device_type_cpu)() }, index: -1 }
    }

    pub(super) fn is_cpu(self) -> bool {
        self.kind == Self::cpu().kind
    }

    pub(super) fn is_cuda(self) -> bool {
        // SAFETY: a constant.
        self.kind == unsafe { (lib().aoti_torch_device_type_cuda)() }
    }

    /// The number of a CUDA device.
    #[cfg(feature = "cuda")]
    pub(super) fn index(self) -> i32 {
        self.index
    }
}

impl Code {
    /// The code of a dtype that is computed.
    pub(super) fn of(dtype: Dtype) -> Self {
        // SAFETY: constants.
        Self(unsafe {
            match dtype {
                Dtype::F64 => (lib().aoti_torch_dtype_float64)(),
                Dtype::F32 => (lib().aoti_torch_dtype_float32)(),
                Dtype::F16 => (lib().aoti_torch_dtype_float16)(),
                Dtype::Bf16 => (lib().aoti_torch_dtype_bfloat16)(),
            }
        })
    }

    /// The dtype that is computed, if it is one.
    pub(super) fn dtype(self) -> Option<Dtype> {
        Dtype::ALL.iter().copied().find(|&dtype| Self::of(dtype) == self)
    }

    pub(super) fn int64() -> Self {
        // SAFETY: a constant.
        Self(unsafe { (lib().aoti_torch_dtype_int64)() })
    }

    /// The words of masks.
    pub(super) fn int32() -> Self {
        // SAFETY: a constant.
        Self(unsafe { (lib().aoti_torch_dtype_int32)() })
    }

    #[cfg(feature = "cuda")]
    pub(super) fn uint8() -> Self {
        // SAFETY: a constant.
        Self(unsafe { (lib().aoti_torch_dtype_uint8)() })
    }
}

//! Arguments and results on a stack.

use core::ffi::CStr;
use core::panic::AssertUnwindSafe;
use core::{ptr, slice};
use std::ffi::CString;
use std::panic;

use super::abi::{Handle, Kernel, Value, lib};
use super::tensor::Tensor;
use crate::epilogue::Kind;
use crate::error::Refusal;

/// The arguments of a call, in their order. What is read is the reader's.
pub(super) struct Arguments<'a>(slice::Iter<'a, Value>);

impl Arguments<'_> {
    fn next(&mut self) -> Value {
        *self.0.next().expect("the schema has as many arguments as the operation reads")
    }

    pub(super) fn tensor(&mut self) -> Tensor {
        // SAFETY: the schema says that it is a tensor, and PyTorch's stack is read once.
        unsafe { Tensor::from_handle(handle(self.next())) }
    }

    /// An optional value: it lies in memory that is the reader's to free.
    fn optional(&mut self) -> Option<Value> {
        let address: *mut Value = ptr::with_exposed_provenance_mut(self.next() as usize);
        if address.is_null() {
            return None;
        }
        // SAFETY: the schema says that it is optional, so that there is a value at the address.
        unsafe {
            let value = *address;
            (lib().delete_value)(address);
            Some(value)
        }
    }

    pub(super) fn optional_tensor(&mut self) -> Option<Tensor> {
        // SAFETY: as of a tensor that is not optional.
        self.optional().map(|value| unsafe { Tensor::from_handle(handle(value)) })
    }

    pub(super) fn float(&mut self) -> f64 {
        f64::from_bits(self.next())
    }

    pub(super) fn optional_float(&mut self) -> Option<f64> {
        self.optional().map(f64::from_bits)
    }

    pub(super) fn flag(&mut self) -> bool {
        self.next() & 1 != 0 // A byte of it.
    }

    pub(super) fn optional_flag(&mut self) -> Option<bool> {
        self.optional().map(|value| value & 1 != 0)
    }

    /// An epilogue by its name.
    pub(super) fn epilogue(&mut self) -> Result<Kind, Refusal> {
        let (handle, mut len, mut from) = (handle(self.next()), 0, ptr::null());
        // SAFETY: the schema says that it is a text, whose `len` bytes are there until it is let go of.
        unsafe {
            (lib().torch_string_length)(handle, &mut len);
            (lib().torch_string_c_str)(handle, &mut from);
            let bytes = if from.is_null() { &[] } else { slice::from_raw_parts(from.cast::<u8>(), len) };
            let epilogue = Kind::named(&String::from_utf8_lossy(bytes));
            (lib().torch_delete_string)(handle);
            epilogue
        }
    }
}

fn handle(value: Value) -> Handle {
    ptr::with_exposed_provenance_mut(value as usize)
}

/// A result: a tensor, or none, which is torch's undefined tensor and `None` in Python.
fn give(result: Option<Tensor>) -> Value {
    let handle = result.map_or_else(Tensor::undefined_handle, Tensor::into_handle);
    handle.expose_provenance() as Value
}

/// An operation with its arguments.
pub(super) trait Operation: Sized {
    const NAME: &'static CStr;
    /// Takes the arguments, in the order of the schema.
    fn take(arguments: &mut Arguments<'_>) -> Self;
    /// The results, in the order of the schema, and then none.
    fn run(self) -> Result<[Option<Tensor>; 4], Refusal>;
}

/// Runs an operation. A panic is a refusal.
pub(super) fn run<R>(operation: impl FnOnce() -> Result<R, Refusal>) -> Result<R, Refusal> {
    panic::catch_unwind(AssertUnwindSafe(operation))
        .unwrap_or_else(|_| Err(Refusal::runtime("batchnorm: a panic, which is a bug".into())))
}

/// An operation with its name, for PyTorch to call.
pub(super) const fn kernel<O: Operation>() -> (&'static CStr, Kernel) {
    (O::NAME, call::<O>)
}

/// Runs an operation on a stack.
///
/// # Safety
/// The stack has this many arguments, of the types of the operation's schema, and room for its results.
unsafe extern "C-unwind" fn call<O: Operation>(stack: *mut Value, arguments: u64, results: u64) {
    // SAFETY: the caller's.
    let values = unsafe { slice::from_raw_parts(stack, arguments as usize) };
    let operation = O::take(&mut Arguments(values.iter()));
    match run(|| operation.run()) {
        Ok(tensors) => {
            for (i, tensor) in tensors.into_iter().take(results as usize).enumerate() {
                // SAFETY: the caller's.
                unsafe { *stack.add(i) = give(tensor) };
            }
        }
        Err(refusal) => refuse(refusal),
    }
}

/// Throws torch's exception with the text of a refusal.
#[cold]
fn refuse(refusal: Refusal) {
    let text = CString::new(refusal.text().replace('\0', " ")).unwrap_or_default();
    refusal.keep();
    let here = c"batchnorm";
    // SAFETY: texts that end with 0. The exception unwinds this function and its caller, where nothing but the text is left.
    unsafe { (lib().aoti_torch_check)(false, here.as_ptr(), here.as_ptr(), 0, text.as_ptr()) };
}

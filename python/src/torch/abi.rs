//! LibTorch's stable C functions, found in the library that the process has loaded: no header and no compiler of PyTorch's is
//! needed, and one build serves every version that has them, which is 2.10 and later.
//!
//! Source: torch/csrc/inductor/aoti_torch/c/shim.h and torch/csrc/stable/c/shim.h of PyTorch.

use core::ffi::{CStr, c_char, c_void};
use std::sync::OnceLock;

use libloading::Library;

/// A tensor that LibTorch owns, counted.
pub(super) type Handle = *mut c_void;
/// A value on an operation's stack: a number by its bits, a tensor or a text by its handle, an optional one by the address of such
/// a value, or 0.
pub(super) type Value = u64;
/// An operation: it takes the arguments off a stack, and leaves its results there.
pub(super) type Kernel = unsafe extern "C-unwind" fn(stack: *mut Value, arguments: u64, results: u64);
/// The status of a function: 0 if it succeeded.
pub(super) type Status = i32;

/// A question about a tensor.
pub(super) type Ask = unsafe extern "C-unwind" fn(Handle) -> bool;

/// The version whose encoding of values this is: the first that has all functions.
const VERSION: u64 = 2 << 56 | 10 << 48;

/// The library that has the functions, by the name under which a process that has imported torch has loaded it.
pub(crate) const LIBRARY: &str = if cfg!(target_os = "macos") {
    "libtorch_cpu.dylib"
} else if cfg!(windows) {
    "torch_cpu.dll"
} else {
    "libtorch_cpu.so"
};

macro_rules! functions {
    ($($name:ident($($argument:ty),*) -> $result:ty;)*) => {
        /// The functions.
        #[cfg_attr(not(feature = "emulate"), allow(dead_code, reason = "some are for devices alone"))]
        #[expect(non_snake_case, reason = "names of LibTorch's")]
        pub(super) struct LibTorch {
            $(pub(super) $name: unsafe extern "C-unwind" fn($($argument),*) -> $result,)*
            /// Frees an optional value's memory.
            pub(super) delete_value: unsafe extern "C-unwind" fn(*mut Value),
            /// From 2.14 on: a new handle of Python's tensor.
            pub(super) tensor_from_python: Option<unsafe extern "C-unwind" fn(*mut c_void, *mut Handle) -> Status>,
            /// From 2.14 on: Python's tensor of a handle, of a class that may be null for the usual one.
            pub(super) tensor_to_python:
                Option<unsafe extern "C-unwind" fn(Handle, *mut c_void, *mut *mut c_void) -> Status>,
            /// Whether memory has a tensor's values negated.
            pub(super) is_neg: Option<Ask>,
            /// Whether autograd cannot keep a tensor.
            pub(super) is_inference: Option<Ask>,
            #[cfg(feature = "cuda")]
            pub(super) current_cuda_stream: Option<unsafe extern "C-unwind" fn(i32, *mut *mut c_void) -> Status>,
        }

        impl LibTorch {
            /// Finds them in a library of this name.
            fn find(name: &str) -> Result<Self, String> {
                // SAFETY: the process has loaded LibTorch; and what else may be named has no initialization that matters.
                let library = unsafe { Library::new(name) }.map_err(|error| format!("{name}: {error}"))?;
                let missing = |symbol: &str| format!("{name} has no {symbol}");
                // SAFETY: the types are those of the headers named above, for all versions that have the functions.
                let found = unsafe {
                    Self {
                        $($name: *library.get(stringify!($name)).map_err(|_| missing(stringify!($name)))?,)*
                        delete_value: *library
                            .get("torch_delete_stable_ivalue") // From 2.13 on; before, it is C++'s delete.
                            .or_else(|_| library.get("_ZdlPv"))
                            .map_err(|_| missing("torch_delete_stable_ivalue"))?,
                        tensor_from_python: library.get("torch_tensor_from_pyobject").ok().map(|function| *function),
                        tensor_to_python: library.get("torch_tensor_to_pyobject").ok().map(|function| *function),
                        // Functions of C++ that take a tensor by reference, which a handle is.
                        is_neg: library.get("_ZN2at6native6is_negERKNS_6TensorE").ok().map(|function| *function),
                        is_inference: library
                            .get("_ZN2at6native12is_inferenceERKNS_6TensorE")
                            .ok()
                            .map(|function| *function),
                        #[cfg(feature = "cuda")]
                        current_cuda_stream: current_cuda_stream(),
                    }
                };
                // The functions are used for as long as the process lasts.
                core::mem::forget(library);
                Ok(found)
            }
        }
    };
}

functions! {
    aoti_torch_get_data_ptr(Handle, *mut *mut c_void) -> Status;
    aoti_torch_get_storage_size(Handle, *mut i64) -> Status;
    aoti_torch_get_dim(Handle, *mut i64) -> Status;
    aoti_torch_get_numel(Handle, *mut i64) -> Status;
    aoti_torch_get_sizes(Handle, *mut *const i64) -> Status;
    aoti_torch_get_strides(Handle, *mut *const i64) -> Status;
    aoti_torch_get_dtype(Handle, *mut i32) -> Status;
    aoti_torch_get_layout(Handle, *mut i32) -> Status;
    aoti_torch_get_device_type(Handle, *mut i32) -> Status;
    aoti_torch_get_device_index(Handle, *mut i32) -> Status;
    aoti_torch_empty_strided(i64, *const i64, *const i64, i32, i32, i32, *mut Handle) -> Status;
    aoti_torch_create_tensor_from_blob(
        *mut c_void, i64, *const i64, *const i64, i64, i32, i32, i32, *mut Handle
    ) -> Status;
    aoti_torch__reinterpret_tensor(Handle, i64, *const i64, *const i64, i64, *mut Handle) -> Status;
    aoti_torch_new_tensor_handle(Handle, *mut Handle) -> Status;
    aoti_torch_new_uninitialized_tensor(*mut Handle) -> Status;
    aoti_torch_copy_(Handle, Handle, i32) -> Status;
    aoti_torch_zero_(Handle) -> Status;
    aoti_torch_delete_tensor_object(Handle) -> Status;
    aoti_torch_library_init_impl(*const c_char, *const c_char, *const c_char, u32, *mut *mut c_void) -> Status;
    torch_library_impl(*mut c_void, *const c_char, Kernel, u64) -> Status;
    torch_get_num_threads(*mut u32) -> Status;
    torch_string_length(*mut c_void, *mut usize) -> Status;
    torch_string_c_str(*mut c_void, *mut *const c_char) -> Status;
    torch_delete_string(*mut c_void) -> Status;
    aoti_torch_check(bool, *const c_char, *const c_char, u32, *const c_char) -> ();
    aoti_torch_device_type_cpu() -> i32;
    aoti_torch_device_type_cuda() -> i32;
    aoti_torch_layout_strided() -> i32;
    aoti_torch_dtype_float64() -> i32;
    aoti_torch_dtype_float32() -> i32;
    aoti_torch_dtype_float16() -> i32;
    aoti_torch_dtype_bfloat16() -> i32;
    aoti_torch_dtype_int64() -> i32;
    aoti_torch_dtype_int32() -> i32;
    aoti_torch_dtype_uint8() -> i32;
}

/// The function of torch's CUDA half that says which stream is current; `None` in a build of torch without that half.
#[cfg(feature = "cuda")]
fn current_cuda_stream() -> Option<unsafe extern "C-unwind" fn(i32, *mut *mut c_void) -> Status> {
    let name = if cfg!(windows) { "torch_cuda.dll" } else { "libtorch_cuda.so" };
    // SAFETY: as in `LibTorch::find`.
    unsafe {
        let library = Library::new(name).ok()?;
        let function = *library.get("aoti_torch_get_current_cuda_stream").ok()?;
        core::mem::forget(library);
        Some(function)
    }
}

static FOUND: OnceLock<LibTorch> = OnceLock::new();

/// Whether operations can be called with Python's tensors, past the dispatcher, and see what that would have seen to.
pub(super) fn has_python_tensors() -> bool {
    FOUND.get().is_some_and(|lib| {
        let converts = lib.tensor_from_python.is_some() && lib.tensor_to_python.is_some();
        converts && lib.is_neg.is_some() && lib.is_inference.is_some()
    })
}

/// The functions; the operations that call this were registered by them.
pub(super) fn lib() -> &'static LibTorch {
    FOUND.get().expect("the operations are registered by these functions")
}

/// The number of threads that an operation of torch's may use on this thread.
pub(super) fn threads() -> usize {
    let mut count = 1;
    // SAFETY: there is a place for the result.
    unsafe { (lib().torch_get_num_threads)(&mut count) };
    count as usize
}

/// The current stream of a CUDA device; `None` where torch does not say.
#[cfg(feature = "cuda")]
pub(super) fn current_stream(device: i32) -> Option<u64> {
    let mut stream = core::ptr::null_mut();
    // SAFETY: there is a place for the result.
    let status = unsafe { lib().current_cuda_stream?(device, &mut stream) };
    (status == 0).then(|| stream.expose_provenance() as u64)
}

/// Registers kernels of the namespace `batchnorm` for the dispatch keys, with the functions of the library of this name, all of which are
/// found before the first is used.
pub(super) fn register(library: &str, keys: &[&CStr], kernels: &[(&CStr, Kernel)]) -> Result<(), String> {
    let found = LibTorch::find(library)?;
    let lib = FOUND.get_or_init(|| found);
    for key in keys {
        let mut registry = core::ptr::null_mut();
        let (namespace, file) = (c"batchnorm", c"batchnorm");
        // SAFETY: texts that end with 0, and a place for the result.
        let status = unsafe {
            (lib.aoti_torch_library_init_impl)(namespace.as_ptr(), key.as_ptr(), file.as_ptr(), 0, &mut registry)
        };
        if status != 0 {
            return Err(format!("{library} refused the dispatch key {key:?}"));
        }
        for (name, kernel) in kernels {
            // SAFETY: the registry that was just made, which is kept for as long as the process lasts.
            if unsafe { (lib.torch_library_impl)(registry, name.as_ptr(), *kernel, VERSION) } != 0 {
                return Err(format!("{library} refused the operation {name:?}"));
            }
        }
    }
    Ok(())
}

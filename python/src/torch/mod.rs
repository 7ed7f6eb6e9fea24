//! The operations as PyTorch's, registered without Python between its dispatcher and the backends.

mod abi;
mod backward;
mod data;
mod infer;
mod operations;
pub(crate) mod python;
mod stack;
#[cfg(feature = "emulate")]
pub(crate) mod stand_in;
mod statistics;
mod tensor;
mod train;

use core::ffi::CStr;

pub(crate) use abi::LIBRARY;

const KERNELS: &[(&CStr, abi::Kernel)] =
    &[stack::kernel::<train::Train>(), stack::kernel::<infer::Infer>(), stack::kernel::<backward::Backward>()];

/// The dispatch keys that the operations are registered for.
const KEYS: &[&CStr] = &[c"CPU", c"CUDA"];

/// Registers the operations with PyTorch by the functions of the library of this name.
pub(crate) fn register(library: &str) -> Result<(), String> {
    abi::register(library, KEYS, KERNELS)
}

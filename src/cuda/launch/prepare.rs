//! What comes before any launch: a driver, and kernels that are loaded.

use cudarc::driver::CudaContext;

use super::super::device::driver;
use super::super::ffi::{self, BnResident, BnStatus};
use super::checked;
use crate::{Error, Result};

/// The driver's library, by the names that it goes by.
const DRIVER: [&str; 2] = if cfg!(windows) { ["nvcuda.dll", "cuda.dll"] } else { ["libcuda.so", "libcuda.so.1"] };

/// Whether there is a driver to be loaded: cudarc panics where there is none.
pub(in crate::cuda) fn find_driver() -> Result<()> {
    let mut reason = String::new();
    for name in DRIVER {
        // SAFETY: what loading the driver's library runs is the driver's own set-up, which a program that uses CUDA
        // runs in any case. It stays loaded, since cudarc loads it too.
        match unsafe { libloading::Library::new(name) } {
            Ok(library) => {
                core::mem::forget(library); // Some drivers do not like to be unloaded and loaded again.
                return Ok(());
            }
            Err(error) => reason = error.to_string(),
        }
    }
    Err(Error::NoDriver { names: DRIVER.join(", "), reason })
}

/// Loads every kernel in a context, and lets each use so many bytes of shared memory.
pub(in crate::cuda) fn prepare(context: &CudaContext, shared_bytes: u32) -> Result<()> {
    type Prepare = unsafe extern "C" fn(u32, *mut BnResident) -> BnStatus;
    const OPERATIONS: [(&str, Prepare); 6] = [
        ("bn_moments_prepare", ffi::bn_moments_prepare),
        ("bn_train_prepare", ffi::bn_train_prepare),
        ("bn_infer_prepare", ffi::bn_infer_prepare),
        ("bn_backward_prepare", ffi::bn_backward_prepare),
        ("bn_backward_frozen_prepare", ffi::bn_backward_frozen_prepare),
        ("bn_fill_prepare", ffi::bn_fill_prepare),
    ];
    context.bind_to_thread().map_err(driver("cuCtxSetCurrent"))?;
    for (call, prepare) in OPERATIONS {
        let mut resident = BnResident { ctas: 0, kernels: 0 };
        // SAFETY: a context is bound; the function writes the struct that it is given, and keeps no pointer to it.
        checked(call, unsafe { prepare(shared_bytes, &mut resident) })?;
        if resident.ctas < ffi::BN_MIN_CTAS {
            return Err(Error::Residency { call, expected: ffi::BN_MIN_CTAS, actual: resident.ctas });
        }
    }
    Ok(())
}

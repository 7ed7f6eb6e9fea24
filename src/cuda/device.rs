//! The driver's answers as this crate's: devices, their limits, errors.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::{CudaContext, DriverError};

use super::process::expect_unforked;
use super::{launch, loader, plans};
use crate::plan::{DeviceLimits, PlanTable};
use crate::{Error, Result};

/// The oldest compute capability that the kernels are built for; newer ones have code of their major version or PTX.
const OLDEST: (u32, u32) = (8, 0);
/// `CUDA_ERROR_OUT_OF_MEMORY`.
const OUT_OF_MEMORY: u32 = 2;
/// `CUDA_ERROR_NO_DEVICE`.
const NO_DEVICE: u32 = 100;

/// The driver's error as ours, by its number: formatting a `DriverError` would ask the driver, and panic without one.
pub(super) fn driver(call: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Driver { call, code: error.0 as u32 }
}

/// [`driver`] for an allocation of `bytes` and the calls that fill it.
pub(super) fn allocating(bytes: usize) -> impl Fn(DriverError) -> Error {
    move |error| match error.0 as u32 {
        OUT_OF_MEMORY => Error::OutOfMemory { bytes },
        code => Error::Driver { call: "cuMemAllocAsync", code },
    }
}

/// The number of devices that the driver has.
pub(super) fn count() -> Result<usize> {
    expect_unforked()?;
    loader::find_driver()?;
    match CudaContext::device_count() {
        Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
        Err(error) => match error.0 as u32 {
            NO_DEVICE => Ok(0),
            code => Err(Error::Driver { call: "cuInit", code }),
        },
    }
}

/// The primary context of the device of this number.
pub(super) fn open(ordinal: usize) -> Result<Arc<CudaContext>> {
    let count = count()?;
    if ordinal >= count {
        return Err(Error::NoDevice { ordinal, count });
    }
    CudaContext::new(ordinal).map_err(driver("cuDevicePrimaryCtxRetain"))
}

/// The facts of a context's device once its kernels are loaded: its limits, and the table of plans that the environment names.
type Prepared = (DeviceLimits, Option<Arc<PlanTable>>);

/// A context's device, once its kernels are loaded and ready.
pub(super) fn prepared(context: &Arc<CudaContext>) -> Result<Prepared> {
    expect_unforked()?;
    // Contexts that are ready. A dead one may have left its handle to a new context, which then is not: hence `Weak`.
    static READY: Mutex<Vec<(Weak<CudaContext>, Prepared)>> = Mutex::new(Vec::new());
    let mut ready = READY.lock().unwrap_or_else(PoisonError::into_inner);
    ready.retain(|(known, _)| known.strong_count() > 0);
    let known = ready.iter().find(|(known, _)| known.upgrade().is_some_and(|known| known == *context));
    if let Some((_, prepared)) = known {
        return Ok(prepared.clone());
    }
    let mut limits = limits(context)?;
    if limits.compute_capability < OLDEST {
        let actual = limits.compute_capability;
        return Err(Error::DeviceTooOld { ordinal: context.ordinal(), expected: OLDEST, actual });
    }
    limits.clusters = launch::prepare(context, &limits)?;
    let table = plans::of_environment(context, &limits)?;
    ready.push((Arc::downgrade(context), (limits, table.clone())));
    Ok((limits, table))
}

fn limits(context: &CudaContext) -> Result<DeviceLimits> {
    let get = |attribute| {
        let value = context.attribute(attribute).map_err(driver("cuDeviceGetAttribute"))?;
        Ok::<_, Error>(u32::try_from(value).unwrap_or(0))
    };
    // Two transfers a clock, in kHz, of so many bits.
    let memory_clock = u64::from(get(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?);
    let bus = u64::from(get(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?);
    let memory_gb_per_s = u32::try_from(2 * memory_clock * (bus / 8) / 1_000_000).unwrap_or(0);
    Ok(DeviceLimits {
        compute_capability: (
            get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        sms: get(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_per_sm: get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
        shared_per_cta: get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        shared_reserved: get(Attribute::CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK)?,
        threads_per_sm: get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?,
        ctas_per_sm: get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR)?,
        l2_bytes: u64::from(get(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?),
        memory_gb_per_s: memory_gb_per_s.max(1), // a driver that does not tell leaves a rate to compare plans by
        cooperative: get(Attribute::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH)? != 0,
        clusters: [[0; 4]; 2], // known when the kernels are loaded
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cudarc::driver::sys::CUresult;

    #[test]
    fn errors_of_the_driver_keep_their_number() {
        let lost = DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert!(matches!(driver("call")(lost), Error::Driver { call: "call", code: 700 }));
        assert!(matches!(allocating(64)(lost), Error::Driver { code: 700, .. }));
        let full = DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        assert_eq!(allocating(64)(full).to_string(), "out of memory: expected room for 64 bytes");
    }
}

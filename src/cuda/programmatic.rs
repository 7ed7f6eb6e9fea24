//! Programmatic dependent launch: whether the launches of a device may begin early.
#![allow(unsafe_code)]

use core::ffi::c_int;
use std::env;

use cudarc::driver::sys;

use super::device::driver;
use crate::Result;
use crate::plan::DeviceLimits;

/// Turns the default off where it is `0`.
const VARIABLE: &str = "BATCHNORM_PROGRAMMATIC_LAUNCH";
/// The first compute capability with griddepcontrol.
const OLDEST: (u32, u32) = (9, 0);
/// The first driver, by its CUDA version, that captures such launches into graphs.
const OLDEST_DRIVER: c_int = 12_030;

/// Whether launches begin early unless the caller says otherwise.
pub(super) fn is_default(device: &DeviceLimits) -> Result<bool> {
    let is_off = env::var_os(VARIABLE).is_some_and(|value| value == "0");
    if is_off { Ok(false) } else { is_possible(device) }
}

/// Whether a device and its driver can.
pub(super) fn is_possible(device: &DeviceLimits) -> Result<bool> {
    if device.compute_capability < OLDEST {
        return Ok(false);
    }
    Ok(driver_version()? >= OLDEST_DRIVER)
}

/// The CUDA version of the driver, 13000 for 13.0. Callers have a device at hand.
pub(super) fn driver_version() -> Result<c_int> {
    let mut version = 0;
    // SAFETY: the driver writes one integer; a device is at hand, so that the library is loaded.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().map_err(driver("cuDriverGetVersion"))?;
    Ok(version)
}

//! The memory pool that a device's allocations come from.
#![allow(unsafe_code)]

use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUmemPool_attribute as PoolAttribute};
use cudarc::driver::{CudaContext, result};

use super::device::driver;
use crate::Result;

/// Lets the default memory pool of a context's device keep what is freed; does nothing where a device has no pools.
pub(super) fn keep_memory(context: &CudaContext) -> Result<()> {
    let pools = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED);
    if pools.map_err(driver("cuDeviceGetAttribute"))? == 0 {
        return Ok(());
    }
    // SAFETY: the device is that of a context, so that the driver gave its number.
    let pool = unsafe { result::device::get_default_mem_pool(context.cu_device()) };
    let pool = pool.map_err(driver("cuDeviceGetDefaultMemPool"))?;
    let mut threshold = u64::MAX;
    let attribute = PoolAttribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the pool is the device's own, which is never destroyed; the attribute is a u64, read before the call ends.
    let set = unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast()) };
    set.map_err(driver("cuMemPoolSetAttribute"))
}

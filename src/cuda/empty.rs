//! A buffer of no values, for whoever uploads an empty batch.
//!
//! cudarc gives a length of 0 to nothing but an allocation of no bytes, which is an error to drivers, and to an address that
//! is handed to `upgrade_device_ptr`. Where a context tracks events, the latter makes two of them, and panics where it
//! cannot. So the address is handed to a context that tracks none.
#![allow(unsafe_code)]

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DeviceRepr};

use super::device::{allocating, driver};
use crate::Result;

/// A buffer of no values, with memory for one, in the context of this stream. It needs no order with any work, and is of
/// another stream where the context tracks events.
pub(super) fn empty<T: DeviceRepr>(stream: &Arc<CudaStream>) -> Result<CudaSlice<T>> {
    let untracked = untracked(stream)?;
    // SAFETY: a length of 0 gives nobody a value that was not written.
    let one = unsafe { untracked.alloc::<T>(1) }.map_err(allocating(size_of::<T>()))?;
    // SAFETY: the address is that of an allocation of this stream that was just given up, and is freed once.
    Ok(unsafe { untracked.upgrade_device_ptr(one.leak(), 0) })
}

/// A stream of the same device context whose buffers have no events: this one, or one that a second object of cudarc's for
/// the device's primary context owns.
fn untracked(stream: &Arc<CudaStream>) -> Result<Arc<CudaStream>> {
    let context = stream.context();
    // A context that is not the device's primary one has one object, which destroys it: there the panic remains.
    if !context.is_event_tracking() || !context.is_primary() {
        return Ok(Arc::clone(stream));
    }
    let own = CudaContext::new(context.ordinal()).map_err(driver("cuDevicePrimaryCtxRetain"))?;
    // SAFETY: no buffer of this object exists yet, and the one that will has no values that streams could race for.
    unsafe { own.disable_event_tracking() };
    own.new_stream().map_err(driver("cuStreamCreate"))
}

//! The one process that may use CUDA: what is forked from it has neither the driver's threads nor the locks that these hold.

use core::sync::atomic::{AtomicU32, Ordering};
use std::process;

use crate::{Error, Result};

/// The first process that asked for CUDA; 0 before.
static FIRST: AtomicU32 = AtomicU32::new(0);

/// Refuses a forked process, before it waits for a lock that a thread of its parent may hold. A process that was forked before
/// CUDA was asked for is none.
pub(super) fn expect_unforked() -> Result<()> {
    let actual = process::id();
    match FIRST.compare_exchange(0, actual, Ordering::Relaxed, Ordering::Relaxed) {
        Err(expected) if expected != actual => Err(Error::Forked { expected, actual }),
        _ => Ok(()),
    }
}

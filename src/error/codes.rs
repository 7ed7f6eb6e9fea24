//! CUDA's codes of errors, which driver and runtime share.

/// Whether a context is lost with this code: those of which the CUDA driver API says that they leave the process in an
/// inconsistent state, or that the context can no longer be used, and those of uncorrectable errors of the hardware.
pub(super) fn is_fatal(code: u32) -> bool {
    matches!(code, 214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721 | 999)
}

/// Name of a well-known code. Asking the driver would need one.
pub(super) fn known(code: u32) -> &'static str {
    match code {
        1 => " (invalid value)",
        2 => " (out of memory)",
        3 => " (not initialized)",
        4 => " (the driver is shutting down)",
        34 => " (a stub library, not a driver)",
        35 => " (the driver is older than the CUDA runtime)",
        98 => " (invalid device function)",
        100 => " (no device)",
        101 => " (invalid device)",
        200 => " (invalid image)",
        201 => " (invalid context)",
        209 => " (no kernel image for this device)",
        400 => " (invalid handle)",
        700 => " (illegal address)",
        701 => " (out of launch resources)",
        702 => " (launch timed out)",
        715 => " (illegal instruction)",
        716 => " (misaligned address)",
        719 => " (launch failed)",
        720 => " (cooperative launch too large)",
        801 => " (not supported)",
        803 => " (driver and kernel module do not match)",
        900 => " (not permitted during capture)",
        901 => " (the capture is invalidated)",
        905 => " (work of a capture is not joined to it)",
        906 => " (the legacy stream would join a capture)",
        912 => " (invalid cluster size)",
        _ => "",
    }
}

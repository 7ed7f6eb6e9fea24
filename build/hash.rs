// The hash that ties the checked-in bindings to kernels/abi.h. Shared by build.rs, which compares it, and
// `cargo xtask bindings`, which writes it.

/// The line of src/cuda/ffi.rs that carries the hash begins with this.
pub(crate) const PREFIX: &str = "// kernels/abi.h, FNV-1a: ";

/// The line for a header: FNV-1a, 64 bits, over its bytes. Carriage returns do not count, since git may add them.
pub(crate) fn line(header: &[u8]) -> String {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = header.iter().filter(|&&byte| byte != b'\r').fold(0xcbf2_9ce4_8422_2325, step);
    format!("{PREFIX}{hash:016x}")
}

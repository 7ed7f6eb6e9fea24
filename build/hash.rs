// Hashes of sources, FNV-1a of 64 bits: of kernels/abi.h, which ties the checked-in bindings to it, and of all of kernels/,
// which says of what a kernel was compiled. Shared by build.rs and xtask. Carriage returns do not count: git may add them.

use std::fs;
use std::path::Path;

use super::sources;

/// The line of src/cuda/ffi.rs that carries the hash begins with this.
pub(crate) const PREFIX: &str = "// kernels/abi.h, FNV-1a: ";

/// The line for a header.
#[allow(dead_code, reason = "for those who compare or make the bindings")]
pub(crate) fn line(header: &[u8]) -> String {
    format!("{PREFIX}{:016x}", with(BASIS, header))
}

/// The hash of all files below a folder, 16 hexadecimal digits: in the order of their paths, the path, a 0, the bytes, a 0.
#[allow(dead_code, reason = "for those who compile kernels")]
pub(crate) fn sources(folder: &Path) -> Result<String, String> {
    let mut hash = BASIS;
    for (name, file) in sources::below(folder)? {
        let bytes = fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        for part in [name.as_bytes(), &[0], &bytes, &[0]] {
            hash = with(hash, part);
        }
    }
    Ok(format!("{hash:016x}"))
}

/// The hash of nothing.
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// A hash with these bytes behind what it is of.
fn with(hash: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().filter(|&&byte| byte != b'\r').fold(hash, step)
}

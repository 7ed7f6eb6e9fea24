//! The number of CTAs of a kernel that are resident on an SM: the rules of cuda_occupancy.h, for the architectures of the fat
//! binary.

/// The resources of an SM.
struct Sm {
    warps: u32,
    ctas: u32,
    shared: u32,
}

const REGISTERS: u32 = 65536;
const WARP: u32 = 32;
/// Each quarter of an SM has a quarter of the registers, and whole warps live in one.
const QUARTERS: u32 = 4;
/// Registers are given to a warp in multiples of this.
const REGISTER_UNIT: u32 = 256;
/// Shared memory is given to a CTA in multiples of this.
const SHARED_UNIT: u32 = 128;
/// Bytes of a CTA's shared memory that the system keeps.
const SHARED_RESERVED: u32 = 1024;

/// The technical specifications of the CUDA programming guide, by compute capability.
fn sm(architecture: &str) -> Option<Sm> {
    let kb = |size: u32| size * 1024;
    match architecture.trim_end_matches(['a', 'f']) {
        "80" => Some(Sm { warps: 64, ctas: 32, shared: kb(164) }),
        "86" => Some(Sm { warps: 48, ctas: 16, shared: kb(100) }),
        "89" => Some(Sm { warps: 48, ctas: 24, shared: kb(100) }),
        "90" | "100" | "103" => Some(Sm { warps: 64, ctas: 32, shared: kb(228) }),
        "120" | "121" => Some(Sm { warps: 48, ctas: 24, shared: kb(100) }),
        _ => None,
    }
}

/// The CTAs of `threads` that an SM holds, each with `shared` bytes of shared memory; none for an unknown architecture.
pub(super) fn ctas(architecture: &str, threads: u32, registers: u32, shared: u32) -> Option<u32> {
    let sm = sm(architecture)?;
    let warps = threads.div_ceil(WARP).max(1);
    let by_warps = sm.warps / warps;
    let by_shared = sm.shared / (shared + SHARED_RESERVED).next_multiple_of(SHARED_UNIT);
    let of_warp = (registers.max(1) * WARP).next_multiple_of(REGISTER_UNIT);
    // A launch is checked as if a CTA's warps were spread evenly over the quarters.
    let fits = of_warp * warps.next_multiple_of(QUARTERS) <= REGISTERS;
    let by_registers = if fits { QUARTERS * (REGISTERS / QUARTERS / of_warp) / warps } else { 0 };
    Some(sm.ctas.min(by_warps).min(by_shared).min(by_registers))
}

#[cfg(test)]
mod tests {
    use super::ctas;

    /// Values of the occupancy calculator.
    #[test]
    fn the_tightest_resource_decides() {
        assert_eq!(ctas("90", 256, 32, 0), Some(8)); // warps
        assert_eq!(ctas("90", 256, 128, 0), Some(2)); // registers
        assert_eq!(ctas("90", 256, 129, 0), Some(1)); // 136 a thread are given: 3 warps a quarter
        assert_eq!(ctas("90", 1024, 65, 0), Some(0)); // beyond the registers of an SM
        assert_eq!(ctas("90", 32, 16, 0), Some(32)); // CTAs
        assert_eq!(ctas("120", 256, 32, 0), Some(6));
        assert_eq!(ctas("80", 64, 32, 48 * 1024), Some(3)); // 49 KB each of 164
        assert_eq!(ctas("75", 64, 32, 0), None);
    }
}

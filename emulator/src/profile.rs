//! The emulated devices.

/// An emulated device: its ordinal, as given to `cuDeviceGet`.
///
/// The environment variable `CUDA_EMULATOR_PROFILE` makes the named one ordinal 0, for programs that open the first
/// device only; the others keep their order behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// sm_90, 4 multiprocessors in one GPC, 227 KB of shared memory a CTA, clusters.
    Hopper4,
    /// sm_80, 6 multiprocessors, 163 KB of shared memory a CTA.
    A100Like,
    /// sm_89, 4 multiprocessors, 99 KB of shared memory a CTA.
    Ada99,
    /// sm_86, without cooperative launch.
    NoCoop,
    /// sm_75: every launch fails with "no kernel image".
    Turing,
    /// Like Hopper4, with 64 MiB of memory.
    Memory,
    /// As large as an H100: sm_90, 132 multiprocessors in eight GPCs, 50 MB of L2. A grid that fills it has 132 or 264 CTAs,
    /// each a thread of the operating system.
    H100,
}

impl Profile {
    /// All of them, in the order of their ordinals.
    pub const ALL: [Profile; 7] = [
        Profile::Hopper4,
        Profile::A100Like,
        Profile::Ada99,
        Profile::NoCoop,
        Profile::Turing,
        Profile::Memory,
        Profile::H100,
    ];

    /// The device ordinal, where `CUDA_EMULATOR_PROFILE` is not set.
    pub fn ordinal(self) -> usize {
        self as usize
    }
}

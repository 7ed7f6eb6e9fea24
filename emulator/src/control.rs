//! Looking inside, and making things go wrong. Everything is the calling thread's own.

use crate::ffi;
use std::ffi::c_void;

/// Bytes that kernels moved between global memory and their threads. Copies and fills by the host do not count, nor do
/// the atomics that CTAs synchronise by. On a GPU these bytes pass between SM and L2; what reaches DRAM is less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes loaded.
    pub loaded: u64,
    /// Bytes stored.
    pub stored: u64,
}

/// Passes of shared memory's 32 banks, of 4 bytes each, over the accesses of warps. On a GPU each takes a cycle of the SM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wavefronts {
    /// Wavefronts with the bank conflicts that there are.
    pub needed: u64,
    /// Wavefronts of the same accesses without a conflict: one for 32 lanes of up to 4 bytes, 16 of 8 or 8 of 16.
    pub ideal: u64,
}

/// Objects that this thread made and nobody has given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Allocations.
    pub allocations: i64,
    /// Bytes of these.
    pub bytes: i64,
    /// Streams.
    pub streams: i64,
    /// Events.
    pub events: i64,
}

/// Chooses the order in which CTAs and threads run, for this thread's launches from now on. The same seed gives the same
/// orders again (but CTAs of a cluster or a cooperative launch run on threads of the operating system, which it does not
/// govern).
/// Begins as `CUDA_EMULATOR_SEED`, or 0.
pub fn set_seed(seed: u64) {
    ffi::cuda_emulator_set_seed(seed);
}

/// Turns the race check on or off; it is the costly one. Begins as on, unless `CUDA_EMULATOR_RACES=0`.
pub fn set_races(on: bool) {
    ffi::cuda_emulator_set_races(i32::from(on));
}

/// Whether a copy to the host of bytes that nobody ever wrote fails (with `CUDA_ERROR_ILLEGAL_STATE`). Begins as true.
pub fn set_strict_copies(on: bool) {
    ffi::cuda_emulator_set_strict_copies(i32::from(on));
}

/// Makes the `k`-th driver or runtime call from now (1 is the next one) fail with `code`, without being carried out.
/// 0 takes it back.
pub fn fail_call(k: u64, code: i32) {
    ffi::cuda_emulator_fail_call(k, code);
}

/// Takes back what [`fail_call`] ordered.
pub fn clear_faults() {
    ffi::cuda_emulator_fail_call(0, 0);
}

/// Whether the fault that [`fail_call`] ordered has yet to strike.
pub fn fault_pending() -> bool {
    ffi::cuda_emulator_fault_pending() != 0
}

/// Multiprocessors of the device that another kernel is said to hold. Dropping it, on any thread, releases them.
#[derive(Debug)]
#[must_use = "dropping it releases the multiprocessors"]
pub struct HeldSms(*mut c_void);

// SAFETY: the handle is used by functions that lock what it points to, whichever thread calls them.
unsafe impl Send for HeldSms {}
// SAFETY: as above.
unsafe impl Sync for HeldSms {}

/// Says that another kernel holds `count` multiprocessors (of whatever device), for this thread's launches until the
/// result is dropped. They then do what they would do while that kernel runs: a cooperative grid waits until all of it fits the
/// rest, a cluster until one fits, any other launch until one multiprocessor is free. A launch is over when its call
/// returns, so it is the call that waits, and another thread must release; after 60 seconds the launch fails with
/// `CUDA_ERROR_LAUNCH_TIMEOUT`. What would not fit the whole device is refused at once, and occupancy is asked of the whole
/// device, as on a GPU.
pub fn hold_sms(count: u32) -> HeldSms {
    HeldSms(ffi::cuda_emulator_hold_sms(count))
}

impl HeldSms {
    /// Whether a launch of the thread that called [`hold_sms`] is waiting now.
    pub fn launch_waits(&self) -> bool {
        // SAFETY: the handle is alive until `drop`.
        unsafe { ffi::cuda_emulator_launch_waits(self.0) != 0 }
    }
}

impl Drop for HeldSms {
    fn drop(&mut self) {
        // SAFETY: the handle came from `cuda_emulator_hold_sms`, and nobody uses it after this.
        unsafe { ffi::cuda_emulator_release_sms(self.0) };
    }
}

/// Driver and runtime calls made so far.
pub fn calls() -> u64 {
    ffi::cuda_emulator_calls()
}

/// Kernel launches asked for so far, refused ones included.
pub fn launches() -> u64 {
    ffi::cuda_emulator_launches()
}

/// Bytes moved since the last [`reset_traffic`].
pub fn traffic() -> Traffic {
    let mut traffic = Traffic::default();
    // SAFETY: both pointers are to live u64s for the time of the call.
    unsafe { ffi::cuda_emulator_traffic(&mut traffic.loaded, &mut traffic.stored) };
    traffic
}

/// Bytes moved from and to the allocation that `address` lies in, since it was made, by launches of any thread. `None`
/// where there is no allocation.
pub fn traffic_of(address: u64) -> Option<Traffic> {
    let mut traffic = Traffic::default();
    // SAFETY: both pointers are to live u64s for the time of the call; the address is looked up, not read.
    let found = unsafe { ffi::cuda_emulator_traffic_of(address, &mut traffic.loaded, &mut traffic.stored) };
    (found != 0).then_some(traffic)
}

/// Starts [`traffic`] at 0.
pub fn reset_traffic() {
    ffi::cuda_emulator_reset_traffic();
}

/// Whether this thread's launches from now on count wavefronts of shared memory, from 0 if so. Begins as false: counting
/// takes a launch half its time again.
///
/// Accesses of a warp's lanes are taken to be one instruction's if they have the same code address and the same number among
/// the lane's accesses from there since all lanes of the warp last met in a collective or at a barrier. An access whose type is
/// aligned to less than its size counts word by word, as nvcc issues it where it knows no more of the address. Mbarriers and stores
/// from other CTAs do not count.
pub fn count_wavefronts(on: bool) {
    ffi::cuda_emulator_count_wavefronts(i32::from(on));
}

/// Wavefronts since [`count_wavefronts`] began.
pub fn wavefronts() -> Wavefronts {
    let mut wavefronts = Wavefronts::default();
    // SAFETY: both pointers are to live u64s for the time of the call.
    unsafe { ffi::cuda_emulator_wavefronts(&mut wavefronts.needed, &mut wavefronts.ideal) };
    wavefronts
}

/// The code address with most wavefronts beyond the ideal, in words, and its wavefronts since [`count_wavefronts`] began. `None`
/// where shared memory was not accessed.
pub fn worst_wavefronts() -> Option<(String, Wavefronts)> {
    let mut wavefronts = Wavefronts::default();
    let mut text = vec![0; 1024];
    // SAFETY: both pointers are to live u64s for the time of the call, and it writes at most `text.len()` bytes.
    let bytes = unsafe {
        let Wavefronts { needed, ideal } = &mut wavefronts;
        ffi::cuda_emulator_worst_wavefronts(needed, ideal, text.as_mut_ptr(), text.len())
    };
    text.truncate(bytes);
    (wavefronts.ideal > 0).then(|| (String::from_utf8_lossy(&text).trim().to_string(), wavefronts))
}

/// The objects of this thread that are alive.
pub fn live() -> Live {
    let mut counts = [0; 4];
    // SAFETY: the function writes four i64s, and `counts` holds four.
    unsafe { ffi::cuda_emulator_live(counts.as_mut_ptr()) };
    let [allocations, bytes, streams, events] = counts;
    Live { allocations, bytes, streams, events }
}

/// The last report: which kernel, CTA, thread and address, and what was wrong. It was printed to stderr as well, as `eprintln!`
/// prints: of a test only where it fails. `None` where there was none since [`clear_error`].
pub fn last_report() -> Option<String> {
    // SAFETY: a capacity of 0 writes nothing and returns the length.
    let bytes = unsafe { ffi::cuda_emulator_last_report(std::ptr::null_mut(), 0) };
    let mut text = vec![0; bytes];
    // SAFETY: the function writes at most `text.len()` bytes.
    unsafe { ffi::cuda_emulator_last_report(text.as_mut_ptr(), text.len()) };
    (bytes > 0).then(|| String::from_utf8_lossy(&text).into_owned())
}

/// Forgets the error of a failed launch, which every later call of this thread returns until then (on a GPU, until the
/// process ends), and the last report.
pub fn clear_error() {
    ffi::cuda_emulator_clear_error();
}

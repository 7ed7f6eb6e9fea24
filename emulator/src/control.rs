//! Looking inside, and making things go wrong. Everything is the calling thread's own.

use crate::ffi;

/// Bytes that kernels moved between global memory and their threads. Copies and fills by the host do not count, nor do
/// the atomics that CTAs synchronise by. On a GPU these bytes pass between SM and L2; what reaches DRAM is less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes loaded.
    pub loaded: u64,
    /// Bytes stored.
    pub stored: u64,
}

/// What this thread made and nobody has given back.
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
/// orders again (but CTAs of a cooperative launch run on threads of the operating system, which it does not govern).
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

/// What is alive of what this thread made.
pub fn live() -> Live {
    let mut counts = [0; 4];
    // SAFETY: the function writes four i64s, and `counts` holds four.
    unsafe { ffi::cuda_emulator_live(counts.as_mut_ptr()) };
    let [allocations, bytes, streams, events] = counts;
    Live { allocations, bytes, streams, events }
}

/// The last report: which kernel, CTA, thread and address, and what was wrong. It was printed to stderr as well. `None`
/// where there was none since [`clear_error`].
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

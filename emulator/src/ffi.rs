//! The glue's functions that this crate calls.

use std::ffi::c_void;

unsafe extern "C" {
    pub(crate) safe fn cuda_emulator_set_seed(seed: u64);
    pub(crate) safe fn cuda_emulator_set_races(on: i32);
    pub(crate) safe fn cuda_emulator_set_strict_copies(on: i32);
    pub(crate) safe fn cuda_emulator_fail_call(k: u64, code: i32);
    pub(crate) safe fn cuda_emulator_fault_pending() -> i32;
    pub(crate) safe fn cuda_emulator_calls() -> u64;
    pub(crate) safe fn cuda_emulator_launches() -> u64;
    pub(crate) safe fn cuda_emulator_reset_traffic();
    pub(crate) safe fn cuda_emulator_count_wavefronts(on: i32);
    pub(crate) safe fn cuda_emulator_clear_error();
    pub(crate) safe fn cuda_emulator_hold_sms(count: u32) -> *mut c_void;
    pub(crate) fn cuda_emulator_launch_waits(held: *mut c_void) -> i32;
    pub(crate) fn cuda_emulator_release_sms(held: *mut c_void);
    pub(crate) fn cuda_emulator_traffic(loaded: *mut u64, stored: *mut u64);
    pub(crate) fn cuda_emulator_traffic_of(address: u64, loaded: *mut u64, stored: *mut u64) -> i32;
    pub(crate) fn cuda_emulator_wavefronts(needed: *mut u64, ideal: *mut u64);
    pub(crate) fn cuda_emulator_worst_wavefronts(
        needed: *mut u64,
        ideal: *mut u64,
        place: *mut u8,
        capacity: usize,
    ) -> usize;
    pub(crate) fn cuda_emulator_live(counts: *mut i64);
    pub(crate) fn cuda_emulator_last_report(text: *mut u8, capacity: usize) -> usize;
}

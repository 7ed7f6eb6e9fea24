//! A CUDA device on the CPU, for tests on machines without a GPU.
//!
//! It is a `libcuda.so.1` that any program finds by `dlopen` once this crate is linked, and headers with which g++
//! compiles CUDA C++ unchanged. Kernels run as threads and fibers of this process, and every load and store is
//! checked for bounds, alignment, memory that nobody wrote, and races by happens-before. It takes no time: nothing here
//! says how fast a GPU is.
//!
//! A crate uses it by `extern crate cuda_emulator as _;` and a build script that compiles its .cu files with
//! `DEP_CUDA_EMULATOR_FLAGS` and `DEP_CUDA_EMULATOR_INCLUDE`; see the README. The functions of this crate then look
//! inside. All of them are about the calling thread alone (and the launches, allocations and errors it caused), so that
//! tests can run side by side.
//!
//! Device ordinals are [`Profile`]s.

#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod control;
mod ffi;
mod print;
mod profile;

pub use control::{
    HeldSms, Live, Traffic, Wavefronts, calls, clear_error, clear_faults, count_wavefronts, fail_call, fault_pending,
    hold_sms, last_report, launches, live, reset_traffic, set_races, set_seed, set_strict_copies, traffic, traffic_of,
    wavefronts, worst_wavefronts,
};
pub use profile::Profile;

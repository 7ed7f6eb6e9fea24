//! Everything that is tested on a CUDA device: a real one with the feature `cuda`, the emulated one with `emulate`. One
//! executable, so that it can be carried to a machine with a GPU and no toolchain.
//!
//! Without a device the tests say "skipped: no CUDA device" and pass, unless `BATCHNORM_REQUIRE_GPU=1`.

#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test, to its last helper.

#[path = "../abuse/mod.rs"]
mod abuse;
mod api;
#[cfg(feature = "emulate")]
mod banks;
#[path = "../batches/mod.rs"]
mod batches;
mod bits;
#[cfg(feature = "emulate")]
mod bytes;
#[path = "../conformance/mod.rs"]
mod conformance;
mod device;
mod exchange;
#[cfg(feature = "emulate")]
mod faults;
mod forked;
mod graphs;
#[path = "../handling/mod.rs"]
mod handling;
mod journal;
mod litmus;
#[path = "../passes/mod.rs"]
mod passes;
mod plan_table;
mod probes;
mod properties;
#[path = "../random/mod.rs"]
mod random;
mod references;
mod replay;
mod residency;
#[path = "../sequences/mod.rs"]
mod sequences;
mod special;
mod step;
mod table;
mod thresholds;
#[path = "../unneeded/mod.rs"]
mod unneeded;
mod watchdog;
mod workspace;
mod zz_priorities;

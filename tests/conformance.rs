//! Cases that no one here computed by hand: outputs of ONNX, TensorFlow, Keras, Flax, PyTorch, and literal values from
//! public test suites, compared with the CPU reference (and in tests/cuda against a device).
//!
//! All of ../shared/conformance where that folder is, and always the subset in tests/data/conformance, which
//! `cargo xtask conformance` makes. Nothing is skipped: what policy refuses is listed in `conformance/refused.rs` and
//! asserted to be refused, and the counts are asserted. `BATCHNORM_REQUIRE_SHARED=1` fails where the folder is missing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test, to its last helper.

#[path = "conformance/mod.rs"]
mod references;

use batchnorm::Cpu;

#[test]
fn the_subset_in_the_repository_agrees_with_the_frameworks() {
    references::hold_subset(&Cpu, usize::MAX, &|_, run| run());
}

#[test]
fn everything_in_shared_agrees_with_the_frameworks() {
    references::hold_whole(&Cpu, usize::MAX, &|_, run| run());
}

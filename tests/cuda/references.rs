//! Outputs of ONNX, TensorFlow, Keras, Flax, PyTorch, and literal values from public test suites, held against the device.
//! The cases, the bar and what is refused are those of tests/conformance.rs.

use super::conformance;
use crate::device::cuda;

#[test]
fn the_subset_in_the_repository_agrees_with_the_frameworks() {
    let Some(cuda) = cuda() else { return };
    conformance::hold_subset(&cuda);
}

#[test]
fn everything_in_shared_agrees_with_the_frameworks() {
    let Some(cuda) = cuda() else { return };
    conformance::hold_whole(&cuda);
}

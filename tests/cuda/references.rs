//! Outputs of ONNX, TensorFlow, Keras, Flax, PyTorch, and literal values from public test suites, compared with the
//! device. The cases, the bar and what is refused are those of tests/conformance.rs.

use batchnorm::Strategy;

use crate::conformance;
use crate::device::{EMULATED, cuda};
use crate::journal::watched;

/// Values of the largest case that runs: on the emulated device the tensors of millions of values would take minutes.
const LARGEST: usize = if EMULATED { 1 << 21 } else { usize::MAX };

#[test]
fn the_subset_in_the_repository_agrees_with_the_frameworks() {
    let Some(cuda) = cuda() else { return };
    // The planner's choice, mostly block for tensors of this size, and the strategy that can always be chosen.
    for strategy in [None, Some(Strategy::TwoPass)] {
        let cuda = cuda.clone().with_strategy(strategy);
        conformance::hold_subset(&cuda, LARGEST, &|what, run| watched(&cuda, what, run));
    }
}

#[test]
fn everything_in_shared_agrees_with_the_frameworks() {
    let Some(cuda) = cuda() else { return };
    conformance::hold_whole(&*cuda, LARGEST, &|what, run| watched(&cuda, what, run));
}

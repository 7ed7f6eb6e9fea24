//! The devices that tests run on.

use batchnorm::{Cuda, Error, Strategy};

/// Whether the device is the emulated one, which is slow.
pub(crate) const EMULATED: bool = cfg!(feature = "emulate");

/// Every way to plan: the planner's own, and each strategy forced.
pub(crate) const STRATEGIES: [Option<Strategy>; 5] =
    [None, Some(Strategy::Block), Some(Strategy::Cluster), Some(Strategy::Grid), Some(Strategy::TwoRead)];

/// The first device; `None`, with a message, where there is none and none is required.
pub(crate) fn cuda() -> Option<Cuda> {
    match Cuda::new(0).and_then(|cuda| cuda.keep_memory().map(|()| cuda)) {
        Ok(cuda) => Some(cuda),
        Err(error @ (Error::NoDriver { .. } | Error::NoDevice { .. })) => {
            let required = std::env::var("BATCHNORM_REQUIRE_GPU").is_ok_and(|value| value == "1");
            assert!(!required, "BATCHNORM_REQUIRE_GPU=1, and there is none: {error}");
            println!("skipped: no CUDA device ({error})");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

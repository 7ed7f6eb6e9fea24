//! The threads of what the command line computes itself, outside of the operations.

use std::sync::OnceLock;

use batchnorm::Cpu;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::ending;

/// Runs `work`, whose parallel iterators use as many threads as an operation does, or this one alone where no other can be had.
pub(crate) fn install<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    let of_this_thread = || ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
    let made = || {
        let count = Cpu::threads();
        let pool = ending::has_room_for_threads(count).then(|| ThreadPoolBuilder::new().num_threads(count).build());
        pool.and_then(Result::ok).or_else(|| of_this_thread().ok())
    };
    match POOL.get_or_init(made) {
        Some(pool) => pool.install(work),
        None => work(), // This thread is one of a pool already.
    }
}

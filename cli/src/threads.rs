//! The threads of what the command line computes itself, beside the operations.

use std::sync::OnceLock;

use batchnorm::Cpu;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Runs `work`, whose parallel iterators use as many threads as an operation does, or this one alone where no other can be had.
pub(crate) fn install<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    let of_this_thread = || ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
    let made = || ThreadPoolBuilder::new().num_threads(Cpu::threads()).build().or_else(|_| of_this_thread());
    match POOL.get_or_init(|| made().ok()) {
        Some(pool) => pool.install(work),
        None => work(), // This thread is one of a pool already.
    }
}

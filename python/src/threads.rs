//! The threads of the CPU path: as many as PyTorch has been told to use, and those of this process.

use std::process;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::PyResult;
use pyo3::exceptions::PyRuntimeError;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Values that the crate computes on the calling thread, without any other.
const SMALL: usize = 64 * 1024;

/// Runs `operation` over `len` values on `threads` threads.
pub(crate) fn run<R: Send>(threads: u64, len: usize, operation: impl FnOnce() -> R + Send) -> PyResult<R> {
    if len <= SMALL {
        return Ok(operation());
    }
    Ok(pool(threads)?.install(operation))
}

/// The pool of this process. A process that was forked has the pools of its parent and none of their threads, and would wait
/// for ever.
fn pool(threads: u64) -> PyResult<Arc<ThreadPool>> {
    static KNOWN: Mutex<Option<(u32, u64, Arc<ThreadPool>)>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let here = process::id();
    match known.take() {
        Some((process, size, pool)) if (process, size) == (here, threads) => {
            *known = Some((process, size, Arc::clone(&pool)));
            return Ok(pool);
        }
        // To give it up would wake threads that are not there.
        Some((process, _, pool)) if process != here => core::mem::forget(pool),
        _ => {}
    }
    let size = usize::try_from(threads).unwrap_or(1).max(1);
    let built = ThreadPoolBuilder::new().num_threads(size).thread_name(|i| format!("batchnorm-{i}")).build();
    let pool = built.map_err(|error| PyRuntimeError::new_err(format!("batchnorm: {size} threads: {error}")))?;
    let pool = Arc::new(pool);
    *known = Some((here, threads, Arc::clone(&pool)));
    Ok(pool)
}

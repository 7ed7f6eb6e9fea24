//! The threads that an operation is computed on: the calling one, or those of a pool.
//!
//! Parallel iterators are rayon's. Left to themselves they run on its global pool, which cannot be made in a process that may
//! have no more threads, and whose threads a forked process has not, but would wait for. So no iterator here is left to itself:
//! [`run`] decides where an operation is computed, and [`for_each`] and [`map`] take the items one by one where that is the
//! calling thread. Nothing waits for a lock that a thread of a parent process may hold.

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, process, thread};

use arc_swap::ArcSwapOption;
use rayon::iter::plumbing::{Producer, ProducerCallback};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::Cpu;
use crate::memory;

/// Values that the calling thread computes alone, in less time than it takes to wake another twice.
const ALONE: usize = 64 * 1024;
/// Time after which a pool that could not be made is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Time that a new pool's threads have to begin before the calling thread computes alone: they take far less (not measured).
/// Those of a forked process may never: each takes a lock of the standard library's as it begins, which a thread of the parent
/// may have held.
const PATIENCE: Duration = Duration::from_millis(100);

/// The address space that a thread takes: its stack, and then some for what it allocates as it begins.
const OF_THREAD: usize = 3 << 20;
/// Address space that must be free in addition: more than the allocator may have kept of freed memory, since a stack takes
/// none of it.
const SPARE: usize = 64 << 20;

thread_local! {
    /// Threads that the operations of this thread may use; 0 where nothing was said.
    static COUNT: Cell<usize> = const { Cell::new(0) };
    /// Whether this thread computes an operation without any other.
    static IS_ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Sets a cell for as long as this lives.
struct Set<T: Copy + 'static>(&'static thread::LocalKey<Cell<T>>, T);

impl<T: Copy> Set<T> {
    fn new(cell: &'static thread::LocalKey<Cell<T>>, value: T) -> Self {
        Self(cell, cell.replace(value))
    }
}

impl<T: Copy + 'static> Drop for Set<T> {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

impl Cpu {
    /// The number of threads that an operation may use if this thread calls it: those of rayon's pool where this is a thread of
    /// one; else the count of [`Cpu::with_threads`], or the environment's `RAYON_NUM_THREADS`, or the process's processors.
    pub fn threads() -> usize {
        match (rayon::current_thread_index(), COUNT.get()) {
            (Some(_), _) => rayon::current_num_threads(),
            (None, 0) => usual(),
            (None, count) => count,
        }
    }

    /// Runs `work`, in which an operation that this thread calls uses `count` threads at most; 0 is taken as 1.
    ///
    /// The calling thread alone computes if `count` is 1. A thread of a pool of rayon's, as under `ThreadPool::install`, uses
    /// that pool whatever the count. Results do not depend on it.
    ///
    /// ```
    /// use batchnorm::{BatchNorm, Cpu, Epilogue, Options, Shape};
    ///
    /// let (shape, x, mut y) = (Shape::nc(2, 3)?, [1.0f32; 6], [0.0; 6]);
    /// let layer = BatchNorm::new(Cpu, 3, Options::new())?;
    /// Cpu::with_threads(1, || layer.infer(shape, &x, Epilogue::IDENTITY, &mut y))?;
    /// # Ok::<(), batchnorm::Error>(())
    /// ```
    pub fn with_threads<R>(count: usize, work: impl FnOnce() -> R) -> R {
        let _set = Set::new(&COUNT, count.max(1));
        work()
    }
}

/// Computes an operation over `len` values.
pub(crate) fn run<R: Send>(len: usize, work: impl FnOnce() -> R + Send) -> R {
    let known = match rayon::current_thread_index() {
        _ if len <= ALONE => None,
        Some(_) => return work(), // In a process that was forked on it, it takes back what it offers to the others.
        None => pool(Cpu::threads()),
    };
    match known.as_ref().and_then(|known| known.pool.as_ref()) {
        Some(pool) => pool.install(work),
        None => {
            let _set = Set::new(&IS_ALONE, true);
            work()
        }
    }
}

/// `work` on each item, by the threads that [`run`] chose.
pub(crate) fn for_each<I: IndexedParallelIterator>(items: I, work: impl Fn(I::Item) + Sync + Send) {
    if is_shared() { items.for_each(work) } else { items.with_producer(OneByOne(work)) }
}

/// The results of `work` for each item, in their order, by the threads that [`run`] chose.
pub(crate) fn map<I: IndexedParallelIterator, R: Send>(items: I, work: impl Fn(I::Item) -> R + Sync + Send) -> Vec<R> {
    if is_shared() {
        return items.map(work).collect();
    }
    let mut results = Vec::with_capacity(items.len());
    items.with_producer(OneByOne(|item| results.push(work(item))));
    results
}

/// Whether this is a thread of a pool that shares the work.
pub(crate) fn is_shared() -> bool {
    rayon::current_thread_index().is_some() && !IS_ALONE.get()
}

/// Takes the items of a parallel iterator one after the other.
struct OneByOne<F>(F);

impl<T, F: FnMut(T)> ProducerCallback<T> for OneByOne<F> {
    type Output = ();
    fn callback<P: Producer<Item = T>>(self, producer: P) {
        producer.into_iter().for_each(self.0);
    }
}

/// The number of threads that operations use by default.
fn usual() -> usize {
    static KNOWN: AtomicUsize = AtomicUsize::new(0);
    let known = KNOWN.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    let variable = env::var("RAYON_NUM_THREADS").ok().and_then(|count| count.parse().ok());
    let count = variable.filter(|&count| count > 0).or_else(|| thread::available_parallelism().ok().map(Into::into));
    KNOWN.store(count.unwrap_or(1), Ordering::Relaxed);
    count.unwrap_or(1)
}

/// A pool of a process, or that there was none to be had.
struct Known {
    process: u32,
    count: usize,
    pool: Option<ThreadPool>,
    /// The pool's threads that have begun, and initialised what they need.
    begun: Arc<AtomicUsize>,
    tried: Instant,
}

impl Known {
    /// Tries to make a pool of this count, and waits a while for its threads to begin.
    fn new(process: u32, count: usize) -> Self {
        let begun = Arc::new(AtomicUsize::new(0));
        // A thread that finds no memory as it begins takes the process with it.
        let has_room = memory::expect_room(count.saturating_mul(OF_THREAD).saturating_add(SPARE)).is_ok();
        let pool = ThreadPoolBuilder::new().num_threads(count).thread_name(|i| format!("batchnorm-{i}"));
        let pool = if has_room { pool.build().ok() } else { None };
        let known = Self { process, count, pool, begun, tried: Instant::now() };
        if let Some(pool) = &known.pool {
            let begun = Arc::clone(&known.begun);
            pool.spawn_broadcast(move |_| {
                begun.fetch_add(1, Ordering::Release);
            });
            while known.waits_for_threads() && known.tried.elapsed() < PATIENCE {
                thread::sleep(Duration::from_micros(20));
            }
        }
        known
    }

    /// Whether there is a pool, and not all of its threads have begun.
    fn waits_for_threads(&self) -> bool {
        self.pool.is_some() && self.begun.load(Ordering::Acquire) < self.count
    }

    /// Whether there is a pool of this count, all of whose threads have begun.
    fn serves(&self, count: usize) -> bool {
        self.pool.is_some() && self.count == count && !self.waits_for_threads()
    }

    /// Whether a pool of this count is to be tried in its place.
    fn is_outdated(&self, count: usize) -> bool {
        let is_of_use = self.count == count && (self.pool.is_some() || self.tried.elapsed() < RETRY);
        !is_of_use && !self.waits_for_threads()
    }
}

/// The pool of this process of this count, ready; `None` where the calling thread is to compute.
fn pool(count: usize) -> Option<Arc<Known>> {
    static KNOWN: ArcSwapOption<Known> = ArcSwapOption::const_empty();
    /// The process in which a thread makes a pool, or 0.
    static MAKER: AtomicU32 = AtomicU32::new(0);
    if count <= 1 {
        return None;
    }
    let (process, known) = (process::id(), KNOWN.load_full());
    let of_parent = known.as_ref().is_some_and(|known| known.process != process);
    if let Some(known) = &known
        && !of_parent
        && !known.is_outdated(count)
    {
        return known.serves(count).then(|| Arc::clone(known));
    }
    // Another thread is making one: this operation does not wait for it. Or a thread of the parent was when this process was
    // forked: what it had begun to initialise nobody will end, and no thread is safe to make.
    MAKER.compare_exchange(0, process, Ordering::Acquire, Ordering::Relaxed).ok()?;
    if of_parent {
        // Dropping it would wake threads that are not there.
        core::mem::forget(known);
    }
    let made = Arc::new(Known::new(process, count));
    KNOWN.store(Some(Arc::clone(&made)));
    MAKER.store(0, Ordering::Release);
    made.serves(count).then_some(made)
}

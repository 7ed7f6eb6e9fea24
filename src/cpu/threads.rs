//! The threads that an operation is computed on: the calling one, alone or with those of a pool.
//!
//! The pool is one of this crate's own, or rayon's where one of its threads calls. [`run`] decides where an operation is computed;
//! [`for_each`] and [`map`] share items with the pool, and inside of an item with nobody. Nothing waits for a thread that a forked
//! process has not, or for a lock that a thread of a parent process may hold.

use core::cell::{Cell, RefCell};
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, process, thread};

use arc_swap::ArcSwapOption;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::Cpu;
use super::team::share;
use crate::memory;

/// Values that the calling thread computes alone, in less time than it takes to wake another.
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
    /// Threads that this one shares the items of its operation with.
    static TEAM: RefCell<Option<Team>> = const { RefCell::new(None) };
}

/// Threads that may help.
enum Team {
    /// The threads of a pool of this crate's.
    Pool(Arc<Known>),
    /// The others of the pool of rayon's that the calling thread is of.
    Rayon,
}

/// Puts back what was there when it is dropped.
struct Restore<T, F: Fn(T)>(Option<T>, F);

impl<T, F: Fn(T)> Drop for Restore<T, F> {
    fn drop(&mut self) {
        self.0.take().map(&self.1);
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
        let _restore = Restore(Some(COUNT.replace(count.max(1))), |before| COUNT.set(before));
        work()
    }
}

/// Computes an operation over `len` values.
pub(crate) fn run<R>(len: usize, work: impl FnOnce() -> R) -> R {
    let team = match rayon::current_thread_index() {
        _ if len <= ALONE => None,
        Some(_) => Some(Team::Rayon),
        None => pool(Cpu::threads()).map(Team::Pool),
    };
    let _restore = Restore(Some(replace_team(team)), |before| drop(replace_team(before)));
    work()
}

/// `work` on each of `items` items, at least `at_once` at a time, by the threads that [`run`] chose.
pub(crate) fn for_each(items: usize, at_once: usize, work: &(dyn Fn(usize) + Sync)) {
    let work = |items: Range<usize>| items.for_each(work);
    let tasks = items.div_ceil(at_once);
    // An item's own items are not shared: all threads are at items.
    let team = if tasks > 1 { replace_team(None) } else { None };
    let Some(team) = team else { return work(0..items) };
    let restore = Restore(Some(team), |team| drop(replace_team(Some(team))));
    let threads = Cpu::threads().min(tasks);
    match &restore.0 {
        Some(Team::Pool(known)) => match &known.pool {
            Some(pool) => share(items, at_once, threads - 1, |help| pool.spawn(help), &work),
            None => work(0..items),
        },
        // In a process that was forked on such a thread nobody takes what it offers.
        _ => share(items, at_once, threads - 1, rayon::spawn, &work),
    }
}

/// The results of `work` for each item, in their order, by the threads that [`run`] chose.
pub(crate) fn map<R: Send>(items: usize, at_once: usize, work: impl Fn(usize) -> R + Sync) -> Vec<R> {
    if items <= at_once || !is_shared() {
        return (0..items).map(work).collect();
    }
    let results: Vec<Mutex<Option<R>>> = (0..items).map(|_| Mutex::new(None)).collect();
    for_each(items, at_once, &|item| {
        let result = work(item);
        *results[item].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    });
    results.into_iter().filter_map(|result| result.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
}

/// Whether items are shared with other threads here.
fn is_shared() -> bool {
    TEAM.try_with(|team| team.borrow().is_some()).unwrap_or(false)
}

/// Replaces the calling thread's team. A thread that is about to end has no place for one, and computes alone.
fn replace_team(team: Option<Team>) -> Option<Team> {
    TEAM.try_with(|place| place.replace(team)).unwrap_or(None)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::Element;
    use crate::op::Moments;
    use crate::shape::{Layout, Shape};

    /// The mean of ones, by all threads where there are some.
    fn mean_of_ones() -> f32 {
        let shape = Shape::new(&[4, 1, 2 * ALONE], Layout::ChannelsFirst).unwrap();
        let x = vec![f32::from_f64(1.0); shape.len()];
        let [mut mean, mut var] = [[0.0]; 2];
        crate::Compute::run(&Cpu, Moments { shape, x: &x[..], mean: &mut mean[..], var: &mut var[..] }).unwrap();
        mean[0]
    }

    #[test]
    fn a_thread_computes_until_its_end() {
        struct AtTheEnd;
        impl Drop for AtTheEnd {
            fn drop(&mut self) {
                let mean = std::panic::catch_unwind(mean_of_ones);
                FOUND.store(mean.map_or(2, |mean| u32::from(mean == 1.0)), Ordering::Relaxed);
            }
        }
        static FOUND: AtomicU32 = AtomicU32::new(3);
        thread_local! {
            static LAST: AtTheEnd = const { AtTheEnd };
        }
        // Thread-locals are dropped in the reverse of the order in which they were first used.
        thread::spawn(|| LAST.with(|_| mean_of_ones())).join().unwrap();
        assert_eq!(FOUND.load(Ordering::Relaxed), 1);
    }
}

//! A process that is forked while threads of it compute: every operation works in the child, at sizes on both sides of each
//! threshold, and gives the parent's bits.
#![cfg(unix)]

mod abuse;

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use abuse::Part;
use batchnorm::{BatchNorm, Cpu, Epilogue, Gradients, Options, Shape, StateDict};

/// Seconds after which a child is taken to hang.
const WATCHDOG: u32 = 60;
/// Longest time, on a loaded machine, of work that takes a second.
const LIMIT: Duration = Duration::from_secs(30);

/// Everything that a training step and an inference write.
#[derive(PartialEq)]
struct Step {
    data: Vec<Vec<f32>>,
    channels: Vec<Vec<f32>>,
    state: StateDict<f32>,
}

fn step(shape: Shape, epilogue: Epilogue<()>, x: &[f32]) -> Step {
    let residual = |tensor| epilogue.map(|()| tensor);
    let (len, c) = (shape.len(), shape.c());
    let mut layer = BatchNorm::new(Cpu, c, Options::default()).unwrap();
    let mut saved = layer.saved(shape, epilogue).unwrap();
    let mut data = vec![vec![0.0; len]; 7];
    let mut channels = vec![vec![0.0; c]; 4];
    let [y, dx, dz, inferred, frozen, dx_frozen, dz_frozen] = &mut data[..] else { unreachable!() };
    let [dgamma, dbeta, dgamma_frozen, dbeta_frozen] = &mut channels[..] else { unreachable!() };
    layer.train(shape, x, residual(x), y, &mut saved).unwrap();
    let gradients = Gradients::<Cpu, f32> { dx: Some(dx), dgamma: Some(dgamma), dbeta: Some(dbeta) };
    layer.backward(shape, x, x, epilogue.map(|()| &mut dz[..]), &saved, gradients).unwrap();
    layer.infer(shape, x, residual(x), inferred).unwrap();
    layer.frozen(shape, x, residual(x), frozen, &mut saved).unwrap();
    let gradients =
        Gradients::<Cpu, f32> { dx: Some(dx_frozen), dgamma: Some(dgamma_frozen), dbeta: Some(dbeta_frozen) };
    layer.backward(shape, x, x, epilogue.map(|()| &mut dz_frozen[..]), &saved, gradients).unwrap();
    let state = layer.state_dict().unwrap();
    Step { data, channels, state }
}

struct Case {
    shape: Shape,
    epilogue: Epilogue<()>,
    x: Vec<f32>,
    want: Step,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // Shapes below and above the words of a mask that are shared at least, and the values that one thread computes; and many
    // tasks.
    for (n, c, s) in
        [(2, 3, 1), (1023, 32, 1), (1025, 32, 1), (2048, 32, 1), (2049, 32, 1), (30, 16, 400), (3, 2, 70_000)]
    {
        let shape = Shape::new(&[n, c, s], batchnorm::Layout::ChannelsFirst).unwrap();
        let x: Vec<f32> = (0..shape.len()).map(|i| ((i * 7919) % 1013) as f32 / 64.0).collect();
        for &epilogue in Epilogue::ALL {
            let want = Cpu::with_threads(1, || step(shape, epilogue, &x));
            cases.push(Case { shape, epilogue, x: x.clone(), want });
        }
    }
    cases
}

impl Case {
    /// The case of these dims and this epilogue.
    fn of<'a>(cases: &'a [Self], dims: &[usize], epilogue: Epilogue<()>) -> &'a Self {
        cases.iter().find(|case| case.shape.dims() == dims && case.epilogue == epilogue).unwrap()
    }
}

/// The status of a forked process that does this: 0 where it was true, or else how it ended.
fn forked(work: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child computes and ends; it returns to no caller, and calls nothing that waits for threads of its parent.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "no process to be had");
    if child == 0 {
        // SAFETY: these functions take numbers.
        unsafe { libc::alarm(WATCHDOG) };
        let code = i32::from(!work());
        // SAFETY: as above; nothing of the parent's is run on the way.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: the status is this function's own.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    status
}

#[test]
fn a_forked_process_computes() {
    let cases = cases();
    let is_right = |case: &Case| step(case.shape, case.epilogue, &case.x) == case.want;
    assert!(cases.iter().all(|case| Cpu::with_threads(2, || is_right(case))));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for k in 0..3 {
            let (large, is_over) = (Case::of(&cases, &[3, 2, 70_000], Epilogue::ADD_RELU), &is_over);
            // Two counts of threads in turns, so that pools are made and given up all the time.
            scope.spawn(move || {
                let mut count = k % 2;
                while !is_over.load(Ordering::Relaxed) {
                    Cpu::with_threads(2 + count, || assert!(is_right(large)));
                    count = 1 - count;
                }
            });
        }
        let part = Part { name: "forks", test: "a_forked_process_computes", few: 100 };
        let ran = catch_unwind(|| {
            part.run(|trial| {
                thread::sleep(Duration::from_micros(trial.rng.u64(0..2000)));
                let picked: Vec<&Case> = (0..4).map(|_| &cases[trial.rng.usize(0..cases.len())]).collect();
                let status = forked(|| Cpu::with_threads(2, || picked.iter().all(|case| is_right(case))));
                let names = picked.iter().map(|case| format!("{} {}", case.shape, case.epilogue.name()));
                let names = names.collect::<Vec<_>>().join(", ");
                assert_eq!(status, 0, "14: it hung, 256: other bits; {names}");
            });
        });
        is_over.store(true, Ordering::Relaxed);
        ran.unwrap_or_else(|panic| resume_unwind(panic));
    });
}

/// A fork on a thread of the caller's pool, whose other threads are not there in the child, whatever they did.
#[test]
fn a_process_that_is_forked_on_a_thread_of_a_pool_computes() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let (cases, is_over) = (cases(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                pool.spawn(|| {});
                thread::sleep(Duration::from_micros(20));
            }
        });
        let mut large = cases.iter().filter(|case| case.shape.len() > 100_000).cycle();
        let mut statuses = (0..60).map(|_| {
            let case = large.next().unwrap();
            pool.install(|| forked(|| step(case.shape, case.epilogue, &case.x) == case.want))
        });
        let is_right = statuses.all(|status| status == 0);
        is_over.store(true, Ordering::Relaxed);
        assert!(is_right);
    });
}

/// Length of a thread's name, which no other allocation has.
const NAME: usize = 4099;

/// Holds a thread where it frees its name: it ends then, and has a lock of the standard library's that each thread takes as it
/// begins and as it ends.
struct Holding {
    is_awaited: AtomicBool,
    is_held: AtomicBool,
    is_free: AtomicBool,
}

#[global_allocator]
static HOLDING: Holding =
    Holding { is_awaited: AtomicBool::new(false), is_held: AtomicBool::new(false), is_free: AtomicBool::new(false) };

// SAFETY: the system's allocator does everything.
unsafe impl GlobalAlloc for Holding {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        if layout.size() == NAME && self.is_awaited.load(Ordering::Acquire) {
            self.is_held.store(true, Ordering::Release);
            while !self.is_free.load(Ordering::Acquire) {
                thread::sleep(Duration::from_micros(100));
            }
        }
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(address, layout) }
    }
}

/// A fork while a thread of the caller begins or ends: no thread that the child makes ever begins.
#[test]
fn a_process_that_is_forked_while_a_thread_ends_computes() {
    let cases = cases();
    let body = || HOLDING.is_awaited.store(true, Ordering::Release);
    let thread = thread::Builder::new().name("n".repeat(NAME)).spawn(body).unwrap();
    let start = Instant::now();
    while !HOLDING.is_held.load(Ordering::Acquire) {
        if start.elapsed() > LIMIT {
            println!("skipped: a thread of this version of the standard library frees no name as it ends");
            return;
        }
        thread::yield_now();
    }
    let _release = Release(Some(thread));
    let status = forked(|| {
        // Two counts: the threads of the first pool never begin, and no second one is waited for.
        let is_right = |case: &Case| step(case.shape, case.epilogue, &case.x) == case.want;
        let mut right = true;
        for count in [2, 3] {
            right &= cases.iter().all(|case| Cpu::with_threads(count, || is_right(case)));
        }
        right && start.elapsed() < LIMIT
    });
    assert_eq!(status, 0, "14: it hung, 256: other bits, or too late");
}

/// Lets the thread go on that [`Holding`] holds, whatever became of the test.
struct Release(Option<JoinHandle<()>>);

impl Drop for Release {
    fn drop(&mut self) {
        HOLDING.is_free.store(true, Ordering::Release);
        self.0.take().map(JoinHandle::join);
    }
}

#[test]
fn the_bits_do_not_depend_on_the_pool() {
    let cases = cases();
    let case = Case::of(&cases, &[30, 16, 400], Epilogue::ADD_RELU);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let again = || step(case.shape, case.epilogue, &case.x) == case.want;
    assert!(again() && pool.install(again) && Cpu::with_threads(0, again) && Cpu::with_threads(5, again));
    assert_eq!((Cpu::with_threads(5, Cpu::threads), pool.install(Cpu::threads)), (5, 3));
    assert_eq!(Cpu::with_threads(5, || Cpu::with_threads(2, Cpu::threads)), 2);
}

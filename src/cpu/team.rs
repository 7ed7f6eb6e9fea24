//! Work that a thread shares with helpers, which come if and when they can.
//!
//! The calling thread begins at once. Each has a part of the items that it takes one after the other, since they are neighbours in
//! memory, and then what is left of the others' parts. The caller waits for helpers that have begun, by looking: they are at their last
//! items, and to be woken takes longer than these. A helper that comes when all is done, as one that had to be woken for little work, or
//! that another operation keeps, finds it closed and touches nothing.
#![allow(unsafe_code)]

use core::any::Any;
use core::hint;
use core::ops::Range;
use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::panic::{catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// The bit of [`Shared::helpers`] that says that no more may begin.
const CLOSED: usize = 1 << (usize::BITS - 1);
/// Looks at the helpers before a waiting thread lets others run between them.
const LOOKS: usize = 10_000;

type Work<'a> = dyn Fn(Range<usize>) + Sync + 'a;

/// The work on some items, as helpers know it.
struct Shared {
    /// Valid until it is closed and the helpers that have begun have ended.
    work: *const Work<'static>,
    /// Items that are taken at a time.
    at_once: usize,
    parts: Vec<Part>,
    /// Helpers that have begun so far.
    begun: AtomicUsize,
    /// Helpers at work, and [`CLOSED`].
    helpers: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Neighbouring items, on a line of memory of its own.
#[repr(align(64))]
struct Part {
    next: AtomicUsize,
    end: usize,
}

// SAFETY: the work may be called by several threads at a time; the pointer to it is used while it is valid, as below.
unsafe impl Send for Shared {}
// SAFETY: likewise.
unsafe impl Sync for Shared {}

impl Shared {
    /// Takes items until there are none, first those of a part.
    fn work(&self, work: &Work<'_>, first: usize) {
        for i in 0..self.parts.len() {
            let Part { next, end } = &self.parts[(first + i) % self.parts.len()];
            loop {
                let start = next.fetch_add(self.at_once, Ordering::Relaxed);
                if start >= *end {
                    break;
                }
                work(start..(start + self.at_once).min(*end));
            }
        }
    }

    /// Works as a helper, if it is not closed.
    fn help(&self) {
        let enter = |helpers| if helpers & CLOSED == 0 { Some(helpers + 1) } else { None };
        if self.helpers.fetch_update(Ordering::Acquire, Ordering::Relaxed, enter).is_err() {
            return;
        }
        // SAFETY: the caller of `share` does not return before this helper has left.
        let work = unsafe { &*self.work };
        let part = 1 + self.begun.fetch_add(1, Ordering::Relaxed);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.work(work, part))) {
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        self.helpers.fetch_sub(1, Ordering::Release);
    }
}

/// Closes the work when it is dropped, and waits for the helpers that have begun.
struct Close<'a>(&'a Shared);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.helpers.fetch_or(CLOSED, Ordering::Relaxed);
        let mut looks = 0;
        while self.0.helpers.load(Ordering::Acquire) != CLOSED {
            looks += 1;
            if looks < LOOKS { hint::spin_loop() } else { thread::yield_now() }
        }
    }
}

/// Calls `work` on all of `items` items, some at a time, on this thread and on helpers, which `spawn` offers the work.
pub(super) fn share(
    items: usize,
    at_once: usize,
    helpers: usize,
    spawn: impl Fn(Box<dyn FnOnce() + Send>),
    work: &Work<'_>,
) {
    // SAFETY: only the lifetime changes: `Close` waits, also where this thread panics, until no helper uses it.
    let erased = unsafe { core::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) };
    let of_part = items.div_ceil(at_once).div_ceil(helpers + 1) * at_once;
    let part =
        |i: usize| Part { next: AtomicUsize::new((i * of_part).min(items)), end: ((i + 1) * of_part).min(items) };
    let shared = Arc::new(Shared {
        work: erased,
        at_once,
        parts: (0..=helpers).map(part).collect(),
        begun: AtomicUsize::new(0),
        helpers: AtomicUsize::new(0),
        panic: Mutex::new(None),
    });
    {
        let _close = Close(&shared);
        for _ in 0..helpers {
            let shared = Arc::clone(&shared);
            spawn(Box::new(move || shared.help()));
        }
        shared.work(work, 0);
    }
    let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(panic) = panic {
        resume_unwind(panic);
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU32;

    use super::*;

    fn spawn(work: Box<dyn FnOnce() + Send>) {
        thread::spawn(work);
    }

    #[test]
    fn every_item_is_worked_on_once() {
        for (items, at_once, helpers) in [(0, 1, 3), (1, 1, 3), (1000, 1, 0), (1000, 7, 3)] {
            let counts: Vec<AtomicU32> = (0..items).map(|_| AtomicU32::new(0)).collect();
            let work = |items: Range<usize>| {
                for item in items {
                    counts[item].fetch_add(1, Ordering::Relaxed);
                }
            };
            share(items, at_once, helpers, spawn, &work);
            assert!(counts.into_iter().all(|count| count.into_inner() == 1));
        }
    }

    #[test]
    fn a_helper_that_never_comes_is_not_waited_for_and_a_late_one_does_nothing() {
        let late = Mutex::new(Vec::new());
        let count = AtomicU32::new(0);
        share(5, 1, 2, |work| late.lock().unwrap().push(work), &|items| {
            count.fetch_add(items.len() as u32, Ordering::Relaxed);
        });
        late.into_inner().unwrap().into_iter().for_each(|work| work());
        assert_eq!(count.into_inner(), 5);
    }

    #[test]
    fn a_panic_of_either_side_reaches_the_caller_when_all_have_ended() {
        let caller = thread::current().id();
        for of_caller in [true, false] {
            let begun = AtomicU32::new(0);
            let work = |_: Range<usize>| {
                // Both are at work before one panics.
                begun.fetch_add(1, Ordering::SeqCst);
                while begun.load(Ordering::SeqCst) < 2 {
                    hint::spin_loop();
                }
                assert!((thread::current().id() == caller) != of_caller, "as it should");
            };
            let panic = catch_unwind(AssertUnwindSafe(|| share(2, 1, 1, spawn, &work))).unwrap_err();
            assert!(panic.downcast_ref::<&str>().is_some_and(|panic| panic.contains("as it should")));
        }
    }
}

//! The end of the process before its work is done, by a signal or for want of memory: it leaves no temporary file, and has the
//! exit code of the contract.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::hint::black_box;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::BAD_INPUT;

/// Files and folders that are to be gone when the process is.
static TEMPORARY: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Makes something temporary, and notes where it is: no signal comes between the two.
pub(crate) fn temporary<T, E>(make: impl FnOnce() -> Result<T, E>, path: impl FnOnce(&T) -> &Path) -> Result<T, E> {
    let mut known = TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner);
    let made = make()?;
    known.retain(|path| path.exists());
    known.push(path(&made).to_path_buf());
    Ok(made)
}

fn remove(known: &[PathBuf]) {
    for path in known {
        // A folder that another thread still writes into is not empty when its turn comes: then once more.
        let is_gone = |_| {
            let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            removed.is_ok() || !path.exists()
        };
        let _ = (0..1000).any(is_gone);
    }
}

/// Lets a signal that ends the process remove what is temporary first. The process then ends by that signal, as without this.
///
/// Signals end the process at once where no thread can be started that would wait for them.
#[cfg(unix)]
pub(crate) fn watch_signals() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    use signal_hook::iterator::Signals;
    use signal_hook::low_level::emulate_default_handler;

    // A file beyond the limit of the process is an error of who writes, and no reason to die.
    static IS_BEYOND: AtomicBool = AtomicBool::new(false);
    let _ = signal_hook::flag::register(SIGXFSZ, &IS_BEYOND);
    if !has_room_for_threads(1) {
        return;
    }
    // Signals that were ignored when the process began stay ignored, as under nohup.
    let signals: Vec<_> = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|&signal| !is_ignored(signal)).collect();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let watch = move || {
        let mut signals = Signals::new(signals);
        let _ = ready.send(());
        for signal in signals.iter_mut().flat_map(Signals::forever) {
            let known = TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner);
            remove(&known);
            let _ = emulate_default_handler(signal);
        }
    };
    if std::thread::Builder::new().name("signals".into()).spawn(watch).is_ok() {
        let _ = is_ready.recv();
    }
}

#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let mut found = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: nothing is set; what is found is written where there is room for it, and read where that was done.
    unsafe {
        let is_known = libc::sigaction(signal, std::ptr::null(), found.as_mut_ptr()) == 0;
        is_known && found.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(not(unix))]
pub(crate) fn watch_signals() {}

/// The system's allocator, which ends the process where there is no memory: with exit code 2 and one line, and not by an abort.
///
/// Allocations as large as a tensor are left to the caller, who may do with less, or has an error that says what it was for.
pub(crate) struct Allocator;

/// Bytes from which on a failed allocation is left to the caller.
const LARGE: usize = 1 << 20;
/// Whether a failed allocation of any size ends the process.
static IS_LARGE_TOO: AtomicBool = AtomicBool::new(false);

/// Lets every allocation that fails from here on end the process, however large it is: for commands that take most of their
/// memory by calls that cannot report it.
pub(crate) fn end_without_memory() {
    IS_LARGE_TOO.store(true, Ordering::Relaxed);
}

// SAFETY: every call is passed on to the system's allocator, with what the caller promises; what it gives is given back.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that this function asks for.
        checked(unsafe { System.alloc(layout) }, layout.size())
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        checked(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        checked(unsafe { System.realloc(pointer, layout, size) }, size)
    }
}

fn checked(pointer: *mut u8, size: usize) -> *mut u8 {
    if pointer.is_null() && (size < LARGE || IS_LARGE_TOO.load(Ordering::Relaxed)) {
        without_memory(size);
    }
    pointer
}

/// Whether there is address space for so many threads: one that finds none as it begins takes the process with it.
pub(crate) fn has_room_for_threads(count: usize) -> bool {
    /// Its stack, and what it allocates as it begins.
    const OF_THREAD: usize = 4 << 20;
    let Ok(layout) = Layout::array::<u8>(count.max(1).saturating_mul(OF_THREAD)) else { return false };
    // SAFETY: the layout has bytes; what the system's allocator gives is given back to it, and nobody reads it.
    unsafe {
        let room = black_box(System.alloc(layout)); // Else the compiler does without.
        if !room.is_null() {
            System.dealloc(room, layout);
        }
        !room.is_null()
    }
}

/// Ends the process. It needs no memory for it; should a path be so long that its removal does, that is left.
fn without_memory(size: usize) -> ! {
    static IS_ENDING: AtomicBool = AtomicBool::new(false);
    if !IS_ENDING.swap(true, Ordering::Relaxed) {
        if let Ok(known) = TEMPORARY.try_lock() {
            remove(&known);
        }
        let mut line = [0; 96];
        let mut rest = &mut line[..];
        let _ = writeln!(rest, "batchnorm: out of memory: expected room for {size} bytes");
        let unused = rest.len();
        let _ = io::stderr().write_all(&line[..line.len() - unused]);
    }
    end(BAD_INPUT.into())
}

/// Ends the process without anything that would run at its end, which may need memory.
fn end(code: i32) -> ! {
    #[cfg(unix)]
    signal_hook::low_level::exit(code);
    #[cfg(not(unix))]
    std::process::exit(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_written_into_is_removed() {
        // A removal fails for a file that came meanwhile: fewer files than there are tries, whatever the threads' speed.
        const FILES: usize = 500;
        for _ in 0..40 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().to_path_buf();
            let write = move || (0..FILES).all(|i| fs::write(path.join(i.to_string()), "").is_ok());
            let writer = std::thread::spawn(write);
            while fs::read_dir(folder.path()).unwrap().next().is_none() {}
            remove(&[folder.path().to_path_buf()]);
            writer.join().unwrap(); // It has written all, or found no folder; it makes none.
            assert!(!folder.path().exists());
        }
    }
}

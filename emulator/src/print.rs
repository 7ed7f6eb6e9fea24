//! The way of a report to stderr.

use std::panic::catch_unwind;

/// Prints a report. The glue hands it to the device before `main`. By `eprintln!`, since Rust's tests keep what that prints until
/// they fail: a report that a test expects is nothing to see.
#[unsafe(no_mangle)]
extern "C" fn cuda_emulator_print(text: *const u8, bytes: usize) {
    // SAFETY: the device passes a text of this length, which lives as long as the call.
    let text = String::from_utf8_lossy(unsafe { std::slice::from_raw_parts(text, bytes) });
    // A closed stderr makes it panic, and the caller is C++.
    drop(catch_unwind(|| eprintln!("cuda-emulator: {text}")));
}

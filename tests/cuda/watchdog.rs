//! Work that may never end, under a watchdog: a kernel that hangs would keep the test, its thread and the process for ever.

use std::io::Write;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::device::EMULATED;
use crate::journal::noted;

/// Longer than anything here takes. The emulated device takes its time, and finds what waits for ever by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(if EMULATED { 600 } else { 20 });

/// The exit code of a test executable that has failed.
const FAILED: i32 = 101;

/// Calls it on a thread of its own, between two lines of the journal. Where that has not ended in time the process ends, with
/// one line that says what it waited for: a thread that is stuck in the driver cannot be joined, and would keep the process
/// from ending.
pub(crate) fn in_time<R: Send + 'static>(what: &str, call: impl FnOnce() -> R + Send + 'static) -> R {
    noted(what, || within(PATIENCE, what, call))
}

fn within<R: Send + 'static>(patience: Duration, what: &str, call: impl FnOnce() -> R + Send + 'static) -> R {
    let (sender, receiver) = mpsc::channel();
    let worker = thread::spawn(move || sender.send(call()));
    match receiver.recv_timeout(patience) {
        Ok(result) => {
            worker.join().unwrap().unwrap();
            result
        }
        // It panicked: the sender is gone, and the thread has ended.
        Err(mpsc::RecvTimeoutError::Disconnected) => match worker.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(_) => unreachable!("a worker that ends has sent its result"),
        },
        Err(mpsc::RecvTimeoutError::Timeout) => {
            let test = thread::current();
            let test = test.name().unwrap_or("a test");
            // Past the capture of the test's output, which dies with the process.
            let mut stderr = std::io::stderr().lock();
            let _ = writeln!(stderr, "\nhung: {test}: {what} did not end in {patience:?}");
            let _ = stderr.flush();
            std::process::exit(FAILED);
        }
    }
}

/// The names of a hang, and the end of the process with it: this test runs itself in a process of its own.
#[test]
fn a_hang_ends_the_process_and_has_a_name() {
    const ASKED: &str = "BATCHNORM_TEST_HANGS";
    /// Values that wait for the device as they are dropped would hang too, so nothing must be dropped.
    struct Held;
    impl Drop for Held {
        fn drop(&mut self) {
            let _ = std::io::stderr().write_all(b"dropped");
        }
    }
    if std::env::var_os(ASKED).is_some() {
        let _held = Held;
        return within(Duration::from_millis(100), "strategy grid, a plan", || {
            loop {
                thread::park();
            }
        });
    }
    let name = "watchdog::a_hang_ends_the_process_and_has_a_name";
    let mut test = std::process::Command::new(std::env::current_exe().unwrap());
    let output = test.args(["--exact", name]).env(ASKED, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(FAILED), "{text}");
    assert!(text.contains("hung: ") && text.contains("strategy grid, a plan did not end in 100ms"), "{text}");
    assert!(!text.contains("dropped"), "{text}");
}

#[test]
fn what_ends_gives_its_result_or_its_panic() {
    assert_eq!(in_time("an answer", || 42), 42);
    let panicked = std::panic::catch_unwind(|| in_time("a panic", || panic!("this panic is expected")));
    assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"this panic is expected"));
}

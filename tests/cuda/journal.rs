//! The journal of this process, and how tests judge what went through it: failures are said at once, and a lost device ends
//! the process, since nothing can be learned from it any more.

use std::any::Any;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Instant;

use batchnorm::verify::{Case, Journal, Report, Verified};
use batchnorm::{Cuda, Op};

use crate::device::{EMULATED, STRATEGIES};

/// The journal in the file that `BATCHNORM_JOURNAL` names, which processes may share that run one after the other. It has one
/// launch at a time on a GPU; an emulated device is lost to the launch's own thread alone.
static JOURNAL: LazyLock<Journal> = LazyLock::new(|| {
    let journal = Journal::new(Instant::now());
    let journal = if EMULATED { journal } else { journal.one_at_a_time() };
    match std::env::var_os("BATCHNORM_JOURNAL").map(PathBuf::from) {
        Some(path) => {
            journal.behind_file(&path).unwrap_or_else(|e| panic!("BATCHNORM_JOURNAL={}: {e}", path.display()))
        }
        None => journal,
    }
});

/// The device under every strategy.
pub(crate) fn under_every_strategy(cuda: &Cuda) -> Vec<Cuda> {
    STRATEGIES.map(|strategy| cuda.clone().with_strategy(strategy)).into()
}

/// Holds the backends against these cases; what the device does not compute gives nothing.
pub(crate) fn check(backends: &[Cuda], cases: &[Case], start: usize) -> Vec<Report> {
    let reports = Cuda::check_all(backends, cases, start, &JOURNAL).unwrap_or_default();
    for report in reports.iter().filter(|report| report.is_failure()) {
        say(&format!("FAILED {report}"));
    }
    end_if_lost();
    reports
}

/// Calls what runs on the device, between two lines of the journal.
pub(crate) fn watched<R>(cuda: &Cuda, what: &str, call: impl FnOnce() -> R) -> R {
    let lost = |_: &R| cuda.synchronize().err().filter(|error| error.is_device_lost()).map(|error| error.to_string());
    let result = JOURNAL.run(cuda.strategy_name(), "no plan", what, call, lost);
    end_if_lost();
    result.unwrap_or_else(|| panic!("{what}: the journal was over"))
}

/// Calls what launches by several strategies or plans, which `what` names, between two lines of the journal. A panic gets a
/// third, and goes on unless the device is lost.
pub(crate) fn noted<R>(what: &str, call: impl FnOnce() -> R) -> R {
    noted_in(&JOURNAL, what, call)
}

fn noted_in<R>(journal: &Journal, what: &str, call: impl FnOnce() -> R) -> R {
    let (strategy, plan) = ("several", "plans as named");
    let call = || {
        let caught = catch_unwind(AssertUnwindSafe(call));
        if let Err(panic) = &caught {
            journal.failed(strategy, plan, what, text_of(&**panic));
        }
        caught
    };
    let lost = |caught: &Result<R, _>| caught.is_err().then(why_lost).flatten();
    let caught = journal.run(strategy, plan, what, call, lost);
    end_if_lost();
    match caught.unwrap_or_else(|| panic!("{what}: the journal was over")) {
        Ok(result) => result,
        Err(panic) => resume_unwind(panic),
    }
}

/// The reason why the device can do nothing more in this process, if so.
fn why_lost() -> Option<String> {
    let error = Cuda::new(0).and_then(|cuda| cuda.synchronize()).err()?;
    error.is_device_lost().then(|| error.to_string())
}

/// The text of a panic.
fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text")
}

/// Ends the process where the device is lost: all later tests would fail by the first one's fault.
fn end_if_lost() {
    if let Some(lost) = JOURNAL.lost() {
        say(&lost.to_string());
        std::process::exit(101);
    }
}

/// Writes a line to stderr, past the capture of the tests' output: who is killed later has said it.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Number of reports that count, number of these that a forced strategy planned (inference has no plan), and the failures.
#[derive(Default)]
pub(crate) struct Judged {
    pub(crate) count: usize,
    pub(crate) planned: usize,
    pub(crate) failures: Vec<String>,
}

impl Judged {
    /// Judges the reports of one strategy. Cases that it cannot hold in shared memory do not count.
    pub(crate) fn of<'a>(reports: impl IntoIterator<Item = &'a Report>) -> Self {
        let mut judged = Self::default();
        for report in reports.into_iter().filter(|report| !report.is_left_out()) {
            judged.count += 1;
            judged.planned += usize::from(!report.case.group.shape.is_empty() && report.case.op == Op::Train);
            if report.result.is_err() {
                judged.failures.push(report.to_string());
            }
        }
        judged
    }
}

/// Fails by all failures at once, of which it shows some.
pub(crate) fn assert_none(failures: &[String]) {
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures[..failures.len().min(20)].join("\n"));
}

#[test]
fn what_panics_has_begun_failed_and_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let journal = Journal::new(Instant::now()).into_file(&path).unwrap();
    assert_eq!(noted_in(&journal, "an answer", || 42), 42);
    let panicked = catch_unwind(|| noted_in(&journal, "strategy grid, a plan", || panic!("expected {}", "here")));
    assert_eq!(text_of(&*panicked.unwrap_err()), "expected here");
    let text = std::fs::read_to_string(&path).unwrap();
    let events: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    let [answer, plan] = ["several plans as named: an answer", "several plans as named: strategy grid, a plan"];
    let wanted = [
        format!("begin {answer}"),
        format!("end {answer}"),
        format!("begin {plan}"),
        format!("failed {plan}: expected here"),
        format!("end {plan}"),
    ];
    assert_eq!(events, wanted);
}

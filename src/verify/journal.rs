//! The journal of a run: a line before and behind everything that a device is given to do.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Says what began and what ended, line by line, while it happens: a process that is killed, or whose device hangs, has
/// left it. Also says when to stop: at a lost device, and at a deadline.
///
/// A line is `SECONDS EVENT STRATEGY TEXT`, of one write. The events are `begin` and `end`, with the same text, and `failed` and
/// `lost`, whose text is `PLAN: CASE: WHY`. Seconds count from `began`. A `begin` without its `end` is what hangs.
#[derive(Debug)]
pub struct Journal {
    began: Instant,
    within: Option<Duration>,
    file: Option<File>,
    /// Held by whoever is at work on the device, where one at a time is.
    turn: Option<Mutex<()>>,
    lost: OnceLock<Lost>,
    broken: OnceLock<String>,
}

/// The first launch after which a device was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The strategy that planned it.
    pub strategy: String,
    /// Its plan.
    pub plan: String,
    /// The work that it computed.
    pub what: String,
    /// The error.
    pub why: String,
}

impl core::fmt::Display for Lost {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { strategy, plan, what, why } = self;
        write!(f, "the device was lost, first by strategy {strategy}, {plan}: {what}: {why}")
    }
}

impl Journal {
    /// A journal that nobody reads, of a process that began at this moment.
    pub fn new(began: Instant) -> Self {
        Self { began, within: None, file: None, turn: None, lost: OnceLock::new(), broken: OnceLock::new() }
    }

    /// The same in a new file.
    ///
    /// # Errors
    /// Those of [`File::create`].
    pub fn into_file(self, path: &Path) -> io::Result<Self> {
        Ok(Self { file: Some(File::create(path)?), ..self })
    }

    /// The same behind what a file holds already, which processes may share that run one after the other.
    ///
    /// # Errors
    /// Those of [`OpenOptions::open`].
    pub fn behind_file(self, path: &Path) -> io::Result<Self> {
        Ok(Self { file: Some(OpenOptions::new().create(true).append(true).open(path)?), ..self })
    }

    /// The same with a deadline, counted from the beginning of the process.
    #[must_use]
    pub fn within(self, within: Option<Duration>) -> Self {
        Self { within, ..self }
    }

    /// The same with one thing at a time on the device, whatever the threads: so that the first launch to fail is the one that
    /// was at fault, since a context that is lost tells the next who asks.
    #[must_use]
    pub fn one_at_a_time(self) -> Self {
        Self { turn: Some(Mutex::new(())), ..self }
    }

    /// The time at which the process began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Whether the deadline has passed.
    pub fn is_late(&self) -> bool {
        self.within.is_some_and(|within| self.began.elapsed() >= within)
    }

    /// The first launch that lost the device.
    pub fn lost(&self) -> Option<&Lost> {
        self.lost.get()
    }

    /// Whether nothing more is to begin.
    pub fn is_over(&self) -> bool {
        self.lost.get().is_some() || self.is_late()
    }

    /// The reason why lines are missing: the first that could not be written.
    pub fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }

    /// Calls it between a `begin` and an `end`. `lost` says of its result whether the device was lost and why; then nothing
    /// begins any more. `None` where nothing was to begin.
    pub fn run<R>(
        &self,
        strategy: &str,
        plan: &str,
        what: &str,
        call: impl FnOnce() -> R,
        lost: impl FnOnce(&R) -> Option<String>,
    ) -> Option<R> {
        let _turn = self.turn.as_ref().map(|turn| turn.lock().unwrap_or_else(PoisonError::into_inner));
        if self.is_over() {
            return None;
        }
        let text = format!("{plan}: {what}");
        self.line("begin", strategy, &text);
        let result = call();
        if let Some(why) = lost(&result) {
            self.line("lost", strategy, &format!("{text}: {why}"));
            let [strategy, plan, what] = [strategy, plan, what].map(String::from);
            // Only the first counts.
            let _ = self.lost.set(Lost { strategy, plan, what, why });
        }
        self.line("end", strategy, &text);
        Some(result)
    }

    /// Writes down that something failed.
    pub fn failed(&self, strategy: &str, plan: &str, what: &str, why: &str) {
        self.line("failed", strategy, &format!("{plan}: {what}: {why}"));
    }

    fn line(&self, event: &str, strategy: &str, text: &str) {
        let Some(mut file) = self.file.as_ref() else { return };
        let text = text.replace('\n', " ");
        let line = format!("{:.3} {event} {strategy} {text}\n", self.began.elapsed().as_secs_f64());
        // A full disk must not end a run.
        if let Err(error) = file.write_all(line.as_bytes()) {
            let _ = self.broken.set(error.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// The lines of the file, each less its seconds.
    fn lines(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        let mut before = 0.0;
        let rest = |line: &str| {
            let (seconds, rest) = line.split_once(' ').unwrap();
            let seconds: f64 = seconds.parse().unwrap();
            assert!(seconds >= before, "{line}");
            before = seconds;
            rest.to_owned()
        };
        text.lines().map(rest).collect()
    }

    #[test]
    fn what_began_has_an_end_and_nothing_begins_behind_a_loss() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let journal = Journal::new(Instant::now()).into_file(&path).unwrap();
        assert_eq!(journal.run("auto", "a plan", "one", || 1, |_| None), Some(1));
        journal.failed("auto", "a plan", "one", "wrong\nby 2");
        assert!(!journal.is_over());
        assert_eq!(journal.run("grid", "another", "two", || 2, |_| Some("error 700".into())), Some(2));
        assert_eq!(journal.run("grid", "another", "three", || panic!("it ran"), |_: &i32| None), None);
        assert!(journal.is_over() && !journal.is_late());
        let wanted = [
            "begin auto a plan: one",
            "end auto a plan: one",
            "failed auto a plan: one: wrong by 2",
            "begin grid another: two",
            "lost grid another: two: error 700",
            "end grid another: two",
        ];
        assert_eq!(lines(&path), wanted);
        let lost = "the device was lost, first by strategy grid, another: two: error 700";
        assert_eq!(journal.lost().unwrap().to_string(), lost);

        let next = Journal::new(Instant::now()).behind_file(&path).unwrap();
        next.run("auto", "p", "four", || (), |()| None);
        drop(next);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 8);
        assert!(text.contains("lost grid") && text.contains("end auto p: four"), "{text}");
        Journal::new(Instant::now()).into_file(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }

    #[test]
    fn nothing_begins_behind_the_deadline() {
        let journal = |within| Journal::new(Instant::now()).within(Some(within));
        assert_eq!(journal(Duration::from_secs(1000)).run("auto", "", "", || 1, |_| None), Some(1));
        assert_eq!(journal(Duration::ZERO).run("auto", "", "", || 1, |_| None), None);
        assert!(journal(Duration::ZERO).is_late() && journal(Duration::ZERO).lost().is_none());
    }

    /// The lines of many threads are in pairs, and the first loss is the only one.
    #[test]
    fn one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let journal = Journal::new(Instant::now()).one_at_a_time().into_file(&path).unwrap();
        let work = |thread: usize| {
            for round in 0..20 {
                let call = || thread::sleep(Duration::from_micros(50));
                // From here on the device is lost to all, as a context is.
                let lost = |(): &()| (round >= 10).then(|| "error 700".to_owned());
                journal.run("auto", "p", &format!("{thread}.{round}"), call, lost);
            }
        };
        let work = &work;
        thread::scope(|scope| (0..8).for_each(|thread| drop(scope.spawn(move || work(thread)))));
        let lines: Vec<String> = lines(&path).into_iter().filter(|line| !line.starts_with("lost")).collect();
        assert!(lines.len() >= 22, "{lines:?}");
        for pair in lines.chunks(2) {
            assert_eq!(pair[0].strip_prefix("begin"), pair[1].strip_prefix("end"), "{lines:?}");
        }
        let lost = journal.lost().unwrap();
        assert_eq!(lines.last().unwrap(), &format!("end auto p: {}", lost.what));
        assert_eq!(std::fs::read_to_string(&path).unwrap().matches(" lost ").count(), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told_and_ends_nothing() {
        let journal = Journal::new(Instant::now()).behind_file(Path::new("/dev/full")).unwrap();
        assert_eq!(journal.broken(), None);
        assert_eq!(journal.run("auto", "p", "one", || 1, |_| None), Some(1));
        assert!(journal.broken().unwrap().contains("No space left"), "{journal:?}");
    }
}

//! The outcome of a part, out of its output.

use std::process::ExitStatus;

/// A part that has ended.
#[derive(Debug, PartialEq)]
pub(super) struct Outcome {
    /// `None` of one that does not count, and of one that died.
    pub(super) trials: Option<u64>,
    pub(super) failures: u64,
    /// The fault of the part as a whole.
    pub(super) why: Option<String>,
}

impl Outcome {
    /// The outcome of a process with this exit status, `None` if it did not end in time, and these printed lines.
    pub(super) fn new(name: &str, status: Option<ExitStatus>, lines: &[String]) -> Self {
        let counts = lines.iter().rev().find_map(|line| counted(name, line));
        let (trials, failures) = counts.map_or((None, 0), |(trials, failures)| (Some(trials), failures));
        let is_missing = lines.iter().any(|line| line == "running 0 tests");
        let why = match status {
            None => Some("it hung, and was killed".to_owned()),
            Some(status) if !status.success() && failures == 0 => Some(format!("it ended with {status}")),
            Some(_) if is_missing && trials.is_none() => Some("there is no test of its name".to_owned()),
            Some(_) => None,
        };
        Self { trials, failures: failures + u64::from(why.is_some()), why }
    }
}

/// Trials and failures of this part's line. libtest may have begun the line with the test's name.
fn counted(name: &str, line: &str) -> Option<(u64, u64)> {
    let (_, words) = line.split_once("abuse: ")?;
    let value = |key: &str| words.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let is_own = value("part") == Some(name);
    is_own.then(|| Some((value("trials")?.parse().ok()?, value("failures")?.parse().ok()?))).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn outcome(code: u8, lines: &[&str]) -> Outcome {
        let status = Command::new("sh").args(["-c", &format!("exit {code}")]).status().unwrap();
        let lines: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
        Outcome::new("cli", Some(status), &lines)
    }

    #[test]
    fn what_a_part_has_printed() {
        let line = "test a ... abuse: part=cli seed=1 trials=20 failures=0";
        assert_eq!(outcome(0, &["running 1 test", line]), Outcome { trials: Some(20), failures: 0, why: None });
        let failed = "abuse: part=cli seed=1 trials=20 failures=3";
        assert_eq!(outcome(101, &[failed]), Outcome { trials: Some(20), failures: 3, why: None });
        // A part that does not count passes or fails as a whole.
        assert_eq!(outcome(0, &["running 1 test"]), Outcome { trials: None, failures: 0, why: None });
        let of_another = "abuse: part=files seed=1 trials=9 failures=9";
        assert_eq!(outcome(0, &[of_another]), Outcome { trials: None, failures: 0, why: None });
    }

    #[test]
    fn a_part_that_dies_or_is_not_there_has_failed() {
        let died = outcome(101, &["running 1 test"]);
        assert!(died.failures == 1 && died.why.unwrap().contains("101"));
        // A part fails by its exit status, whatever it counted before.
        assert_eq!(outcome(101, &["abuse: part=cli seed=1 trials=20 failures=0"]).failures, 1);
        assert_eq!(outcome(0, &["running 0 tests"]).failures, 1);
        let hung = Outcome::new("cli", None, &[]);
        assert!(hung.failures == 1 && hung.why.unwrap().contains("hung"));
    }
}

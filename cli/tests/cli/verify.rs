//! `verify`: how much of the table it goes through, by which strategies, and what it says of the rest.

use std::path::PathBuf;
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{EXE, batchnorm, printed, refused};

/// A folder with what `verify` leaves in it.
struct Left(TempDir);

impl Left {
    /// Runs it with these arguments, and with these environment variables.
    fn by(args: &[&str], environment: &[(&str, &str)]) -> (Self, Output) {
        let left = Self(tempfile::tempdir().unwrap());
        let mut command = std::process::Command::new(EXE);
        command.arg("verify").args(args).envs(environment.iter().copied());
        command.arg("--json").arg(left.path("out.json")).arg("--journal").arg(left.path("journal"));
        let output = command.output().unwrap();
        (left, output)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.path("out.json")).unwrap()).unwrap()
    }

    fn journal(&self) -> String {
        std::fs::read_to_string(self.path("journal")).unwrap()
    }
}

#[test]
fn a_part_of_the_table() {
    let (left, output) = Left::by(&["--every", "97"], &[]);
    let (text, report, journal) = (printed(&output), left.json(), left.journal());
    assert!(text.contains("one group of cases in 97, and of the large ones one in sixteen of these"), "{text}");
    assert_eq!((&report["every"], &report["not_reached"], &report["failed"]), (&json!(97), &json!(0), &json!(0)));
    assert_eq!(report["groups"], report["groups_complete"]);
    let cases = report["cases"].as_u64().unwrap() as usize;
    assert!(cases > 100, "{cases}");
    assert_eq!(report["strategies"]["auto"]["cases"], cases);
    for event in [" begin auto no plan: ", " end auto no plan: "] {
        assert_eq!(journal.matches(event).count(), cases, "{event}");
    }
    assert_eq!(journal.lines().count(), 2 * cases);
}

/// Cases that the time was too short for are no failures, and are reported.
#[test]
fn a_part_that_the_time_was_enough_for() {
    let (left, output) = Left::by(&["--every", "97", "--within", "0"], &[]);
    let (text, report) = (printed(&output), left.json());
    assert_eq!((&report["cases"], &report["failed"], &report["groups_complete"]), (&json!(0), &json!(0), &json!(0)));
    let missing =
        format!("NOT REACHED within the time: {} cases; 0 of {} groups", report["not_reached"], report["groups"]);
    assert!(text.contains(&missing) && report["missing"].as_str().unwrap().starts_with(&missing), "{text}");
    assert!(report["not_reached"].as_u64() > Some(100));
    assert_eq!(left.journal(), "");
}

#[test]
fn what_verify_refuses() {
    for (args, words) in [
        (&["--strategy", "grid"][..], &["--strategy", "expected auto on the CPU, got grid"][..]),
        (&["--strategy", "ring"], &["--strategy", "two-read"]),
        (&["--every", "0"], &["--every"]),
        (&["--journal", "no/such/folder/journal"], &["no/such/folder/journal"]),
        (&["--json", "no/such/folder/out.json"], &["no/such/folder/out.json"]),
    ] {
        refused(&batchnorm(&[&["verify"], args].concat()), words);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_behind_the_table() {
    let output = batchnorm(&["verify", "--every", "397", "--journal", "/dev/full"]);
    let (text, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(2), "{text}{told}");
    assert!(text.contains(" cases on cpu against the f64 oracle: 0 failed"), "{text}");
    assert!(told.contains("--journal: lines are missing: No space left"), "{told}");
}

#[cfg(feature = "emulate")]
#[test]
fn strategies_that_are_asked_for() {
    let (left, output) =
        Left::by(&["--device", "cuda", "--every", "311", "--strategy", "two-read", "--strategy", "block"], &[]);
    let (text, report, journal) = (printed(&output), left.json(), left.journal());
    assert!(text.contains("strategies block, two-read; one group"), "{text}");
    let strategies = report["strategies"].as_object().unwrap();
    assert_eq!(strategies.keys().collect::<Vec<_>>(), ["block", "two-read"]);
    let cases: u64 = strategies.values().map(|it| it["cases"].as_u64().unwrap()).sum();
    assert_eq!(cases, report["cases"].as_u64().unwrap());
    for strategy in ["block", "two-read"] {
        // There is a line for each case, with its plan.
        let begins = journal.matches(&format!(" begin {strategy} ")).count();
        assert_eq!(strategies[strategy]["cases"], begins);
        let planned = journal.lines().filter(|line| line.contains(&format!(" begin {strategy} {strategy} ")));
        assert!(planned.count() > 20 && journal.contains(" smem_iters="));
    }
    assert!(!journal.contains(" begin auto "));
}

/// A lost device ends it by exit code 1, and text, JSON and journal name the launch that lost it.
#[cfg(feature = "emulate")]
#[test]
fn a_lost_device_ends_a_verification() {
    // There is one thread, since calls are counted by thread.
    let environment = [("CUDA_EMULATOR_LOSE_AT", "20000"), ("RAYON_NUM_THREADS", "1")];
    let (left, output) = Left::by(&["--device", "cuda", "--every", "97"], &environment);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let (text, report, journal) = (String::from_utf8_lossy(&output.stdout), left.json(), left.journal());
    let lost = &report["lost"];
    let [strategy, plan, case, why] = ["strategy", "plan", "case", "failure"].map(|key| lost[key].as_str().unwrap());
    assert!(plan.contains(" threads=") && why.contains("700 (illegal address)"), "{lost}");
    let line = format!("the device was lost, first by strategy {strategy}, {plan}: {case}: {why}");
    assert!(text.contains(&line), "{line} in {text}");
    assert!(text.contains("NOT REACHED since the device was lost: "), "{text}");
    assert_eq!(report["failed"], 1);
    let failure = &report["failures"][0];
    assert_eq!((&failure["case"], &failure["strategy"]), (&json!(case), &json!(strategy)));
    assert!(failure["plan"]["threads"].is_number(), "{failure}");
    assert!(report["not_reached"].as_u64() > Some(100) && report["cases"].as_u64() > Some(20), "{report}");
    let last: Vec<&str> = journal.lines().rev().take(3).map(|line| line.split_once(' ').unwrap().1).collect();
    let launch = format!("{strategy} {plan}: {case}");
    assert_eq!(last, [format!("end {launch}"), format!("lost {launch}: {why}"), format!("begin {launch}")]);
}

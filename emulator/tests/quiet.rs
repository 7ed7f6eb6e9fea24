//! Reports of tests: of one that passes nothing is seen, of one that fails everything. The test program calls itself.

mod driver;

use cuda_emulator_planted as planted;
use driver::{Device, LAUNCH_FAILED, expect_report};
use std::process::{Command, Output};

/// Runs one of the tests below by itself.
fn run(test: &str, options: &[&str]) -> Output {
    let program = std::env::current_exe().unwrap();
    Command::new(program).args(["--exact", test, "--ignored"]).args(options).output().unwrap()
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text)).concat()
}

/// A launch with a planted race.
fn race() -> i32 {
    let device = Device::open(0);
    planted::launch_reuse(device.alloc::<f32>(128), 0)
}

#[test]
#[ignore = "called by another test"]
fn expects_its_report() {
    expect_report(race(), LAUNCH_FAILED, &["race"]);
}

#[test]
#[ignore = "called by another test"]
fn expects_none() {
    assert_eq!(race(), 0, "the launch");
}

#[test]
fn a_passing_test_prints_no_report() {
    let quiet = run("expects_its_report", &[]);
    assert!(quiet.status.success() && said(&quiet).contains("1 passed"), "{}", said(&quiet));
    assert!(!said(&quiet).contains("race: "), "{}", said(&quiet));
    // The report is there for who asks.
    assert!(said(&run("expects_its_report", &["--nocapture"])).contains("race: "));
}

#[test]
fn a_failing_test_prints_its_report() {
    let failed = run("expects_none", &[]);
    assert!(!failed.status.success(), "{}", said(&failed));
    assert!(said(&failed).contains("race: "), "{}", said(&failed));
}

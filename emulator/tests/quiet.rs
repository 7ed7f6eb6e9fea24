//! Reports of tests: of one that passes nothing is seen, of one that fails everything. The test program calls itself.

mod driver;

use cuda_emulator_planted as planted;
use driver::{Device, LAUNCH_FAILED, expect_report};
use std::process::{Command, Output};

/// The variable in the environment of a test that is called by itself.
const CALLED: &str = "CUDA_EMULATOR_QUIET_TEST";

/// Runs the test of this name alone, which then finds that it is called.
fn call(test: &str, options: &[&str]) -> Output {
    let program = std::env::current_exe().unwrap();
    Command::new(program).args(["--exact", test]).args(options).env(CALLED, "1").output().unwrap()
}

fn is_called() -> bool {
    std::env::var_os(CALLED).is_some()
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
fn a_passing_test_prints_no_report() {
    if is_called() {
        return expect_report(race(), LAUNCH_FAILED, &["race"]);
    }
    let quiet = call("a_passing_test_prints_no_report", &[]);
    assert!(quiet.status.success() && said(&quiet).contains("1 passed"), "{}", said(&quiet));
    assert!(!said(&quiet).contains("race: "), "{}", said(&quiet));
    // The report is there for who asks.
    assert!(said(&call("a_passing_test_prints_no_report", &["--nocapture"])).contains("race: "));
}

#[test]
fn a_failing_test_prints_its_report() {
    if is_called() {
        return assert_eq!(race(), 0, "the launch");
    }
    let failed = call("a_failing_test_prints_its_report", &[]);
    assert!(!failed.status.success(), "{}", said(&failed));
    assert!(said(&failed).contains("race: "), "{}", said(&failed));
}

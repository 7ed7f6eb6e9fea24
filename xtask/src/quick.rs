//! `cargo xtask quick`: of everything that `cargo test` and `cargo xtask ci` check, the part that takes minutes.

use std::error::Error;
use std::process::Command;
use std::time::Instant;

use crate::ci::{docs, kernels_left_out, step};

/// Workspaces of their own, whose format is looked at too: that takes no dependency.
pub(crate) const OTHERS: [&str; 3] = ["integrations/candle/Cargo.toml", "python/Cargo.toml", "fuzz/Cargo.toml"];
/// Without the emulator: its C++ takes a minute.
const PACKAGES: [&str; 8] =
    ["--package", "batchnorm", "--package", "batchnorm-cli", "--package", "ptx-replay", "--package", "xtask"];
/// Tests of the root package that take seconds.
const TESTS: [&str; 7] = ["fold", "fuzz_corpus", "layer", "lists", "numerics", "packages", "plan"];

/// Runs every step, and stops at the first that fails.
pub(crate) fn run() -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    rustfmt()?;
    let clippy = ["clippy", "--all-targets", "--features", "batchnorm/cuda,batchnorm-cli/cuda"];
    let clippy = [&clippy[..], &PACKAGES, &["--", "-D", "warnings"]].concat();
    step("clippy [cuda]", &mut kernels_left_out(&clippy))?;
    let mut tests = vec!["test", "--package", "batchnorm", "--lib"];
    tests.extend(TESTS.into_iter().flat_map(|test| ["--test", test]));
    step("tests on the CPU", Command::new("cargo").args(tests))?;
    step("tests of xtask", Command::new("cargo").args(["test", "--package", "xtask"]))?;
    docs("bench,cuda,verify")?;
    println!("\nxtask quick: all steps passed in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// The format of all workspaces.
pub(crate) fn rustfmt() -> Result<(), Box<dyn Error>> {
    step("rustfmt", Command::new("cargo").args(["fmt", "--all", "--check"]))?;
    for manifest in OTHERS {
        step("rustfmt", Command::new("cargo").args(["fmt", "--manifest-path", manifest, "--check"]))?;
    }
    Ok(())
}

//! `cargo xtask semver`: whether the public API of the library has changed by more than its version says. What it finds in
//! `batchnorm::plan` is no break: the promise leaves that module out.

use std::error::Error;
use std::process::Command;

use crate::ci::{installed, step};

const TOOL: &str = "cargo-semver-checks";
const VERSION: &str = "0.51.0";
/// Features of the library that its users build with. The driver's version is a choice among several.
const FEATURES: &str = "bench,cuda,verify";

/// Compares with a git revision, or with the newest release on crates.io.
pub(crate) fn run(baseline: Option<&str>) -> Result<(), Box<dyn Error>> {
    let tool = installed(TOOL, VERSION)?;
    let baseline = baseline.map(|revision| ["--baseline-rev", revision]).into_iter().flatten();
    let mut check = Command::new(tool);
    check.args(["semver-checks", "check-release", "--package", "batchnorm", "--only-explicit-features"]);
    check.args(["--features", FEATURES]).args(baseline);
    // Nothing is linked; a revision before BATCHNORM_SKIP_KERNELS knows this variable alone.
    step("semver: batchnorm", check.env("DOCS_RS", "1"))
}

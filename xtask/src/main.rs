//! The project's own commands; `cargo xtask help` lists them.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod abuse;
mod bindings;
mod build;
mod bundle;
mod ci;
mod conformance;
mod integrations;
mod kernels;
mod models;
mod quick;
mod replay;
mod semver;
mod toolkit;
mod wheel;

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask ci                     all checks beyond the test suite
       cargo xtask quick                  formatting, clippy, docs and the short tests of the CPU: minutes
       cargo xtask abuse [--minutes 2] [--seed 1] [--only PART]...
                                          random files, options, calls and failures, part by part
       cargo xtask toolkit                installs the CUDA compiler and libclang from PyPI into target/
       cargo xtask bindings [--check]     makes src/cuda/ffi.rs of kernels/abi.h, or sees that it is so made
       cargo xtask kernels [--json FILE]  what each kernel takes on each GPU architecture
       cargo xtask replay [--quick] [--archs 80,90,100,120]
                                          the kernels' PTX executed on the CPU, held against the emulated device
       cargo xtask bundle [--arch N] [--no-wheel] [--emulate]
                                          what a machine with a GPU and no toolchain needs, in target/bundle/
       cargo xtask semver [REVISION]      the public API against that of a git revision, or of the newest release
       cargo xtask conformance            makes tests/data/conformance out of ../shared/conformance";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    // Paths in this package are those of the workspace's root.
    env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))?;
    built_below(&env::current_exe()?, &env::current_dir()?)?;
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["ci"] => ci::run(),
        ["quick"] => quick::run(),
        ["semver"] => semver::run(None),
        ["semver", revision] => semver::run(Some(revision)),
        ["abuse", options @ ..] => abuse::run(&abuse::Options::parse(options)?),
        ["toolkit"] => toolkit::run(),
        ["bindings"] => bindings::run(false),
        ["bindings", "--check"] => bindings::run(true),
        ["kernels"] => kernels::run(None),
        ["kernels", "--json", file] => kernels::run(Some(file)),
        ["replay", options @ ..] => replay::run(&replay::Options::parse(options)?),
        ["bundle", options @ ..] => bundle::run(&bundle::Options::parse(options)?),
        ["conformance"] => conformance::run(),
        ["help"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Err(USAGE.into()),
    }
}

/// Whether cargo builds into target/ in the root, where the paths of this package lie: this executable shows it.
fn built_below(executable: &Path, root: &Path) -> Result<(), String> {
    let canonical = |path: &Path| fs::canonicalize(path).map_err(|error| format!("{}: {error}", path.display()));
    let (target, executable) = (canonical(&root.join("target"))?, canonical(executable)?);
    if executable.starts_with(&target) {
        return Ok(());
    }
    let (target, executable) = (target.display(), executable.display());
    Err(format!(
        "cargo's target folder: expected {target}, got that of {executable} (CARGO_TARGET_DIR, CARGO_BUILD_TARGET_DIR, build.target-dir)"
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_target_folder_elsewhere_is_refused() {
        let executable = env::current_exe().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        built_below(&executable, &root).unwrap();
        // A program of another folder, and a root that was never built in.
        let refused = built_below(Path::new("/bin/sh"), &root).unwrap_err();
        assert!(refused.contains("/target, got that of /") && refused.contains("CARGO_TARGET_DIR"), "{refused}");
        assert!(built_below(&executable, &root.join("src")).unwrap_err().contains("src/target: No such file"));
    }
}

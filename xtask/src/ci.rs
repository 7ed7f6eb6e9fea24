//! `cargo xtask ci`: everything that must hold beyond the test suite, step by step, from an empty machine with Rust,
//! g++ and python3.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::time::{Instant, SystemTime};

use crate::{bundle, integrations, quick};

/// The feature sets that users build: `--all-features` would be one that nobody does, once cudarc's are among them. Tests and benches
/// always see `bench` and `verify`, so that clippy has two of them to look at.
const FEATURES: [&str; 4] = ["", "bench,verify", "emulate", "emulate,bench,verify"];
/// The oldest Rust that the crates promise to build with: `rust-version` in Cargo.toml.
const MSRV: &str = "1.89";
/// The same of candle's package: candle 0.11.1 builds with no older one.
const MSRV_OF_CANDLE: &str = "1.94";
const CARGO_DENY: &str = "0.20.2";
/// The other processors whose vectors the CPU path has.
const AARCH64: &str = "aarch64-unknown-linux-gnu";
/// For what is built to see that it builds: optimizing the dependencies takes most of the time.
const UNOPTIMIZED: &str = r#"profile.dev.package."*".opt-level=0"#;

/// Runs every step, and stops at the first that fails.
pub(crate) fn run() -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    quick::rustfmt()?;
    for features in ["", "emulate"] {
        let clippy = ["clippy", "--workspace", "--all-targets", "--features", features, "--", "-D", "warnings"];
        step(&format!("clippy [{features}]"), &mut kernels_left_out(&clippy))?;
    }
    for features in FEATURES {
        docs(features)?;
    }
    aarch64()?;
    other_devices()?;
    // Of a seed that has passed: what comes out here is what a change has broken.
    step("abuse, one minute", Command::new(env::current_exe()?).args(["abuse", "--minutes", "1", "--seed", "1"]))?;
    // In the profile of this executable, whose dependencies are there.
    let own = ["test", "--profile", "dev", "--package", "xtask", "--package", "ptx-replay"];
    cargo("own tests of xtask and replay", &own)?;
    for test in ["xtask/test_needs.py", "xtask/package/test_check.py"] {
        step("xtask's own tests, in Python", &mut python(Path::new(test)))?;
    }
    // Without PyTorch it tests what needs none, and says what it skips.
    for test in ["benches/peers/test_peers.py", "benches/peers/test_timing.py"] {
        step("peers in Python", &mut python(Path::new(test)))?;
    }
    cuda()?;
    step("compiled kernels on the CPU", Command::new(env::current_exe()?).args(["replay", "--quick"]))?;
    evidence()?;
    msrv()?;
    fuzz_targets()?;
    integrations::candle()?;
    integrations::python()?;
    package()?;
    deny()?;
    conformance()?;
    println!("\nxtask ci: all steps passed in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// A cargo that only looks, and links nothing.
pub(crate) fn kernels_left_out(args: &[&str]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.args(args).env("BATCHNORM_SKIP_KERNELS", "1");
    cargo
}

/// The crate's documentation with these features, without a warning.
pub(crate) fn docs(features: &str) -> Result<(), Box<dyn Error>> {
    let doc = ["doc", "--no-deps", "--package", "batchnorm", "--features", features];
    step(&format!("docs [{features}]"), kernels_left_out(&doc).env("RUSTDOCFLAGS", "-D warnings"))
}

/// The crate's documentation as docs.rs builds it, by what Cargo.toml tells docs.rs. Its rustdoc is a nightly one: here this
/// crate alone may have unstable features. A target folder of its own, since build scripts of dependencies look at that variable.
fn docs_rs() -> Result<(), Box<dyn Error>> {
    let metadata = Command::new("cargo").args(["metadata", "--no-deps", "--format-version", "1"]).output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout)?;
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    let package = packages.find(|package| package["name"] == "batchnorm");
    let settings = &package.ok_or("cargo metadata: expected a package batchnorm, got none")?["metadata"]["docs"]["rs"];
    let words = |name: &str| -> Result<Vec<&str>, String> {
        let words = settings[name].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str).collect();
        if settings[name].is_array() {
            Ok(words)
        } else {
            Err(format!("package.metadata.docs.rs: expected {name}, got none"))
        }
    };
    let mut doc = Command::new("cargo");
    doc.args(["doc", "--no-deps", "--package", "batchnorm", "--config", UNOPTIMIZED, "--target-dir", "target/docs-rs"]);
    doc.args(["--features", &words("features")?.join(",")]).env("DOCS_RS", "1").env("RUSTC_BOOTSTRAP", "batchnorm");
    doc.env("RUSTDOCFLAGS", format!("-D warnings {}", words("rustdoc-args")?.join(" ")));
    step("docs, as docs.rs builds them", &mut doc)
}

/// The steps that need nvcc, which `toolkit` installs, and no GPU: bindings, machine code, a build that links, documentation.
fn cuda() -> Result<(), Box<dyn Error>> {
    let xtask = env::current_exe()?;
    step("CUDA toolkit", Command::new(&xtask).arg("toolkit"))?;
    step("bindings", Command::new(&xtask).args(["bindings", "--check"]))?;
    step("kernels", Command::new(&xtask).args(["kernels", "--json", "target/kernels.json"]))?;
    // One architecture, and one object a source: the step before has compiled them all, with the same flags. Without a GPU the device tests say
    // that they are skipped, which shows that a machine without a driver gets an error and no panic.
    // Beside the command line, with which the dependencies have the features that they have in the test suite. Not beside the emulated
    // device, whose driver would be found.
    // Not optimized, since little of it runs.
    let packages = ["--package", "batchnorm", "--package", "batchnorm-cli", "--config", "profile.test.opt-level=0"];
    let test = [&["test", "--features", "cuda", "--lib", "--test", "cuda"], &packages[..]].concat();
    step("tests [cuda] by nvcc", Command::new("cargo").args(test).envs(kernels()))?;
    let clippy = ["clippy", "--package", "batchnorm", "--all-targets", "--features", "cuda", "--", "-D", "warnings"];
    step("clippy [cuda]", &mut kernels_left_out(&clippy))?;
    let clippy =
        ["clippy", "--package", "batchnorm-cli", "--all-targets", "--features", "cudnn", "--", "-D", "warnings"];
    step("clippy [cudnn]", &mut kernels_left_out(&clippy))?;
    docs_rs()
}

/// How the kernels are compiled in steps that need only that they are there: for one architecture, once for all steps.
pub(crate) fn kernels() -> [(&'static str, OsString); 2] {
    let cache = env::current_dir().unwrap_or_default().join(bundle::CACHE);
    [("BATCHNORM_CUDA_ARCHS", "90".into()), ("BATCHNORM_CUDA_CACHE", cache.into())]
}

/// What `cargo xtask bundle` makes turns into evidence, on the emulated device and from another folder: the whole script once,
/// with few cases. How it takes hangs, faults and being killed is tested over stand-ins.
fn evidence() -> Result<(), Box<dyn Error>> {
    step("the evidence script, over stand-ins", &mut python(Path::new("xtask/bundle/test_evidence.py")))?;
    step("bundle [emulate]", Command::new(env::current_exe()?).args(["bundle", "--emulate"]))?;
    let script = fs::canonicalize("target/bundle-emulated/evidence.py")?;
    let target = fs::canonicalize("target")?;
    let (out, work) = (target.join("evidence"), target.join("evidence-work"));
    for folder in [&out, &work] {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
    }
    let mut evidence = python(&script);
    evidence.args(["900", "--small", "--out"]).arg(&out).arg("--work").arg(&work).current_dir(env::temp_dir());
    step("the evidence script, on the emulated device", &mut evidence)?;

    let summary = json(&out.join("summary.json"))?;
    let status = |name: &str| summary["steps"][name]["status"].as_str().unwrap_or("missing").to_owned();
    for name in
        ["info", "smoke", "tests-api", "verify-thin", "head-small", "tests-litmus", "tests-graphs", "tests-rest"]
    {
        if status(name) != "passed" {
            return Err(format!("{name} of the evidence script: expected passed, got {}", status(name)).into());
        }
    }
    let names = fs::read_dir(&out)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>()?;
    if names.len() != 3 {
        return Err(format!("the evidence script: expected three files, got {names:?}").into());
    }
    Ok(())
}

/// A Python script that leaves nothing behind in the tree.
fn python(script: &Path) -> Command {
    let mut python = Command::new("python3");
    python.arg(script).env("PYTHONDONTWRITEBYTECODE", "1");
    python
}

fn json(file: &Path) -> Result<serde_json::Value, Box<dyn Error>> {
    let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(serde_json::from_str(&text).map_err(|e| format!("{}: {e}", file.display()))?)
}

/// Every target of the workspace, and the packages of the other two, build with the oldest Rust that each promises.
fn msrv() -> Result<(), Box<dyn Error>> {
    let of_workspace = ["--workspace", "--all-targets", "--features", "emulate"];
    builds_with(MSRV, "Cargo.toml", &of_workspace)?;
    builds_with(MSRV, "python/Cargo.toml", &[])?;
    builds_with(MSRV_OF_CANDLE, "integrations/candle/Cargo.toml", &[])
}

fn builds_with(version: &str, manifest: &str, more: &[&str]) -> Result<(), Box<dyn Error>> {
    let toolchain = format!("+{version}");
    let installed = Command::new("cargo").args([&toolchain, "--version"]).output();
    if !installed.is_ok_and(|output| output.status.success()) {
        let install = ["toolchain", "install", version, "--profile", "minimal"];
        step(&format!("Rust {version}"), Command::new("rustup").args(install))?;
    }
    let check = ["check", "--config", UNOPTIMIZED, "--manifest-path", manifest, "--target-dir", "target/msrv"];
    let check = [&[&*toolchain], &check[..], more].concat();
    step(&format!("{manifest} with Rust {version}"), &mut kernels_left_out(&check))
}

/// The library on aarch64, whose vectors are NEON's: nothing here runs it, but it compiles, without a warning.
fn aarch64() -> Result<(), Box<dyn Error>> {
    let clippy = ["clippy", "--package", "batchnorm", "--features", "bench,verify", "--target", AARCH64];
    cargo("clippy [aarch64]", &[&clippy[..], &["--config", UNOPTIMIZED, "--", "-D", "warnings"]].concat())
}

/// The tests that choose or force a strategy, on emulated devices that do not have them all: without clusters, and without
/// cooperative launches too.
fn other_devices() -> Result<(), Box<dyn Error>> {
    for device in ["a100like", "nocoop"] {
        let mut test = Command::new("cargo");
        test.args(["test", "--features", "emulate", "--test", "cuda", "--"]);
        test.args(["api::", "faults::", "graphs::", "litmus::", "priorities::", "residency::", "workspace::"]);
        step(&format!("tests on {device}"), test.env("CUDA_EMULATOR_PROFILE", device))?;
    }
    Ok(())
}

/// The fuzz targets, a workspace of their own, still build. Their corpus is replayed by the test suite.
fn fuzz_targets() -> Result<(), Box<dyn Error>> {
    let check = ["check", "--manifest-path", "fuzz/Cargo.toml", "--target-dir", "target/fuzz"];
    cargo("fuzz targets", &check)
}

/// The packages build by themselves, each with the others as they are packaged now.
///
/// Cargo keeps the unpacked sources of a registry under its own home, by the registry's path, and takes them as unchanging. The
/// registry of a dry run lies in the target folder: in one of an equal name it would be built with the packages of an earlier run.
fn package() -> Result<(), Box<dyn Error>> {
    let packages = env::current_dir()?.join("target/packages");
    if packages.exists() {
        fs::remove_dir_all(&packages)?;
    }
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let target = packages.join(format!("{}-{}", since_epoch.as_millis(), process::id()));
    let mut publish = Command::new("cargo");
    publish.args([
        "publish",
        "--dry-run",
        "--workspace",
        "--config",
        UNOPTIMIZED,
        "--config",
        "profile.dev.opt-level=0",
        "--config",
        "profile.dev.debug=false",
    ]);
    publish.arg("--target-dir").arg(target);
    if env::var_os("CI").is_none() {
        publish.arg("--allow-dirty"); // Work in progress; CI's checkout is clean, and must be.
    }
    step("packages", &mut publish)?;
    Ok(fs::remove_dir_all(&packages)?)
}

/// Licences, sources and duplicates of dependencies. Advisories are left out: their database is no registry package.
fn deny() -> Result<(), Box<dyn Error>> {
    let binary = installed("cargo-deny", CARGO_DENY)?;
    for manifest in ["Cargo.toml", "integrations/candle/Cargo.toml", "python/Cargo.toml"] {
        // Of all platforms: what was built here left those of others unfetched.
        cargo("dependencies, fetched", &["fetch", "--quiet", "--manifest-path", manifest])?;
        let mut deny = Command::new(&binary);
        deny.args(["--offline", "--manifest-path", manifest, "check"]);
        step("cargo-deny", deny.args(["bans", "licenses", "sources"]))?;
    }
    Ok(())
}

/// A program of crates.io in target/tools, which is installed where it is not of this version.
pub(crate) fn installed(program: &str, version: &str) -> Result<PathBuf, Box<dyn Error>> {
    let binary = Path::new("target/tools/bin").join(program);
    let found = Command::new(&binary).arg("--version").output();
    let is_current = found.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(version));
    if !is_current {
        let install = ["install", program, "--version", version, "--locked", "--debug", "--root", "target/tools"];
        let name = format!("{program}, installed");
        step(&name, Command::new("cargo").args(install).env("CARGO_PROFILE_DEV_DEBUG", "0"))?;
    }
    Ok(binary)
}

/// Every case of every framework, where the full set lies beside the project, on the CPU and on the emulated device.
fn conformance() -> Result<(), Box<dyn Error>> {
    let mut test = Command::new("cargo");
    let tests = ["--test", "conformance", "--test", "cuda"];
    test.args(["test", "--features", "emulate"]).args(tests);
    test.args(["agrees_with_the_frameworks", "--", "--nocapture"]);
    if Path::new("../shared/conformance").is_dir() {
        test.env("BATCHNORM_REQUIRE_SHARED", "1");
    } else {
        println!("\n../shared/conformance is absent: the subset in tests/data stands for it");
    }
    step("outside references", &mut test)
}

fn cargo(name: &str, args: &[&str]) -> Result<(), Box<dyn Error>> {
    step(name, Command::new("cargo").args(args))
}

pub(crate) fn step(name: &str, command: &mut Command) -> Result<(), Box<dyn Error>> {
    println!("\n== {name}: {}", spelled(command));
    let start = Instant::now();
    let status = command.status()?;
    println!("== {name}: {status} after {:.1} s", start.elapsed().as_secs_f64());
    if status.success() { Ok(()) } else { Err(format!("{name} failed: {}", spelled(command)).into()) }
}

/// The command as one would type it.
fn spelled(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .map(|word| if word.is_empty() { "''".into() } else { word })
        .collect::<Vec<_>>()
        .join(" ")
}

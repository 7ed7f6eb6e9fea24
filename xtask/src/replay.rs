//! `cargo xtask replay`: the PTX that nvcc makes of kernels/, executed on the CPU by replay/, for launches that the emulated device
//! writes down, and every byte compared.

mod options;
mod ptx;

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

pub(crate) use options::Options;

const FOLDER: &str = "target/replay";

/// Makes PTX, launches and the program, and executes the launches by each architecture's PTX.
pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let ptx = ptx::make(&options.architectures)?;
    let launches = launches()?;
    let program = program()?;
    let made = start.elapsed();
    let mut failures = Vec::new();
    for ptx::Ptx { architecture, files } in &ptx {
        let input = Input { program: &program, files, launches: &launches };
        for run in runs(options, architecture) {
            println!("\n== compute_{architecture}: {}", run.join(" "));
            if !input.command(&run).status()?.success() {
                failures.push(format!("compute_{architecture}: {}", run.join(" ")));
            }
        }
    }
    println!(
        "\nxtask replay: {:.0} s, {:.0} of them for PTX, launches and the program",
        start.elapsed().as_secs_f64(),
        made.as_secs_f64()
    );
    if failures.is_empty() { Ok(()) } else { Err(format!("replay failed: {}", failures.join(", ")).into()) }
}

/// The runs of an architecture's PTX.
fn runs(options: &Options, architecture: &str) -> Vec<Vec<String>> {
    let words = |text: &str| text.split(' ').map(String::from).collect::<Vec<_>>();
    // Faults are patterns of one compiler's text, that of compute_90.
    let has_faults = architecture == "90";
    let mut runs = Vec::new();
    if options.quick {
        runs.push(words("run --require-all --most 1"));
        runs.extend(has_faults.then(|| words("faults --most 4")));
    } else {
        runs.push(words("run --require-all"));
        runs.push(words("run --most 3 --seed 2"));
        runs.push(words("run --most 3 --seed 3 --consistent"));
        runs.push(words("run --most 3 --seed 4 --wide-divisions"));
        runs.extend(has_faults.then(|| words("faults --every")));
    }
    runs
}

/// The input of every run.
struct Input<'a> {
    program: &'a Path,
    files: &'a [PathBuf],
    launches: &'a Path,
}

impl Input<'_> {
    fn command(&self, run: &[String]) -> Command {
        let mut command = Command::new(self.program);
        command.args(run).arg("--ptx").args(self.files).arg("--launches").arg(self.launches);
        command
    }
}

/// The launches of the device tests that are there for it, made anew.
fn launches() -> Result<PathBuf, Box<dyn Error>> {
    let folder = Path::new(FOLDER).join("launches");
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let folder = fs::canonicalize(folder)?;
    let mut test = Command::new("cargo");
    test.args(["test", "--features", "emulate", "--test", "cuda", "--", "replay::"]);
    // The tests have one thread: a launch's memory is that of the whole device.
    test.args(["--test-threads", "1"]).env("CUDA_EMULATOR_DUMP", &folder).env_remove("CUDA_EMULATOR_PROFILE");
    if !test.status()?.success() {
        return Err("the emulated device's launches failed: cargo test --features emulate --test cuda replay::".into());
    }
    Ok(folder)
}

/// replay/, built.
fn program() -> Result<PathBuf, Box<dyn Error>> {
    if !Command::new("cargo").args(["build", "--package", "ptx-replay"]).status()?.success() {
        return Err("replay/ does not build".into());
    }
    Ok(env::current_exe()?.with_file_name("ptx-replay"))
}

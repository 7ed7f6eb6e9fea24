//! The checks of CI of the packages for other frameworks, in integrations/ and python/: workspaces of their own.

use std::env;
use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::ci::{kernels, step};
use crate::models;
use crate::toolkit::Toolkit;
use crate::wheel::Archive;

/// The Python package's environment, as its README makes it.
const VENV: &str = "target/python-venv";
const CANDLE: &str = "integrations/candle/Cargo.toml";

/// The candle package: its tests on the CPU, the commands of its README, that of the models among them, and a type check of its
/// CUDA path.
pub(crate) fn candle() -> Result<(), Box<dyn Error>> {
    let cargo = |command: &str, args: &[&str]| {
        let mut cargo = Command::new("cargo");
        cargo.args([command, "--manifest-path", CANDLE, "--target-dir", "target/candle"]).args(args);
        cargo
    };
    step("candle: tests", &mut cargo("test", &[]))?;
    for command in commands("integrations/candle/README.md")? {
        step("candle: a command of its README", Command::new("sh").args(["-c", &command]))?;
    }

    // Candle's CUDA devices make handles of cuBLAS and cuRAND, which the emulated device has not: so far as types go.
    let toolkit = Toolkit::ensure()?;
    let nvcc = nvcc_for_types(&toolkit.nvcc())?;
    // cudarc asks the nvcc of PATH for its version. Our own kernels are left out.
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = nvcc.parent().map(Path::to_path_buf).into_iter().chain(env::split_paths(&path));
    let path = env::join_paths(folders)?;
    let for_types = |mut cargo: Command| {
        cargo.env("NVCC", &nvcc).env("CUDA_COMPUTE_CAP", "90").env("CUDA_HOME", toolkit.nvcc().with_file_name(".."));
        cargo.env("PATH", &path).env("BATCHNORM_SKIP_KERNELS", "1").env("RUSTDOCFLAGS", "-D warnings");
        cargo
    };
    let clippy = ["--workspace", "--features", "candle-batchnorm/cuda", "--all-targets", "--", "-D", "warnings"];
    let clippy = cargo("clippy", &clippy);
    step("candle: clippy, and so the types of its CUDA path", &mut for_types(clippy))?;
    // The features are the same, so that candle is not checked once more.
    step("candle: docs", &mut for_types(cargo("doc", &["--no-deps", "--features", "cuda"])))
}

/// The Python package: its archive, and the wheels that are built of it; the commands of its README, which install it from the
/// repository and run its tests, those of the CUDA path on the emulated device among them, here over the archive's wheel; whole
/// networks; and the build with CUDA kernels, on a machine without a GPU.
pub(crate) fn python() -> Result<(), Box<dyn Error>> {
    let cargo = |command: &str, args: &[&str]| {
        let mut cargo = Command::new("cargo");
        cargo.args([command, "--manifest-path", "python/Cargo.toml"]).args(args);
        cargo
    };
    let target = fs::canonicalize("target")?.join("python");
    let emulate = ["--target-dir", "target/python", "--features", "emulate"];
    step("python: clippy", cargo("clippy", &emulate).args(["--", "-D", "warnings"]))?;
    step("python: the native half on the emulated device", &mut cargo("build", &emulate))?;

    let in_environment = |mut command: Command| -> Result<Command, Box<dyn Error>> {
        command.env("CARGO_TARGET_DIR", &target).env("BATCHNORM_EMULATED", target.join("debug/lib_native.so"));
        command.env("PIP_QUIET", "1").env("PIP_DISABLE_PIP_VERSION_CHECK", "1").env("PYTHONDONTWRITEBYTECODE", "1");
        Ok(command)
    };
    let archive = Archive::unpack()?;
    let wheel = archive.cpu_wheel()?;
    let python = Path::new(VENV).join("bin/python");
    let mut is_installed = false;
    for line in commands("python/README.md")? {
        let mut shell = in_environment(Command::new("sh"))?;
        step("python: a command of its README", shell.args(["-c", &line]))?;
        if line.ends_with("pip install ./python") {
            // As users build it, which the wheels of these checks are not (wheel.rs). A call that went through Python's kernels again
            // would take three times torch.nn's; a busy machine is no such thing.
            let mut cost = in_environment(Command::new(&python))?;
            cost.args(["python/benches/host_cost.py", "--rounds", "15", "--at-most", "1.6"]);
            step("python: what a call costs the host", &mut cost)?;
            // The wheel replaces what came from the repository, so that the later commands see what users of the archive have.
            let mut install = in_environment(Command::new(&python))?;
            install.args(["-m", "pip", "install", "--no-deps", "--no-index", "--force-reinstall"]).arg(&wheel);
            step("python: the archive's wheel, installed", &mut install)?;
            is_installed = true;
        }
    }
    if !is_installed {
        return Err("python/README.md: expected a command that ends with `pip install ./python`, found none".into());
    }
    let python = fs::canonicalize(VENV)?.join("bin/python");
    let mut bench = in_environment(Command::new(&python))?;
    bench.args(["python/benches/train_step.py", "--device", "cpu", "--batch", "2", "--size", "16"]);
    step("python: the step bench runs", bench.args(["--rounds", "2", "--warmup", "1", "--dtype", "bf16"]))?;

    let mut tests = in_environment(Command::new(&python))?;
    tests.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]).env("BATCHNORM_PYTHON_KERNELS", "1");
    // Others run with these kernels where an older PyTorch has no others (models.rs).
    tests.args(["tests/test_ways.py", "tests/test_memory.py", "tests/test_options.py"]);
    step("python: tests of the kernels in Python", tests.current_dir("python"))?;
    models::run(&python, &wheel)?;

    let folder = fs::canonicalize("target")?.join("python-cuda");
    let built = archive.cuda_wheel(&kernels(), &folder)?;
    let mut install = in_environment(Command::new(&python))?;
    install.args(["-m", "pip", "install", "--no-deps", "--no-index", "--target"]).arg(&folder).arg(built);
    step("python: that wheel, installed", &mut install)?;
    let mut tests = in_environment(Command::new(&python))?;
    tests.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]);
    tests.args(["tests/test_modules.py", "tests/test_refusals.py", "tests/test_cuda.py"]);
    step("python: that build's tests", tests.current_dir("python").env("PYTHONPATH", &folder))
}

/// The lines of a page's shell blocks.
fn commands(page: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let text = fs::read_to_string(page).map_err(|error| format!("{page}: {error}"))?;
    let blocks = text.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
    let commands: Vec<String> = blocks.flat_map(str::lines).map(str::to_owned).collect();
    if commands.is_empty() { Err(format!("{page}: expected shell commands, found none").into()) } else { Ok(commands) }
}

/// An nvcc that answers questions and writes empty files where it would compile: candle's kernels take a quarter of an hour,
/// and types need none of them.
fn nvcc_for_types(nvcc: &Path) -> Result<std::path::PathBuf, Box<dyn Error>> {
    let folder = fs::canonicalize("target")?.join("nvcc-for-types");
    fs::create_dir_all(&folder)?;
    let file = folder.join("nvcc");
    let script = format!(
        r#"#!/bin/sh
case "$*" in *--version*) exec "{}" "$@";; esac
before=
folder=
for argument; do
    case "$before" in -o) exec touch "$argument";; --output-directory) folder=$argument;; esac
    before=$argument
done
source=${{before##*/}}
exec touch "$folder/${{source%.cu}}.ptx"
"#,
        nvcc.display()
    );
    // Unchanged, it is not to be seen as new: all would be built again.
    if fs::read_to_string(&file).ok().as_ref() != Some(&script) {
        fs::write(&file, script)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    }
    Ok(file)
}

//! What CI checks of the packages for other frameworks, in integrations/ and python/: workspaces of their own.

use std::env;
use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::ci::step;
use crate::toolkit::Toolkit;

/// The Python package's environment, with PyTorch: its own wheels, without what only a GPU needs.
const VENV: &str = "target/python-venv";
/// PyTorch's libraries are named one by one, as it would ask for more of them.
const TORCH: [&str; 2] = [
    "torch==2.15.0",
    "filelock typing-extensions sympy networkx jinja2 fsspec mpmath numpy pytest expecttest \
     cuda-toolkit[cublas,cudart,cufft,cufile,cupti,cusparse,nvjitlink,nvrtc]==13.2.2 nvidia-cudnn-cu13==9.26.0.51 \
     nvidia-cusparselt-cu13==0.8.1 nvidia-nccl-cu13==2.30.7 nvidia-nvshmem-cu13==3.7.2",
];
const CANDLE: &str = "integrations/candle/Cargo.toml";

/// The candle package: its tests on the CPU, the commands of its README, and a type check of its CUDA path.
pub(crate) fn candle() -> Result<(), Box<dyn Error>> {
    let cargo = |command: &str, args: &[&str]| {
        let mut cargo = Command::new("cargo");
        cargo.args([command, "--manifest-path", CANDLE, "--target-dir", "target/candle"]).args(args);
        cargo
    };
    step("candle: rustfmt", Command::new("cargo").args(["fmt", "--manifest-path", CANDLE, "--check"]))?;
    step("candle: tests", &mut cargo("test", &[]))?;
    for command in commands("integrations/candle/README.md")? {
        step("candle: a command of its README", Command::new("sh").args(["-c", &command]))?;
    }

    // Candle's CUDA devices make handles of cuBLAS and cuRAND, which the emulated device has not: so far as types go.
    let toolkit = Toolkit::ensure()?;
    let nvcc = nvcc_for_types(&toolkit.nvcc())?;
    // cudarc asks the nvcc of PATH for its version. With DOCS_RS our own kernels are left out.
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = nvcc.parent().map(Path::to_path_buf).into_iter().chain(env::split_paths(&path));
    let path = env::join_paths(folders)?;
    let for_types = |mut cargo: Command| {
        cargo.env("NVCC", &nvcc).env("CUDA_COMPUTE_CAP", "90").env("CUDA_HOME", toolkit.nvcc().with_file_name(".."));
        cargo.env("PATH", &path).env("DOCS_RS", "1").env("RUSTDOCFLAGS", "-D warnings");
        cargo
    };
    let clippy = cargo("clippy", &["--features", "cuda", "--all-targets", "--", "-D", "warnings"]);
    step("candle: clippy, and so the types of its CUDA path", &mut for_types(clippy))?;
    // With the same features, so that candle is not checked once more.
    step("candle: docs", &mut for_types(cargo("doc", &["--no-deps", "--features", "cuda"])))
}

/// The Python package, built and installed as its README says: its tests on the CPU, and a type check of its CUDA path.
pub(crate) fn python() -> Result<(), Box<dyn Error>> {
    let manifest = ["--manifest-path", "python/Cargo.toml"];
    step("python: rustfmt", Command::new("cargo").arg("fmt").args(manifest).arg("--check"))?;
    let toolkit = Toolkit::ensure()?;
    let mut clippy = Command::new("cargo");
    clippy.arg("clippy").args(manifest).args([
        "--target-dir",
        "target/python",
        "--features",
        "cuda",
        "--",
        "-D",
        "warnings",
    ]);
    clippy.env("CUDA_HOME", toolkit.nvcc().with_file_name("..")).env("DOCS_RS", "1");
    step("python: clippy, and so the types of its CUDA path", &mut clippy)?;

    let pip = |args: &[&str]| {
        let mut pip = Command::new(format!("{VENV}/bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(args);
        pip
    };
    step("python: environment", Command::new("python3").args(["-m", "venv", VENV]))?;
    let [torch, beside] = TORCH;
    step("python: PyTorch", &mut pip(&["--no-deps", torch]))?;
    step("python: what PyTorch needs", &mut pip(&beside.split_whitespace().collect::<Vec<_>>()))?;
    for command in commands("python/README.md")? {
        let path = env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]).env("PATH", format!("{}:{path}", fs::canonicalize(VENV)?.join("bin").display()));
        shell.env("CARGO_TARGET_DIR", fs::canonicalize("target")?.join("python"));
        step("python: a command of its README", &mut shell)?;
    }
    let mut tests = Command::new(fs::canonicalize(VENV)?.join("bin/python"));
    tests.args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]).current_dir("python");
    tests.env("PYTHONDONTWRITEBYTECODE", "1");
    step("python: tests", &mut tests)?;
    let mut bench = Command::new(format!("{VENV}/bin/python"));
    bench.args(["python/benches/train_step.py", "--device", "cpu", "--batch", "2", "--size", "16"]);
    bench.args(["--rounds", "2", "--warmup", "1", "--dtype", "bf16"]);
    step("python: the step bench runs", &mut bench)
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

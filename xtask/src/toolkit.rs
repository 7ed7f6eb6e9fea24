//! `cargo xtask toolkit`: the CUDA compiler, its headers and runtime, the disassemblers, and libclang for bindgen, from
//! PyPI into target/. Nothing outside target/ is touched, and no driver or GPU is needed.

use std::error::Error;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::build::toolkit;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Tools other than the compiler. The disassemblers read any older machine code, and PyPI has none of 13.0.
const TOOLS: [&str; 3] = ["nvidia-cuda-cuobjdump==13.2.51", "nvidia-cuda-nvdisasm==13.2.51", "libclang==18.1.1"];
/// Written last, so that it is there only where all of them are.
const STAMP: &str = "packages.txt";

/// An installed toolkit.
pub(crate) struct Toolkit {
    root: PathBuf,
}

impl Toolkit {
    /// Installs the toolkit unless it is there.
    pub(crate) fn ensure() -> Result<Self> {
        let target = fs::canonicalize(".")?.join("target");
        let found = Self { root: target.join(toolkit::FOLDER) };
        if !found.is_complete() {
            found.install(&target)?;
        }
        Ok(found)
    }

    pub(crate) fn nvcc(&self) -> PathBuf {
        self.root.parent().map(toolkit::nvcc).unwrap_or_default()
    }

    /// A program next to nvcc.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.nvcc().with_file_name(name)
    }

    fn is_complete(&self) -> bool {
        fs::read_to_string(self.root.join(STAMP)).is_ok_and(|text| text == packages().join("\n"))
    }

    /// Installs into a folder next to the final one, which is renamed when all is there: an interrupted run leaves nothing that
    /// passes for a toolkit.
    fn install(&self, target: &Path) -> Result<()> {
        let python = require_pip()?;
        let start = Instant::now();
        println!("installing {} packages from PyPI into {}", packages().len(), self.root.display());
        let partial = target.join(format!("{}.partial", toolkit::FOLDER));
        remove(&partial)?;
        fs::create_dir_all(&partial)?;
        let mut pip = Command::new(python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile"])
            .args(["--only-binary", ":all:", "--target"])
            .arg(&partial)
            .args(packages())
            .env("PIP_ROOT_USER_ACTION", "ignore");
        let status = pip.status()?;
        if !status.success() {
            return Err(format!("pip could not install the CUDA toolkit ({status}); its message is above").into());
        }
        // nvcc links programs with lib64, where the packages say lib.
        symlink("lib", partial.join("nvidia/cu13/lib64"))?;
        fs::write(partial.join(STAMP), packages().join("\n"))?;
        remove(&self.root)?;
        fs::rename(&partial, &self.root)?;
        println!("installed in {:.0} s", start.elapsed().as_secs_f64());
        Ok(())
    }
}

/// All of them, in the order of the stamp.
fn packages() -> Vec<&'static str> {
    toolkit::COMPILER.into_iter().chain(TOOLS).collect()
}

/// Installs the toolkit, sees nvcc run, and says where it is.
pub(crate) fn run() -> Result<()> {
    let toolkit = Toolkit::ensure()?;
    let nvcc = toolkit.nvcc();
    let output = Command::new(&nvcc).arg("--version").output().map_err(|e| format!("{}: {e}", nvcc.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let release = text.lines().find(|line| line.contains("release")).ok_or("nvcc --version names no release")?;
    println!("{}: {}", nvcc.display(), release.trim());
    Ok(())
}

fn require_pip() -> Result<&'static str> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    match pip.status() {
        Ok(status) if status.success() => Ok("python3"),
        Ok(_) => Err("the CUDA toolkit comes from PyPI, and python3 has no pip: install python3-pip".into()),
        Err(e) => Err(format!("the CUDA toolkit comes from PyPI, and python3 does not run: {e}").into()),
    }
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    Ok(())
}

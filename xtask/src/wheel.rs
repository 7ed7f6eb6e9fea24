//! The Python package as its users get it: an archive of its sources, and wheels that are built of the archive alone, in a folder
//! outside of the repository.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ci::step;
use crate::toolkit::Toolkit;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The front end that makes archives: pip makes none.
const BUILD: &str = "build==1.3.0";
/// The folder that it is installed in, with its version in the name.
const TOOLS: &str = "target/tools/build-1.3.0";
const CHECK: &str = "xtask/package/check.py";

/// Builds without optimization across crates, which takes most of a wheel's time and changes nothing that these checks look at.
const FASTER: [(&str, &str); 2] = [("CARGO_PROFILE_RELEASE_LTO", "off"), ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")];

/// The package's sources, unpacked. The folder goes with this.
pub(crate) struct Archive {
    archive: PathBuf,
    folder: PathBuf,
}

impl Archive {
    /// Makes the archive, sees that it holds sources alone, and unpacks it.
    pub(crate) fn unpack() -> Result<Self> {
        if !Path::new(TOOLS).is_dir() {
            let mut pip = python(&["-m", "pip", "install", "--quiet", "--target"]);
            step("python: a front end for archives", pip.args([TOOLS, BUILD]))?;
        }
        let made = fs::canonicalize("target")?.join("python-archive");
        fresh(&made)?;
        let mut build = python(&["-m", "build", "--sdist", "--outdir"]);
        step("python: its archive", build.arg(&made).arg("python").env("PYTHONPATH", fs::canonicalize(TOOLS)?))?;
        let archive = only_file(&made)?;
        step("python: what the archive holds", python(&[CHECK, "archive"]).arg(&archive))?;

        // One folder a repository: cargo takes builds of the same sources at the same place for the same.
        let mut key = DefaultHasher::new();
        made.hash(&mut key);
        let folder = env::temp_dir().join(format!("batchnorm-archive-{:016x}", key.finish()));
        let unpacked = Self { archive, folder };
        unpacked.renew()?;
        Ok(unpacked)
    }

    /// Unpacks it anew, into the same folder. All files are as new as that, so that cargo builds them again.
    fn renew(&self) -> Result<()> {
        fresh(&self.folder)?;
        let mut tar = Command::new("tar");
        tar.args(["-x", "-m", "-z", "--strip-components=1", "-f"]).arg(&self.archive).arg("-C").arg(&self.folder);
        step("python: its archive, unpacked", &mut tar)
    }

    /// Builds a wheel into a folder, and sees that it names no folder of this machine. pip has these variables in addition to
    /// its own.
    fn wheel(&self, name: &str, to: &Path, variables: &[(&str, OsString)]) -> Result<PathBuf> {
        let target = fs::canonicalize("target")?;
        fresh(to)?;
        let mut pip = python(&["-m", "pip", "wheel", "--quiet", "--no-cache-dir", "--no-deps", "--wheel-dir"]);
        pip.arg(to).arg(&self.folder).env("CARGO_TARGET_DIR", target.join("python")).envs(FASTER);
        pip.envs(variables.iter().cloned());
        step(name, &mut pip)?;
        let wheel = only_file(to)?;
        let mut check = python(&[CHECK, "wheel"]);
        check.arg(&wheel).arg("--without").arg(fs::canonicalize(".")?).args([env::temp_dir(), self.folder.clone()]);
        check.args(["HOME", "CARGO_HOME", "RUSTUP_HOME"].into_iter().filter_map(env::var_os).filter(|v| !v.is_empty()));
        step("python: no folder of this machine in the wheel", &mut check)?;
        Ok(wheel)
    }

    /// The wheel without CUDA kernels, made twice of sources that were unpacked twice, and equal both times.
    pub(crate) fn cpu_wheel(&self) -> Result<PathBuf> {
        let [first, second] = ["python-wheel", "python-wheel-again"].map(|name| Path::new("target").join(name));
        let wheel = self.wheel("python: a wheel of the archive", &first, &[])?;
        self.renew()?;
        let again = self.wheel("python: a second wheel of the archive", &second, &[])?;
        step("python: both wheels are the same", python(&[CHECK, "wheel"]).arg(again).arg("--same").arg(&wheel))?;
        Ok(wheel)
    }

    /// The wheel with CUDA kernels, in a folder of its own, compiled as these variables of the build script say.
    pub(crate) fn cuda_wheel(&self, kernels: &[(&str, OsString)], to: &Path) -> Result<PathBuf> {
        let toolkit = Toolkit::ensure()?;
        let home = toolkit.nvcc().with_file_name("..").into_os_string();
        let variables: Vec<_> =
            [("BATCHNORM_CUDA", "1".into()), ("CUDA_HOME", home)].into_iter().chain(kernels.iter().cloned()).collect();
        self.wheel("python: a wheel of the archive, with CUDA kernels", to, &variables)
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// python3 with these arguments; pip, where it is called, says no more than it must.
fn python(args: &[&str]) -> Command {
    let mut python = Command::new("python3");
    python.args(args).env("PYTHONDONTWRITEBYTECODE", "1").env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
    python.env("PIP_ROOT_USER_ACTION", "ignore");
    python
}

/// An empty folder.
fn fresh(folder: &Path) -> Result<()> {
    let told = |error| format!("{}: {error}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(told)?;
    }
    Ok(fs::create_dir_all(folder).map_err(told)?)
}

/// The one file of a folder.
fn only_file(folder: &Path) -> Result<PathBuf> {
    let files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    match files.as_slice() {
        [file] => Ok(file.clone()),
        files => Err(format!("{}: expected one file, got {}", folder.display(), files.len()).into()),
    }
}

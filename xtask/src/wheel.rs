//! The Python package with CUDA kernels, as a wheel.

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::ci::step;
use crate::toolkit::Toolkit;

/// Builds it into a folder, with kernels that are compiled as these variables of the build script say.
pub(crate) fn wheel(kernels: &[(&str, OsString)], folder: &Path) -> Result<(), Box<dyn Error>> {
    let toolkit = Toolkit::ensure()?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--wheel-dir"]);
    pip.arg(folder).arg("./python").env("CARGO_TARGET_DIR", fs::canonicalize("target")?.join("python"));
    pip.env("BATCHNORM_CUDA", "1").envs(kernels.iter().cloned());
    step("the Python package with CUDA kernels", pip.env("CUDA_HOME", toolkit.nvcc().with_file_name("..")))
}

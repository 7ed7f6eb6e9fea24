// The choice of nvcc, and the CUDA runtime that belongs to it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::toolkit;

/// The first release that knows every default architecture and `--compress-mode`.
const OLDEST: (u32, u32) = (12, 8);

/// nvcc: of the variable NVCC; of CUDA_HOME or CUDA_PATH; as `cargo xtask toolkit` installed it; of PATH; of
/// /usr/local/cuda. The first that is there is taken, and must be new enough.
pub(crate) fn find(root: &Path) -> Result<PathBuf, String> {
    let nvcc = match env::var_os("NVCC") {
        Some(named) if Path::new(&named).components().count() > 1 => {
            let named = PathBuf::from(named);
            if !named.is_file() {
                return Err(format!("NVCC={} does not exist", named.display()));
            }
            Some(named)
        }
        Some(name) => Some(in_path(Path::new(&name)).ok_or_else(|| format!("NVCC={} is not in PATH", name.display()))?),
        None => {
            let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
            let homes = homes.filter(|home| !home.is_empty()).map(|home| Path::new(&home).join("bin/nvcc"));
            homes
                .chain(own(root))
                .find(|nvcc| nvcc.is_file())
                .or_else(|| in_path(Path::new("nvcc")))
                .or_else(|| Some(PathBuf::from("/usr/local/cuda/bin/nvcc")).filter(|nvcc| nvcc.is_file()))
        }
    };
    let advice = toolkit::advice(root.join("xtask").is_dir());
    let nvcc = nvcc.ok_or_else(|| {
        format!(
            "the feature `cuda` compiles CUDA kernels, and nvcc was not found (NVCC, CUDA_HOME, CUDA_PATH, PATH, \
             /usr/local/cuda)\n{advice}"
        )
    })?;
    let release = release(&nvcc)?;
    if release < OLDEST {
        let ((major, minor), (oldest_major, oldest_minor)) = (release, OLDEST);
        return Err(format!(
            "{} is of CUDA {major}.{minor}, and {oldest_major}.{oldest_minor} is needed\n{advice}",
            nvcc.display()
        ));
    }
    Ok(nvcc)
}

/// The folder of libcudart_static.a: one for NVIDIA's packages and PyPI's, one for its installer, one for Debian's.
pub(crate) fn runtime(nvcc: &Path) -> Result<PathBuf, String> {
    let program = nvcc.canonicalize().map_err(|e| format!("{}: {e}", nvcc.display()))?;
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let target = if arch == "aarch64" { "sbsa" } else { &arch };
    let below = [format!("targets/{target}-linux/lib"), "lib64".into(), "lib".into(), format!("lib/{arch}-linux-gnu")];
    // nvcc may be a link out of its toolkit, or Debian's, into it.
    let tops = [program.as_path(), nvcc].into_iter().filter_map(|nvcc| nvcc.ancestors().nth(2));
    tops.flat_map(|top| below.iter().map(|folder| top.join(folder)))
        .find(|folder| folder.join("libcudart_static.a").is_file())
        .ok_or_else(|| format!("libcudart_static.a was not found beside {}", program.display()))
}

/// nvcc in the target folder of the workspace, or that of this build.
fn own(root: &Path) -> impl Iterator<Item = PathBuf> {
    let out = env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
    let targets: Vec<_> = out.ancestors().map(Path::to_path_buf).collect();
    std::iter::once(root.join("target")).chain(targets).map(|target| toolkit::nvcc(&target))
}

fn in_path(name: &Path) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// `nvcc --version` says "release 13.0, V13.0.88".
fn release(nvcc: &Path) -> Result<(u32, u32), String> {
    let output = Command::new(nvcc).arg("--version").output();
    let output = output.map_err(|e| format!("{} does not run: {e}", nvcc.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let release = text.split_once("release ").and_then(|(_, rest)| rest.split_once(','));
    let numbers = release.and_then(|(release, _)| release.split_once('.'));
    let parsed = numbers.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    parsed.ok_or_else(|| format!("{} --version names no release", nvcc.display()))
}

// The project's own CUDA toolkit, and how others come by one. Shared by build.rs, which uses it, and xtask, which installs it.

use std::path::{Path, PathBuf};

/// The folder under the target folder; its name carries nvcc's version.
pub(crate) const FOLDER: &str = "cuda-toolkit-13.0.88";

/// The compiler, its headers and its runtime on PyPI. Exact versions, so that a build is the same tomorrow. CUDA 13.0 suits
/// drivers of the 580 series.
pub(crate) const COMPILER: [&str; 5] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];

/// nvcc below the folder that these packages were installed into.
const NVCC: &str = "nvidia/cu13/bin/nvcc";

/// nvcc in a toolkit that `cargo xtask toolkit` installed in `target`.
pub(crate) fn nvcc(target: &Path) -> PathBuf {
    target.join(FOLDER).join(NVCC)
}

/// How to come by an nvcc, or do without, one way a line. A package comes without xtask.
#[allow(dead_code, reason = "for build.rs")]
pub(crate) fn advice(has_xtask: bool) -> String {
    let install = if has_xtask {
        "`cargo xtask toolkit` installs it into target/".to_owned()
    } else {
        let packages = COMPILER.join(" ");
        format!(
            "install CUDA 12.8 or later; or the compiler alone, from PyPI:\n  \
             python3 -m pip install --no-deps --target nvcc {packages}\n  \
             export NVCC=$PWD/nvcc/{NVCC}"
        )
    };
    format!(
        "- {install}\n\
         - for cargo check, clippy, doc or an editor, which link nothing: set BATCHNORM_SKIP_KERNELS=1\n\
         - without a GPU: the feature `emulate`, an emulated device for tests"
    )
}

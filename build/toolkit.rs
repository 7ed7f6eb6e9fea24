// The folder of the project's own CUDA toolkit. Shared by build.rs, which uses it, and xtask, which installs it.

use std::path::{Path, PathBuf};

/// The folder under the target folder; its name carries nvcc's version.
pub(crate) const FOLDER: &str = "cuda-toolkit-13.0.88";

/// nvcc in a toolkit that `cargo xtask toolkit` installed in `target`.
pub(crate) fn nvcc(target: &Path) -> PathBuf {
    target.join(FOLDER).join("nvidia/cu13/bin/nvcc")
}

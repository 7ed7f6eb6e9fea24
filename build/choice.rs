// Which kernels a build has. Shared by build.rs and the tests of xtask.

use std::ffi::OsString;

/// Leaves the kernels out where nothing is linked: cargo check, clippy, an editor.
pub(crate) const SKIP: &str = "BATCHNORM_SKIP_KERNELS";
/// Allows the emulated device in a release. This repository's .cargo/config.toml sets it.
pub(crate) const EMULATE_RELEASE: &str = "BATCHNORM_EMULATE_RELEASE";

/// A library that is nowhere. A linker that looks for it says why a program without kernels cannot be made.
#[allow(dead_code, reason = "for build.rs")]
pub(crate) const NO_KERNELS: &str = "batchnorm_without_kernels__unset_BATCHNORM_SKIP_KERNELS_and_DOCS_RS";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernels {
    /// None: the build is only looked at.
    Skipped,
    Emulated,
    Native,
}

/// The kernels of a build with the feature `cuda`, by the features and the environment.
///
/// Features add up over a build: a test helper that asks for `emulate` would turn the kernels of a program of the same build into
/// emulated ones, which give right results, slower by orders of magnitude. A warning would not be seen: cargo shows none of
/// dependencies.
pub(crate) fn choose(emulate: bool, variable: impl Fn(&str) -> Option<OsString>) -> Result<Kernels, String> {
    if variable("DOCS_RS").is_some() || is_on(SKIP, &variable)? {
        return Ok(Kernels::Skipped);
    }
    let is_release = variable("PROFILE").is_some_and(|profile| profile == "release");
    if emulate && is_release && !is_on(EMULATE_RELEASE, &variable)? {
        return Err(format!(
            "the feature `emulate` makes every CUDA device of this build an emulated one, for tests: expected a build by \
             a profile for development, got a release. `cargo tree -e features -i batchnorm` names who asks for `emulate`; \
             {EMULATE_RELEASE}=1 allows it"
        ));
    }
    Ok(if emulate { Kernels::Emulated } else { Kernels::Native })
}

/// A variable that is 1, or 0 or nothing.
fn is_on(name: &str, variable: &impl Fn(&str) -> Option<OsString>) -> Result<bool, String> {
    let value = variable(name).unwrap_or_default();
    match value.to_str() {
        Some("1") => Ok(true),
        Some("" | "0") => Ok(false),
        _ => Err(format!("{name}: expected 0 or 1, got {value:?}")),
    }
}

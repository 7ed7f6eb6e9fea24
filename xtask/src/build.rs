//! Parts of the build script, so that what is reported and executed here is what is built.

#[cfg(test)]
#[path = "../../build/cache.rs"]
pub(crate) mod cache;
#[cfg(test)]
#[path = "../../build/choice.rs"]
mod choice;
#[path = "../../build/flags.rs"]
pub(crate) mod flags;
#[path = "../../build/hash.rs"]
pub(crate) mod hash;
#[path = "../../build/sources.rs"]
pub(crate) mod sources;
#[path = "../../build/toolkit.rs"]
pub(crate) mod toolkit;

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::choice::{EMULATE_RELEASE, Kernels, SKIP, choose};
    use super::toolkit;

    /// The choice with these variables set.
    fn chosen(emulate: bool, variables: &[(&str, &str)]) -> Result<Kernels, String> {
        let value = |name: &str| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| OsString::from(value));
        choose(emulate, value)
    }

    #[test]
    fn kernels_are_left_out_where_that_is_asked_for() {
        for emulate in [false, true] {
            let whole = if emulate { Kernels::Emulated } else { Kernels::Native };
            assert_eq!(chosen(emulate, &[("PROFILE", "debug")]), Ok(whole));
            for value in ["", "0"] {
                assert_eq!(chosen(emulate, &[(SKIP, value)]), Ok(whole), "{value:?}");
            }
            for skipped in [(SKIP, "1"), ("DOCS_RS", "1"), ("DOCS_RS", "")] {
                assert_eq!(chosen(emulate, &[("PROFILE", "release"), skipped]), Ok(Kernels::Skipped), "{skipped:?}");
            }
            let refused = chosen(emulate, &[(SKIP, "yes")]);
            assert_eq!(refused, Err("BATCHNORM_SKIP_KERNELS: expected 0 or 1, got \"yes\"".into()));
        }
    }

    #[test]
    fn a_release_is_not_emulated_unless_it_is_meant() {
        let release = ("PROFILE", "release");
        let refused = chosen(true, &[release]).unwrap_err();
        assert!(refused.contains("cargo tree -e features -i batchnorm"), "{refused}");
        assert!(refused.contains("BATCHNORM_EMULATE_RELEASE=1"), "{refused}");
        assert!(chosen(true, &[release, (EMULATE_RELEASE, "0")]).is_err());
        assert_eq!(chosen(true, &[release, (EMULATE_RELEASE, "1")]), Ok(Kernels::Emulated));
        assert_eq!(chosen(false, &[release]), Ok(Kernels::Native));
    }

    #[test]
    fn who_has_no_nvcc_is_told_how_to_go_on() {
        let ours = toolkit::advice(true);
        let package = toolkit::advice(false);
        for text in [&ours, &package] {
            assert!(text.contains("BATCHNORM_SKIP_KERNELS=1") && text.contains("`emulate`"), "{text}");
        }
        assert!(ours.contains("`cargo xtask toolkit`") && !ours.contains("pip"), "{ours}");
        // A package has no xtask, and its user no such command.
        assert!(!package.contains("xtask") && package.contains("CUDA 12.8 or later"), "{package}");
        assert!(package.contains(&format!("pip install --no-deps --target nvcc {}", toolkit::COMPILER.join(" "))));
        // The folder that pip installs into, in NVCC.
        let nvcc = toolkit::nvcc(std::path::Path::new("T"));
        let below = nvcc.strip_prefix(format!("T/{}", toolkit::FOLDER)).unwrap().display();
        assert!(package.contains(&format!("export NVCC=$PWD/nvcc/{below}")), "{package}");
    }
}

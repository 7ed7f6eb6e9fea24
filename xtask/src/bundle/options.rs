//! The options of a bundle, and the commands that build it so.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use super::CACHE;

/// The parts to make.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// The one architecture that machine code is made for, such as 90 or 90a.
    pub(super) arch: String,
    /// Whether it is for the emulated device, on this machine alone: it finds the device in its build's folder.
    pub(super) emulate: bool,
    /// Whether there is a wheel of the Python package: a second try of a kernel needs none.
    pub(super) wheel: bool,
}

impl Options {
    /// Parses the command line.
    pub(crate) fn parse(args: &[&str]) -> std::result::Result<Self, String> {
        let (mut arch, mut emulate, mut wheel) = (None, false, true);
        let mut args = args.iter();
        while let Some(&arg) = args.next() {
            match arg {
                "--emulate" => emulate = true,
                "--no-wheel" => wheel = false,
                "--arch" => {
                    let name = args.next().ok_or("--arch needs a compute capability, such as 90")?;
                    arch = Some(architecture(name)?);
                }
                _ => return Err(format!("bundle: expected --arch N, --no-wheel or --emulate, got \"{arg}\"")),
            }
        }
        if emulate && arch.is_some() {
            return Err("bundle: the emulated device has no architecture: give --arch or --emulate".into());
        }
        // PyTorch's own kernels do not run on the emulated device.
        Ok(Self { arch: arch.unwrap_or_else(|| "90".into()), emulate, wheel: wheel && !emulate })
    }

    /// The folder that it is made in. The emulated device has a folder of its own, so that CI does not replace a real bundle.
    pub(super) fn folder(&self) -> &'static Path {
        Path::new(if self.emulate { "target/bundle-emulated" } else { "target/bundle" })
    }

    /// cargo's command line. For the emulated device it is the README's test command, whose build is then used again;
    /// `--test cli` is there for the executable that the command line's tests are built with.
    pub(super) fn build(&self) -> Command {
        let mut cargo = Command::new("cargo");
        cargo.args(["test", "--no-run", "--message-format=json-render-diagnostics"]);
        cargo.args(["--test", "cuda", "--test", "cli"]);
        if self.emulate {
            cargo.args(["--features", "emulate"]);
        } else {
            cargo.args(["--release", "--features", "cuda,batchnorm-cli/cudnn"]).envs(self.kernels());
        }
        cargo
    }

    /// The environment by which the kernels are compiled, in every part of the bundle: once, and with line numbers, by which a
    /// fault or a profile names its source. The machine code is the same with them.
    pub(super) fn kernels(&self) -> [(&'static str, OsString); 3] {
        let cache = env::current_dir().unwrap_or_default().join(CACHE);
        [
            ("BATCHNORM_CUDA_ARCHS", self.arch.clone().into()),
            ("BATCHNORM_CUDA_LINEINFO", "1".into()),
            ("BATCHNORM_CUDA_CACHE", cache.into()),
        ]
    }
}

/// One compute capability. A list would be as many times the machine code.
fn architecture(name: &str) -> std::result::Result<String, String> {
    let number = name.strip_suffix(['a', 'f']).unwrap_or(name);
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let is_known = is_number && number.parse().is_ok_and(|capability: u32| (80..1000).contains(&capability));
    if is_known {
        Ok(name.to_owned())
    } else {
        Err(format!("--arch: expected one compute capability from 80 on, such as 90, got \"{name}\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let options = |arch: &str, emulate, wheel| Ok(Options { arch: arch.into(), emulate, wheel });
        assert_eq!(Options::parse(&[]), options("90", false, true));
        assert_eq!(Options::parse(&["--arch", "100a"]), options("100a", false, true));
        assert_eq!(Options::parse(&["--no-wheel", "--arch", "80"]), options("80", false, false));
        assert_eq!(Options::parse(&["--emulate"]), options("90", true, false));
        let refused: [&[&str]; 8] = [
            &["--arch"],
            &["--arch", ""],
            &["--arch", "a"],
            &["--arch", "+90"],
            &["--arch", "75"],
            &["--arch", "80,90"],
            &["--arch", "90", "--emulate"],
            &["--release"],
        ];
        for args in refused {
            assert!(Options::parse(args).is_err(), "{args:?}");
        }
    }
}

//! The options of `cargo xtask replay`.

/// The options. Without any, all launches run by the PTX of every architecture.
pub(crate) struct Options {
    /// One launch of each kind.
    pub(crate) quick: bool,
    /// Compute capabilities, such as 90.
    pub(crate) architectures: Vec<String>,
}

const USAGE: &str = "usage: cargo xtask replay [--quick] [--archs 80,90,100,120]";

impl Options {
    pub(crate) fn parse(arguments: &[&str]) -> Result<Self, String> {
        let (mut quick, mut archs) = (false, None);
        let mut arguments = arguments.iter();
        while let Some(&argument) = arguments.next() {
            match (argument, archs.is_some()) {
                ("--quick", _) => quick = true,
                ("--archs", false) => {
                    archs = Some(*arguments.next().ok_or("--archs: expected compute capabilities, such as 90,120")?);
                }
                _ => return Err(format!("{argument}: not known, or given twice\n{USAGE}")),
            }
        }
        let archs = archs.unwrap_or(if quick { "90,120" } else { "80,90,100,120" });
        let architectures: Vec<String> = archs.split(',').map(|arch| arch.trim().to_owned()).collect();
        let is_known = |arch: &String| arch.parse::<u32>().is_ok_and(|arch| (80..1000).contains(&arch));
        match architectures.iter().find(|arch| !is_known(arch)) {
            Some(odd) => {
                Err(format!("--archs: expected compute capabilities from 80 on, such as 90,120, got \"{odd}\""))
            }
            None => Ok(Self { quick, architectures }),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for() {
        let options = Options::parse(&[]).unwrap();
        assert!(!options.quick);
        assert_eq!(options.architectures, ["80", "90", "100", "120"]);
        let options = Options::parse(&["--quick"]).unwrap();
        assert!(options.quick);
        assert_eq!(options.architectures, ["90", "120"]);
        let options = Options::parse(&["--archs", "90, 120", "--quick"]).unwrap();
        assert!(options.quick);
        assert_eq!(options.architectures, ["90", "120"]);
        for (odd, told) in [
            (&["--archs"][..], "expected compute capabilities"),
            (&["--archs", "sm_90"], "got \"sm_90\""),
            (&["--archs", "75"], "got \"75\""),
            (&["--archs", ""], "got \"\""),
            (&["--archs", "90", "--archs", "80"], "given twice"),
            (&["--slow"], "--slow: not known"),
        ] {
            let error = Options::parse(odd).err().unwrap();
            assert!(error.contains(told), "{odd:?}: {error}");
        }
    }
}

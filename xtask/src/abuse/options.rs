//! The options of `cargo xtask abuse`.

use std::error::Error;

use super::parts::{PARTS, Part};

/// The time, the seed and the parts to run.
pub(crate) struct Options {
    pub(super) minutes: f64,
    pub(super) seed: u64,
    pub(super) parts: Vec<&'static Part>,
}

impl Options {
    pub(crate) fn parse(words: &[&str]) -> Result<Self, Box<dyn Error>> {
        let (mut minutes, mut seed, mut only) = (2.0, 1, Vec::new());
        let mut rest = words.iter();
        while let Some(&option) = rest.next() {
            if !matches!(option, "--minutes" | "--seed" | "--only") {
                return Err(
                    format!("abuse: expected --minutes, --seed or --only, got {option}\n{}", crate::USAGE).into()
                );
            }
            let value = *rest.next().ok_or_else(|| format!("{option}: expected a value, got none"))?;
            match option {
                "--minutes" => {
                    let given = value.parse().ok().filter(|minutes| (0.01..=1e4).contains(minutes));
                    minutes = given.ok_or_else(|| format!("--minutes: expected 0.01 to 10000, got {value}"))?;
                }
                "--seed" => {
                    seed = value.parse().map_err(|_| format!("--seed: expected a whole number, got {value}"))?;
                }
                _ => only.push(Self::part(value)?),
            }
        }
        let parts = if only.is_empty() { PARTS.iter().collect() } else { only };
        Ok(Self { minutes, seed, parts })
    }

    fn part(name: &str) -> Result<&'static Part, String> {
        let names = PARTS.iter().map(|part| part.name).collect::<Vec<_>>().join(", ");
        let found = PARTS.iter().find(|part| part.name == name);
        found.ok_or_else(|| format!("--only: expected one of {names}, got {name}"))
    }

    /// The seconds of a part.
    pub(super) fn seconds(&self, part: &Part) -> f64 {
        let shares: u32 = self.parts.iter().map(|part| part.share).sum();
        self.minutes * 60.0 * f64::from(part.share) / f64::from(shares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_their_refusals() {
        let usual = Options::parse(&[]).unwrap();
        assert_eq!((usual.minutes, usual.seed, usual.parts.len()), (2.0, 1, PARTS.len()));
        let all: f64 = usual.parts.iter().map(|part| usual.seconds(part)).sum();
        assert!((all - 120.0).abs() < 1e-9, "{all}");

        let some = Options::parse(&["--only", "files", "--minutes", "0.5", "--seed", "7", "--only", "cli"]).unwrap();
        let names: Vec<_> = some.parts.iter().map(|part| part.name).collect();
        assert_eq!((some.minutes, some.seed, names), (0.5, 7, vec!["files", "cli"]));
        assert!((some.seconds(some.parts[0]) - 30.0 / 7.0).abs() < 1e-9);

        let refused = |words: &[&str]| Options::parse(words).err().unwrap().to_string();
        assert!(refused(&["--minute", "2"]).contains("got --minute\nusage: cargo xtask"));
        assert_eq!(refused(&["--minutes"]), "--minutes: expected a value, got none");
        for value in ["0", "-1", "nan", "two", "1e9"] {
            assert_eq!(refused(&["--minutes", value]), format!("--minutes: expected 0.01 to 10000, got {value}"));
        }
        assert_eq!(refused(&["--seed", "-1"]), "--seed: expected a whole number, got -1");
        assert!(refused(&["--only", "all"]).starts_with("--only: expected one of cli, files, "));
    }
}

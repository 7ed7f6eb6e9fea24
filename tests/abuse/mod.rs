//! Random trials of what must hold whatever comes: a few with a fixed seed in every run of the test suite, and as many as
//! time allows under `cargo xtask abuse`.
//!
//! | variable | meaning |
//! |---|---|
//! | `BATCHNORM_ABUSE_SEED` | the seed; 1 where it is absent |
//! | `BATCHNORM_ABUSE_SECONDS` | trials for this long; a fixed number of them where it is absent |
//! | `BATCHNORM_ABUSE_TRIAL` | this trial alone |
//!
//! Trial k draws the same numbers whatever the time and the other trials. One that fails leaves what it was given in a folder
//! of `target/abuse`, and its message has that folder and the command that repeats it.

use std::any::Any;
use std::env;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fastrand::Rng;

/// The failures after which a part ends: more of them say nothing new.
const MOST_FAILURES: usize = 10;

/// A part of the abuse run: a test, by the name that `cargo xtask abuse` knows it by.
pub(crate) struct Part {
    /// The name in `xtask/src/abuse/parts.rs`.
    pub(crate) name: &'static str,
    /// The test's path in its executable.
    pub(crate) test: &'static str,
    /// The trials of a run without a time.
    pub(crate) few: u64,
}

/// One trial: its random numbers, and what it was given.
pub(crate) struct Trial {
    pub(crate) rng: Rng,
    /// Whether it is one of the few of the test suite.
    #[allow(dead_code, reason = "only the properties, which have a seed of their own there, ask for it")]
    pub(crate) is_of_the_suite: bool,
    /// The number of cases that it counts for.
    pub(crate) cases: u64,
    kept: Vec<(String, Vec<u8>)>,
}

impl Trial {
    /// Notes a file that goes into the folder of the trial, should it fail. A name that was noted before is replaced.
    #[allow(dead_code, reason = "what is drawn from the seed alone is its own case")]
    pub(crate) fn keep(&mut self, name: &str, bytes: &[u8]) {
        self.kept.retain(|(kept, _)| kept != name);
        self.kept.push((name.to_owned(), bytes.to_vec()));
    }
}

/// The trials that a part runs.
pub(crate) enum Extent {
    /// The first trials, as in the test suite.
    Few(u64),
    /// Until the time is over.
    For(Duration),
    /// The trial of this number.
    Only(u64),
}

impl Part {
    /// Runs the trials that the environment asks for, and panics where one has, once the others have had their turn.
    pub(crate) fn run(&self, trial: impl FnMut(&mut Trial)) {
        let extent = match (variable("BATCHNORM_ABUSE_TRIAL"), variable("BATCHNORM_ABUSE_SECONDS")) {
            (Some(number), _) => Extent::Only(number),
            (None, Some(seconds)) => Extent::For(Duration::from_secs_f64(seconds)),
            (None, None) => Extent::Few(self.few),
        };
        self.run_for(&extent, variable("BATCHNORM_ABUSE_SEED").unwrap_or(1), trial);
    }

    /// [`Part::run`], whatever the environment says.
    pub(crate) fn run_for(&self, extent: &Extent, seed: u64, mut trial: impl FnMut(&mut Trial)) {
        let numbers = match *extent {
            Extent::Few(trials) => 0..trials,
            Extent::For(_) => 0..u64::MAX,
            Extent::Only(number) => number..number + 1,
        };
        // Known also where the process dies in a trial.
        let mut running = matches!(extent, Extent::For(_)).then(|| self.running());
        let (start, mut cases, mut failures) = (Instant::now(), 0, Vec::new());
        for number in numbers {
            let is_over = matches!(extent, Extent::For(time) if start.elapsed() >= *time);
            if is_over || failures.len() == MOST_FAILURES {
                break;
            }
            if let Some(running) = &mut running {
                running.rewind().unwrap();
                writeln!(running, "{number:<20}").unwrap();
            }
            let mut this = Trial {
                rng: Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(number)),
                is_of_the_suite: matches!(extent, Extent::Few(_)),
                cases: 1,
                kept: Vec::new(),
            };
            let result = catch_unwind(AssertUnwindSafe(|| trial(&mut this)));
            cases += this.cases;
            if let Err(panic) = result {
                failures.push(self.failed(seed, number, &this, &message(&*panic)));
            }
        }
        println!("abuse: part={} seed={seed} trials={cases} failures={}", self.name, failures.len());
        assert!(failures.is_empty(), "{} of {cases} trials failed:\n{}", failures.len(), failures.join("\n"));
    }

    /// The file that has the number of the running trial.
    fn running(&self) -> File {
        let folder = folder();
        fs::create_dir_all(&folder).unwrap();
        File::create(folder.join(format!("{}.running", self.name))).unwrap()
    }

    /// Keeps what a failed trial was given, and says what, where, and how to repeat it.
    fn failed(&self, seed: u64, number: u64, trial: &Trial, message: &str) -> String {
        let folder = folder().join(format!("{}-seed{seed}-trial{number}", self.name));
        let repeat = format!(
            "BATCHNORM_ABUSE_SEED={seed} BATCHNORM_ABUSE_TRIAL={number} cargo test --features emulate --test {} -- \
             --exact {} --nocapture",
            env!("CARGO_CRATE_NAME"),
            self.test
        );
        let files = trial.kept.iter().map(|(name, bytes)| (name.as_str(), &bytes[..]));
        let words = format!("{message}\n\n{repeat}\n");
        let kept = fs::create_dir_all(&folder).and_then(|()| {
            let mut all = files.chain([("message.txt", words.as_bytes())]);
            all.try_for_each(|(name, bytes)| fs::write(folder.join(name), bytes))
        });
        // An executable that was carried to another machine has no such folder.
        let place = match kept {
            Ok(()) => format!("kept in {}", folder.display()),
            Err(error) => format!("not kept in {}: {error}", folder.display()),
        };
        let text = format!("{}, seed {seed}, trial {number}: {message}\n  {place}\n  {repeat}", self.name);
        println!("{text}");
        text
    }
}

/// `target/abuse`, wherever the target folder is.
pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("abuse")
}

/// A number of the environment, where it has this one.
fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: expected a number, got {text:?}")))
}

/// The message of a panic.
pub(crate) fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}

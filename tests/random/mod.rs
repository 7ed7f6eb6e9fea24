//! The runner of the properties: the same cases in every run of the suite, others under `cargo xtask abuse`.

use std::fmt::Debug;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestCaseResult, TestRunner};

use crate::abuse::Part;

/// The cases of a round, so that a run ends not long after its time.
const CASES_OF_A_ROUND: u32 = 4;

/// Holds the property on this many random values; as a part of an abuse run in rounds, each with a seed of its trial.
pub(crate) fn hold<S: Strategy>(part: &Part, cases: u32, values: &S, property: impl Fn(S::Value) -> TestCaseResult)
where
    S::Value: Debug,
{
    part.run(|trial| {
        let usual = config(cases);
        let config = match trial.is_of_the_suite {
            true => usual,
            false => {
                let rng_seed = RngSeed::Fixed(trial.rng.u64(..));
                Config { cases: CASES_OF_A_ROUND, rng_seed, max_shrink_time: 60_000, ..usual }
            }
        };
        trial.cases = config.cases.into();
        if let Err(error) = TestRunner::new(config).run(values, &property) {
            panic!("{error}");
        }
    });
}

/// This many cases, the same on every run, so that what has passed once passes again. `PROPTEST_RNG_SEED` and
/// `PROPTEST_CASES` explore others.
fn config(cases: u32) -> Config {
    let default = Config::default();
    let rng_seed = if default.rng_seed == RngSeed::Random { RngSeed::Fixed(1) } else { default.rng_seed };
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { cases };
    Config { cases, rng_seed, failure_persistence: None, ..default }
}

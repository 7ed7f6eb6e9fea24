//! How random tests are run.

use proptest::test_runner::{Config, RngSeed};

/// So many cases, the same on every run, so that what has passed once passes again. `PROPTEST_RNG_SEED` and
/// `PROPTEST_CASES` explore others.
pub(crate) fn config(cases: u32) -> Config {
    let default = Config::default();
    let rng_seed = if default.rng_seed == RngSeed::Random { RngSeed::Fixed(1) } else { default.rng_seed };
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { cases };
    Config { cases, rng_seed, failure_persistence: None, ..default }
}

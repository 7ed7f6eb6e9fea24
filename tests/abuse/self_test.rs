//! A trial that fails is reported, kept and repeatable.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::abuse::{Extent, Part, folder, message};

const PART: Part = Part { name: "self-test", test: "self_test", few: 0 };

#[test]
fn a_failure_is_kept_and_the_rest_goes_on() {
    let mut drawn = Vec::new();
    let run = || {
        PART.run_for(&Extent::Few(5), 7, |trial| {
            drawn.push(trial.rng.u64(..));
            trial.keep("given", b"old");
            trial.keep("given", b"bytes");
            assert!(drawn.len() != 3, "the third is expected to fail");
        });
    };
    let told = message(&*catch_unwind(AssertUnwindSafe(run)).unwrap_err());
    assert!(drawn.len() == 5 && told.contains("1 of 5 trials") && told.contains("seed 7, trial 2"), "{told}");
    let kept = folder().join("self-test-seed7-trial2");
    assert_eq!(fs::read(kept.join("given")).unwrap(), b"bytes");
    let text = fs::read_to_string(kept.join("message.txt")).unwrap();
    assert!(text.contains("expected to fail"), "{text}");
    assert!(text.contains("BATCHNORM_ABUSE_SEED=7 BATCHNORM_ABUSE_TRIAL=2 cargo test"), "{text}");
    fs::remove_dir_all(kept).unwrap();

    let mut again = 0;
    PART.run_for(&Extent::Only(3), 7, |trial| again = trial.rng.u64(..));
    assert!(again == drawn[3] && drawn[3] != drawn[2], "a trial draws the same by itself");
}

//! Cases that no one here computed by hand: outputs of ONNX, TensorFlow, Keras, Flax, PyTorch, and literal values from
//! public test suites, held against every backend.
//!
//! All of ../shared/conformance where that folder is, and always the subset in tests/data/conformance, which
//! `cargo xtask conformance` makes. Nothing is skipped: what policy refuses is listed in `conformance/refused.rs` and
//! asserted to be refused, and the counts are asserted. `BATCHNORM_REQUIRE_SHARED=1` fails where the folder is missing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test, to its last helper.

#[path = "conformance/check.rs"]
mod check;
#[path = "conformance/compare.rs"]
mod compare;
#[path = "conformance/generated.rs"]
mod generated;
#[path = "conformance/manifest.rs"]
mod manifest;
#[path = "conformance/ops.rs"]
mod ops;
#[path = "conformance/refused.rs"]
mod refused;
#[path = "conformance/run.rs"]
mod run;
#[path = "conformance/scale.rs"]
mod scale;
#[path = "conformance/tally.rs"]
mod tally;

use std::path::{Path, PathBuf};

use batchnorm::Cpu;

use manifest::Suite;
use refused::{Difference, Lists};
use run::{Device, run_case};
use tally::Tally;

/// The folders of ../shared/conformance.
const SUITES: [&str; 6] = ["onnx", "tf", "keras", "flax", "torch", "literals"];
/// Those that may be copied; `literals` is other repositories' data and stays where it is.
const COPIED: [&str; 5] = ["onnx", "tf", "keras", "flax", "torch"];

#[test]
fn the_subset_in_the_repository_agrees_with_the_frameworks() {
    hold(&Cpu, &from_here("tests/data/conformance"), &COPIED, &refused::SUBSET);
}

#[test]
fn everything_in_shared_agrees_with_the_frameworks() {
    let folder = from_here("../shared/conformance");
    if folder.is_dir() {
        hold(&Cpu, &folder, &SUITES, &refused::WHOLE);
        return;
    }
    let required = std::env::var("BATCHNORM_REQUIRE_SHARED").is_ok_and(|value| value == "1");
    assert!(!required, "BATCHNORM_REQUIRE_SHARED=1, and {} is no folder", folder.display());
    println!("conformance: NOT RUN: {} is no folder; the subset in tests/data ran alone", folder.display());
}

fn from_here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs these suites, prints how they went and fails on anything that is off.
fn hold<B: Device>(backend: &B, folder: &Path, suites: &[&str], lists: &Lists) {
    let mut total = Tally::default();
    let mut wrong = Vec::new();
    println!("conformance: {}", folder.display());
    for line in &lists.refused {
        println!("  refused for {}, {} cases: {}", line.reason, line.cases.iter().sum::<usize>(), line.text);
    }
    for difference in &lists.differences {
        println!("  different, {}: {}", difference.counts.iter().sum::<usize>(), difference.text);
    }
    for (index, name) in suites.iter().enumerate() {
        let suite = Suite::load(&folder.join(name));
        let file = suite.file();
        let mut tally = Tally::default();
        for case in &suite.cases {
            tally.add(run_case(backend, &file, case));
        }
        tally.print(name);
        for line in &lists.refused {
            let actual = tally.refused.get(&line.reason).copied().unwrap_or_default();
            if actual != line.cases[index] {
                wrong.push(format!("{name}: {actual} cases refused for {}, listed {}", line.reason, line.cases[index]));
            }
        }
        for Difference { text, counts, actual } in &lists.differences {
            if actual(&tally) != counts[index] {
                wrong.push(format!("{name}: {} {text}, listed {}", actual(&tally), counts[index]));
            }
        }
        wrong.extend(tally.failures.drain(..).map(|failure| format!("{name}/{failure}")));
        total.add(tally);
    }
    total.print("total");
    assert!(wrong.is_empty(), "{} wrong, first:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    let median = total.quantile(0.5);
    assert!(median < 1.0, "our error is no smaller than the frameworks': the median ratio is {median}");
}

//! Cases that no one here computed by hand, compared with a backend: `conformance.rs` runs them on the CPU, `cuda` on a
//! device.

mod beyond_f32;
mod check;
mod compare;
mod generated;
mod manifest;
mod ops;
mod refused;
mod run;
mod scale;
mod tally;

use std::path::{Path, PathBuf};

use batchnorm::verify::tolerance::Arithmetic;

use manifest::Suite;
use refused::{Difference, Lists};
pub(crate) use run::Device;
use run::run_case;
use tally::Tally;

/// The folders of ../shared/conformance.
const SUITES: [&str; 6] = ["onnx", "tf", "keras", "flax", "torch", "literals"];
/// Suites that may be copied; `literals` is other repositories' data and stays where it is.
const COPIED: [&str; 5] = ["onnx", "tf", "keras", "flax", "torch"];

/// Runs what it is given, whose name is the first argument; a device keeps a journal around it.
pub(crate) type Watch<'a> = dyn Fn(&str, &mut dyn FnMut()) + 'a;

/// Checks the backend by the subset in the repository. [`hold`] describes `largest` and `watch`.
pub(crate) fn hold_subset<B: Device>(backend: &B, largest: usize, watch: &Watch<'_>) {
    hold(backend, &from_here("tests/data/conformance"), &COPIED, &refused::SUBSET, largest, watch);
}

/// Holds the backend against all cases, where they are.
pub(crate) fn hold_whole<B: Device>(backend: &B, largest: usize, watch: &Watch<'_>) {
    let folder = from_here("../shared/conformance");
    if folder.is_dir() {
        hold(backend, &folder, &SUITES, &refused::WHOLE, largest, watch);
        return;
    }
    let required = std::env::var("BATCHNORM_REQUIRE_SHARED").is_ok_and(|value| value == "1");
    assert!(!required, "BATCHNORM_REQUIRE_SHARED=1, and {} is no folder", folder.display());
    println!("conformance: NOT RUN: {} is no folder; the subset in tests/data ran alone", folder.display());
}

/// A path of the repository or, where the executable was carried to a machine without it, of the folder that
/// `BATCHNORM_DATA` names, or else of the executable's.
fn from_here(path: &str) -> PathBuf {
    let root = ["BATCHNORM_DATA", "CARGO_MANIFEST_DIR"].into_iter().find_map(std::env::var_os).map(PathBuf::from);
    let folder = || std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    root.unwrap_or_else(folder).join(path)
}

/// Runs these suites, prints how they went and fails on anything that is off. Of the cases whose inputs are generated,
/// which are those of millions of values, only the ones of at most `largest` values run. Each runs within `watch`.
fn hold<B: Device>(backend: &B, folder: &Path, suites: &[&str], lists: &Lists, largest: usize, watch: &Watch<'_>) {
    let is_f64 = B::arithmetic(batchnorm::Dtype::F32) == Arithmetic::F64;
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
            if case.generated.is_some() && case.dims.iter().product::<usize>() > largest {
                tally.too_large += 1;
            } else {
                watch(&format!("{name}/{}", case.name), &mut || tally.add(run_case(backend, &file, case)));
            }
        }
        tally.print(name);
        for line in &lists.refused {
            let actual = tally.refused.get(&line.reason).copied().unwrap_or_default();
            if actual != line.cases[index] {
                wrong.push(format!("{name}: {actual} cases refused for {}, listed {}", line.reason, line.cases[index]));
            }
        }
        for Difference { text, counts, of_f64, actual } in &lists.differences {
            let listed = counts[index] - if is_f64 { 0 } else { of_f64[index] };
            if actual(&tally) != listed {
                wrong.push(format!("{name}: {} {text}, listed {listed}", actual(&tally)));
            }
        }
        let listed = if is_f64 { 0 } else { beyond_f32::COUNTS[index] };
        if tally.beyond_f32 != listed {
            wrong.push(format!("{name}: {} outputs beyond f32, listed {listed}", tally.beyond_f32));
        }
        wrong.extend(tally.failures.drain(..).map(|failure| format!("{name}/{failure}")));
        total.add(tally);
    }
    total.print("total");
    assert!(wrong.is_empty(), "{} wrong, first:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    let median = total.quantile(0.5);
    // The aim in the frameworks' own arithmetic is to be no worse.
    let aim = if is_f64 { median < 1.0 } else { median <= 1.0 };
    assert!(aim, "our error beside the frameworks': the median ratio is {median}");
}

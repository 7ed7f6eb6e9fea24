//! The table of cases on the CPU reference.

use batchnorm::Cpu;
use batchnorm::verify::{Group, Report, Verified, groups};
use rayon::prelude::*;

/// One group in so many. `batchnorm verify` has them all, and so has BATCHNORM_TABLE_EVERY=1.
const EVERY: usize = 5;

#[test]
fn every_case_of_the_table_is_within_its_tolerance() {
    let every = std::env::var("BATCHNORM_TABLE_EVERY").ok().and_then(|every| every.parse().ok()).unwrap_or(EVERY);
    let groups: Vec<Group> = groups().into_iter().step_by(every.max(1)).collect();
    let reports: Vec<Report> =
        groups.par_iter().flat_map_iter(|group| Cpu.check(group).expect("the CPU computes every dtype")).collect();
    let failures: Vec<String> =
        reports.iter().filter(|report| report.result.is_err()).map(ToString::to_string).collect();
    println!("{} cases, every {every}th group, {} failed", reports.len(), failures.len());
    assert!(
        failures.is_empty(),
        "{} failed, first:\n{}",
        failures.len(),
        failures[..failures.len().min(20)].join("\n")
    );
}

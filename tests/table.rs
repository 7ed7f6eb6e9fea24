//! The table of cases on the CPU reference.

use batchnorm::Cpu;
use batchnorm::verify::{Report, Verified, groups};
use rayon::prelude::*;

#[test]
fn every_case_of_the_table_is_within_its_tolerance() {
    let reports: Vec<Report> =
        groups().par_iter().flat_map_iter(|group| Cpu.check(group).expect("the CPU computes every dtype")).collect();
    let failures: Vec<String> =
        reports.iter().filter(|report| report.result.is_err()).map(ToString::to_string).collect();
    println!("{} cases, {} failed", reports.len(), failures.len());
    assert!(
        failures.is_empty(),
        "{} failed, first:\n{}",
        failures.len(),
        failures[..failures.len().min(20)].join("\n")
    );
}

//! The table of cases on the CPU reference.

use std::collections::BTreeSet;

use batchnorm::Cpu;
use batchnorm::verify::{Group, Input, Report, Verified, groups};
use rayon::prelude::*;

/// One group in so many. `batchnorm verify` has them all, and so has BATCHNORM_TABLE_EVERY=1.
const EVERY: usize = 7;

/// A step that shares a factor with one of the table's own would leave sizes out.
#[test]
fn a_part_of_the_table_has_every_size_and_every_input() {
    let kinds = |groups: &[Group]| -> BTreeSet<String> {
        let kind = |group: &Group| {
            let (dtype, layout, shape) = (group.dtype, group.shape.layout(), group.shape);
            match group.input {
                Input::Normal => [format!("{dtype} {layout:?} s={}", shape.s()), format!("{dtype} c={}", shape.c())],
                input => [format!("{dtype} special"), format!("{input:?}")],
            }
        };
        groups.iter().flat_map(kind).collect()
    };
    let all = groups();
    let part: Vec<Group> = all.iter().copied().step_by(EVERY).collect();
    let left_out: Vec<_> = kinds(&all).difference(&kinds(&part)).cloned().collect();
    assert!(left_out.is_empty(), "{left_out:?}");
}

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

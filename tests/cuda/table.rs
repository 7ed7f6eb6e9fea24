//! The one table of cases on the device: every strategy, every profile, aligned and not.

use batchnorm::verify::{Group, Report, thinned};
use batchnorm::{Cuda, Strategy};
use rayon::prelude::*;

use crate::device::{EMULATED, cuda};
use crate::journal::{Judged, assert_none, check, under_every_strategy};

/// One group of the table in so many: all on a GPU, few on the emulated device, which takes milliseconds a launch.
/// `BATCHNORM_TABLE_EVERY` says otherwise.
fn every(emulated: usize) -> usize {
    let asked = std::env::var("BATCHNORM_TABLE_EVERY").ok().and_then(|every| every.parse().ok());
    asked.unwrap_or(if EMULATED { emulated } else { 1 })
}

/// These groups under every strategy.
fn reports(cuda: &Cuda, groups: &[Group], start: usize) -> Vec<Report> {
    let backends = under_every_strategy(cuda);
    groups.par_iter().flat_map_iter(|group| check(&backends, &group.cases(), start)).collect()
}

/// The failures under all strategies, and the strategies that planned cases on a device without them, or none on one with.
fn check_table(cuda: &Cuda, every: usize) -> Vec<String> {
    let (reports, name, limits) = (reports(cuda, &thinned(every), 0), cuda.name().unwrap(), cuda.limits());
    let mut failures = Vec::new();
    for strategy in crate::device::STRATEGIES {
        let text = strategy.map_or("auto", Strategy::name);
        let judged = Judged::of(reports.iter().filter(|report| report.strategy == text));
        let Judged { count, planned, .. } = judged;
        println!("{name}: {count} cases, strategy {text}, every {every}th group, {} failed", judged.failures.len());
        failures.extend(judged.failures);
        let exists = match strategy {
            Some(Strategy::Cluster) => limits.clusters != [[0; 4]; 2],
            Some(Strategy::Grid) => limits.cooperative,
            Some(Strategy::Block | Strategy::TwoPass) | None => true,
        };
        if (planned > 0) != exists {
            failures.push(format!("{name}: strategy {text} planned {planned} cases; the device has it: {exists}"));
        }
    }
    failures
}

#[test]
fn the_table_holds_under_every_strategy() {
    let Some(cuda) = cuda() else { return };
    assert_none(&check_table(&cuda, every(43)));
}

#[test]
fn the_table_holds_on_every_device() {
    if cuda().is_none() {
        return;
    }
    // The last emulated ones are too old, and too small for the table.
    let count = if EMULATED { 4 } else { Cuda::count().unwrap() };
    let mut failures = Vec::new();
    for number in 1..count {
        match Cuda::new(number) {
            Ok(cuda) => failures.extend(check_table(&cuda, every(199))),
            Err(error) => failures.push(format!("cuda:{number}: {error}")),
        }
    }
    assert_none(&failures);
}

/// Data that begins anywhere: vectors where all is aligned, one element at a time where not.
#[test]
fn pointers_need_no_alignment() {
    let Some(cuda) = cuda() else { return };
    let mut failures = Vec::new();
    for (offset, start) in [1, 2, 3, 4, 5, 8].into_iter().enumerate() {
        // A part on a GPU too: all of the table is another test's.
        let reports = reports(&cuda, &thinned(every(311).max(31) + offset), start);
        assert!(!reports.is_empty());
        let failed = Judged::of(&reports).failures;
        failures.extend(failed.into_iter().map(|failure| format!("{start} elements behind: {failure}")));
    }
    assert_none(&failures);
}

//! The one table of cases on the device: every strategy, every profile, aligned and not.

use batchnorm::verify::{Failure, Group, Report, Verified, check_group_at, thinned};
use batchnorm::{Cuda, Dtype, Error, Op, Strategy};
use half::{bf16, f16};
use rayon::prelude::*;

use crate::device::{EMULATED, STRATEGIES, cuda};

/// One group of the table in so many: all on a GPU, few on the emulated device, which takes milliseconds a launch.
/// `BATCHNORM_TABLE_EVERY` says otherwise.
fn every(emulated: usize) -> usize {
    let asked = std::env::var("BATCHNORM_TABLE_EVERY").ok().and_then(|every| every.parse().ok());
    asked.unwrap_or(if EMULATED { emulated } else { 1 })
}

/// Asserts that every report is good; those that a forced strategy cannot hold do not count. How many counted, and how many
/// of these were planned by the strategy: inference has none.
fn assert_good(reports: Vec<Report>) -> (usize, usize) {
    let held = |report: &Report| {
        !matches!(&report.result, Err(Failure::Refused(Error::Strategy { .. } | Error::NoStrategy { .. })))
    };
    let (mut count, mut planned, mut failures) = (0, 0, Vec::new());
    for Report { case, result } in reports.into_iter().filter(held) {
        count += 1;
        planned += usize::from(!case.group.shape.is_empty() && case.op == Op::Train);
        failures.extend(result.err().map(|failure| format!("{case}: {failure}")));
    }
    assert!(
        failures.is_empty(),
        "{} of {count} failed:\n{}",
        failures.len(),
        failures[..failures.len().min(20)].join("\n")
    );
    (count, planned)
}

fn check_table(cuda: &Cuda, every: usize) {
    for strategy in STRATEGIES {
        let cuda = cuda.clone().with_strategy(strategy);
        let reports = thinned(every).par_iter().flat_map_iter(|group| cuda.check(group).unwrap_or_default()).collect();
        let (count, planned) = assert_good(reports);
        let name = strategy.map_or("auto", |strategy| strategy.name());
        println!("{}: {count} cases, strategy {name}, every {every}th group", cuda.name().unwrap());
        let limits = cuda.limits();
        let exists = match strategy {
            Some(Strategy::Cluster) => limits.clusters != [[0; 4]; 2],
            Some(Strategy::Grid) => limits.cooperative,
            _ => true,
        };
        assert_eq!(planned > 0, exists, "{name}");
    }
}

#[test]
fn the_table_holds_under_every_strategy() {
    let Some(cuda) = cuda() else { return };
    check_table(&cuda, every(29));
}

#[test]
fn the_table_holds_on_every_device() {
    if cuda().is_none() {
        return;
    }
    // The last emulated ones are too old, and too small for the table.
    let count = if EMULATED { 4 } else { Cuda::count().unwrap() };
    for number in 1..count {
        match Cuda::new(number) {
            Ok(cuda) => check_table(&cuda, every(131)),
            Err(error) => panic!("cuda:{number}: {error}"),
        }
    }
}

/// Data that begins anywhere: vectors where all is aligned, one element at a time where not.
#[test]
fn pointers_need_no_alignment() {
    let Some(cuda) = cuda() else { return };
    let check = |cuda: &Cuda, group: &Group, start| match group.dtype {
        Dtype::F32 => check_group_at::<Cuda, f32>(cuda, group, start),
        Dtype::F16 => check_group_at::<Cuda, f16>(cuda, group, start),
        Dtype::Bf16 => check_group_at::<Cuda, bf16>(cuda, group, start),
        Dtype::F64 => Vec::new(),
    };
    for (offset, start) in [1, 2, 3, 4, 5, 8].into_iter().enumerate() {
        for strategy in STRATEGIES {
            let cuda = cuda.clone().with_strategy(strategy);
            let groups = thinned(every(311) + offset);
            assert_good(groups.par_iter().flat_map_iter(|group| check(&cuda, group, start)).collect());
        }
    }
}

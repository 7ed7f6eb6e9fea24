//! The CPU path, and a copy of x to y, which is the least that a forward pass can cost.
//!
//! `cargo bench --bench cpu`, or with a part of a name behind `--`. The target: `train` takes at most twice as long as
//! `copy`, in both layouts. This bench is there to see what a change does. `batchnorm bench` measures the CPU path on
//! every row, and PyTorch.

use batchnorm::bench::{Pass, Row, Work, rows};
use batchnorm::{Compute, Cpu, Element, Epilogue, Op, StatisticsKind, with_device_element};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;

/// Rows of suites.json that differ in how they are walked: long planes, short and odd ones, few values of many channels,
/// one channel, and neither layout's favourite.
const NAMES: [&str; 7] = ["stage1", "stage3", "stage4", "small-1000", "long-1000", "many-channels", "one-channel"];
/// The batch of ResNet-50.
const N: usize = 32;

fn cpu(criterion: &mut Criterion) {
    let is_wanted = |row: &Row| NAMES.contains(&row.name.as_str()) && (row.suite != "resnet50" || row.shape.n() == N);
    for row in rows().expect("suites.json").iter().filter(|row| is_wanted(row)) {
        with_device_element!(row.dtype, T => measure::<T>(criterion, row), f64 => unreachable!("no row is of f64"));
    }
}

fn measure<T: Element<Param = f32>>(criterion: &mut Criterion, row: &Row)
where
    Cpu: Compute<T>,
{
    let mut group =
        criterion.benchmark_group(format!("{}/{} {} {}", row.suite, row.name, row.shape.layout(), row.dtype));
    group.throughput(Throughput::Bytes(2 * row.bytes() as u64)).sample_size(20);
    let (x, mut y) = (vec![1u8; row.bytes()], vec![2u8; row.bytes()]);
    let piece = x.len().div_ceil(rayon::current_num_threads());
    group.bench_function("copy", |bencher| {
        bencher.iter(|| y.par_chunks_mut(piece).zip(x.par_chunks(piece)).for_each(|(y, x)| y.copy_from_slice(x)));
    });
    let mut work = Work::<Cpu, T>::new(&Cpu, row.shape, row.offset, 1).expect("buffers");
    for op in [Op::Train, Op::Backward(StatisticsKind::Batch)] {
        let operation = Pass { op, epilogue: Epilogue::IDENTITY };
        work.prepare(operation).expect("a forward pass");
        group.bench_function(op.name(), |bencher| bencher.iter(|| work.run(operation).expect("an operation")));
    }
    group.finish();
}

criterion_group!(benches, cpu);
criterion_main!(benches);

//! The CPU path beside a copy of x to y, which is the least that a forward pass can cost.
//!
//! `cargo bench --bench cpu`, or with a part of a name behind `--`. The target: `train` takes at most twice as long as
//! `copy`, in both layouts.

use batchnorm::args::{BackwardArgs, TrainArgs};
use batchnorm::{Compute, Cpu, Element, Epilogue, Gradients, Layout, Shape};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::{bf16, f16};
use rayon::prelude::*;

/// Rows of suites.json that differ in how they are walked, as `n`, `c`, `s`: long strips, short and odd ones, few values
/// of many channels, one channel, and neither layout's favourite.
const ROWS: [(&str, usize, usize, usize); 7] = [
    ("stage1", 32, 64, 56 * 56),
    ("stage3", 32, 256, 14 * 14),
    ("stage4", 32, 512, 7 * 7),
    ("small-1000", 256, 1000, 1),
    ("long-1000", 65536, 1000, 1),
    ("many-channels", 2, 65536, 1),
    ("one-channel", 32, 1, 256 * 256),
];

/// Values that no branch and no cache line can be lucky with.
fn values<T: Element>(len: usize) -> Vec<T> {
    let hash = |i: usize| (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    (0..len).map(|i| T::from_f64(hash(i) as f64 / f64::from(1 << 23) - 1.0)).collect()
}

fn rows<T: Element>(criterion: &mut Criterion)
where
    Cpu: Compute<T>,
{
    for (name, n, c, s) in ROWS {
        forward_and_backward::<T>(criterion, name, [n, c, s]);
    }
}

fn forward_and_backward<T: Element>(criterion: &mut Criterion, name: &str, [n, c, s]: [usize; 3])
where
    Cpu: Compute<T>,
{
    let len = n * c * s;
    let (x, dy) = (values::<T>(len), values::<T>(len));
    let (mut y, mut dx) = (x.clone(), x.clone());
    let mut group = criterion.benchmark_group(format!("{name} {n}x{c}x{s} {}", T::DTYPE));
    group.throughput(Throughput::Bytes(2 * size_of_val(&x[..]) as u64)).sample_size(30);

    group.bench_function("copy", |bencher| {
        let piece = len.div_ceil(rayon::current_num_threads());
        bencher.iter(|| y.par_chunks_mut(piece).zip(x.par_chunks(piece)).for_each(|(y, x)| y.copy_from_slice(x)));
    });
    for (layout, dims) in [(Layout::ChannelsFirst, [n, c, s]), (Layout::ChannelsLast, [n, s, c])] {
        let shape = Shape::new(&dims, layout).expect("a shape");
        let zeros = vec![T::Param::default(); c];
        let (mut saved_mean, mut saved_inv_std, mut dgamma, mut dbeta) =
            (zeros.clone(), zeros.clone(), zeros.clone(), zeros);
        group.bench_function(format!("train {layout}"), |bencher| {
            bencher.iter(|| {
                let args = TrainArgs::<Cpu, T> {
                    shape,
                    eps: 1e-5,
                    x: &x,
                    epilogue: Epilogue::Identity,
                    gamma: None,
                    beta: None,
                    y: &mut y,
                    saved_mean: &mut saved_mean,
                    saved_inv_std: &mut saved_inv_std,
                    relu_mask: None,
                    running: None,
                    workspace: &mut (),
                };
                Cpu.train(args).expect("a forward pass");
            });
        });
        group.bench_function(format!("backward {layout}"), |bencher| {
            bencher.iter(|| {
                let args = BackwardArgs::<Cpu, T> {
                    shape,
                    x: &x,
                    dy: &dy,
                    epilogue: Epilogue::Identity,
                    gamma: None,
                    beta: None,
                    saved_mean: &saved_mean,
                    saved_inv_std: &saved_inv_std,
                    relu_mask: None,
                    gradients: Gradients { dx: &mut dx, dgamma: Some(&mut dgamma), dbeta: Some(&mut dbeta) },
                    workspace: &mut (),
                };
                Cpu.backward(args).expect("a backward pass");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, rows::<f32>, rows::<f16>, rows::<bf16>, rows::<f64>);
criterion_main!(benches);

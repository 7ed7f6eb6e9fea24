//! The layer compared with candle_nn's on the CPU: a training forward, and forward with backward.
//!
//! `cargo bench --manifest-path integrations/candle/Cargo.toml --target-dir target/candle`

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{ModuleT, VarBuilder, VarMap};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Layers of a ResNet-50 at a batch of 8, and a dense layer.
const SHAPES: [(&str, &[usize]); 3] =
    [("8x64x56x56", &[8, 64, 56, 56]), ("8x256x14x14", &[8, 256, 14, 14]), ("1024x1024", &[1024, 1024])];

fn step(layer: &impl ModuleT, x: &Var, dy: &Tensor) -> Result<()> {
    (layer.forward_t(x, true)? * dy)?.sum_all()?.backward().map(drop)
}

fn benches(criterion: &mut Criterion) {
    for (name, dims) in SHAPES {
        for dtype in [DType::F32, DType::BF16] {
            let vb = || VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
            let ours = candle_batchnorm::batch_norm(dims[1], 1e-5, vb()).expect("a layer");
            // candle_nn's layer trains on half data only without weight and bias.
            let config = candle_nn::BatchNormConfig { affine: dtype == DType::F32, ..Default::default() };
            let theirs = candle_nn::batch_norm(dims[1], config, vb()).expect("a layer");
            let random =
                || Tensor::randn(0f32, 1.0, dims, &Device::Cpu).and_then(|x| x.to_dtype(dtype)).expect("values");
            let (x, dy) = (Var::from_tensor(&random()).expect("a variable"), random());
            let mut group = criterion.benchmark_group(format!("{name} {dtype:?}"));
            group.sample_size(10).throughput(Throughput::Elements(dims.iter().product::<usize>() as u64));
            group.bench_function("train/candle_batchnorm", |b| b.iter(|| ours.forward_t(&x, true).expect("y")));
            group.bench_function("train/candle_nn", |b| b.iter(|| theirs.forward_t(&x, true).expect("y")));
            group.bench_function("step/candle_batchnorm", |b| b.iter(|| step(&ours, &x, &dy).expect("a step")));
            group.bench_function("step/candle_nn", |b| b.iter(|| step(&theirs, &x, &dy).expect("a step")));
            group.finish();
        }
    }
}

criterion_group!(all, benches);
criterion_main!(all);

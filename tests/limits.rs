//! Operations that run out of memory give an error with its bytes, and nothing has changed: every operation of a layer under
//! limits of the address space, step by step.
#![cfg(target_os = "linux")]

use std::fs;
use std::process::Command;

use batchnorm::tensors::{Tensors, read};
use batchnorm::{BatchNorm, Cpu, Epilogue, Error, Gradients, Layout, Options, Result, Shape, StateDict};

/// Says to the process of the tests that it is to be limited.
const LIMITED: &str = "BATCHNORM_TEST_LIMITED";

/// The bytes of the address space that this process has.
fn address_space() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    4096 * statm.split(' ').next().unwrap().parse::<u64>().unwrap()
}

fn limit(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit is read and not kept.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);
}

/// The result of an action under a limit of this many bytes more than the process has.
fn within<R>(bytes: u64, action: impl FnOnce() -> Result<R>) -> Result<R> {
    limit(address_space() + bytes);
    let result = action();
    limit(libc::RLIM_INFINITY);
    result
}

/// Runs an action under limits that grow until it passes, and counts those that it was refused under. After each refusal
/// `is_unchanged` looks.
fn refusals(step: u64, mut action: impl FnMut() -> Result<()>, mut is_unchanged: impl FnMut() -> bool) -> usize {
    for k in 0.. {
        match within(k * step, &mut action) {
            Ok(()) => return k as usize,
            Err(Error::OutOfMemory { bytes, .. }) => assert!(bytes > 0 && is_unchanged(), "step {k}"),
            Err(error) => panic!("step {k}: {error}"),
        }
        assert!(k < 100_000);
    }
    unreachable!()
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 1013) as f32 / 64.0).collect()
}

/// Everything that a layer does over a shape, in steps of so many bytes. With add-relu, which needs the most.
fn operations(shape: Shape, step: u64) -> usize {
    let (x, [mut y, mut dx, mut dz]) = (values(shape.len()), [(); 3].map(|()| vec![0.0f32; shape.len()]));
    let [mut dgamma, mut dbeta] = [(); 2].map(|()| vec![0.0f32; shape.c()]);
    let mut layer = BatchNorm::new(Cpu, shape.c(), Options::default()).unwrap();
    let mut saved = layer.saved(shape, Epilogue::ADD_RELU).unwrap();
    let fresh = layer.state_dict().unwrap();
    let mut refused = 0;

    // The state is read without the limit: a copy of it takes memory too.
    let state = |layer: &BatchNorm<Cpu>| layer.state_dict().unwrap();
    for k in 0.. {
        let result = within(k * step, || layer.train(shape, &x, Epilogue::add_relu(&x), &mut y, &mut saved));
        match result {
            Ok(()) => break,
            Err(Error::OutOfMemory { .. }) => assert!(state(&layer) == fresh && y.iter().all(|&y| y == 0.0)),
            Err(error) => panic!("{error}"),
        }
        refused += 1;
    }
    let trained = state(&layer);
    assert!(trained != fresh);
    for k in 0.. {
        let gradients = Gradients::<Cpu, f32> { dx: Some(&mut dx), dgamma: Some(&mut dgamma), dbeta: Some(&mut dbeta) };
        match within(k * step, || layer.backward(shape, &x, &x, Epilogue::add_relu(&mut dz), &saved, gradients)) {
            Ok(()) => break,
            Err(Error::OutOfMemory { .. }) => assert!(dx.iter().chain(&dz).chain(&dgamma).all(|&value| value == 0.0)),
            Err(error) => panic!("{error}"),
        }
        refused += 1;
    }
    let mut inferred = vec![0.0f32; shape.len()];
    refused += refusals(step, || layer.infer(shape, &x, Epilogue::RELU, &mut inferred), || true);
    assert!(state(&layer) == trained);
    refused
}

/// A layer of many channels: made, saved, loaded, copied.
fn layers(c: usize, step: u64) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    let mut refused = refusals(step, || BatchNorm::new(Cpu, c, Options::default()).map(drop), || true);
    let mut layer = BatchNorm::new(Cpu, c, Options::default()).unwrap();
    let before = layer.state_dict().unwrap();
    refused += refusals(step, || layer.saved(Shape::nc(2, c)?, Epilogue::RELU).map(drop), || true);
    refused += refusals(step, || layer.state_dict().map(drop), || true);
    refused += refusals(step, || layer.save(&path, ""), || !path.exists());
    refused += refusals(step, || read(&path).map(drop), || true);
    let bytes = read(&path).unwrap();
    refused += refusals(
        step,
        || StateDict::<f32>::from_tensors(&Tensors::parse(&bytes)?, "", c, &Options::default()).map(drop),
        || true,
    );
    let mut other = before.clone();
    other.gamma = Some(vec![2.0; c]);
    for k in 0.. {
        if within(k * step, || layer.load_state_dict(&other)).is_ok() {
            break;
        }
        assert!(layer.state_dict().unwrap() == before);
        refused += 1;
    }
    assert!(layer.state_dict().unwrap() == other);
    let (mut weight, mut bias) = (vec![1.0f32; c], vec![0.0f32; c]);
    refused += refusals(step, || other.fold_into(1e-5, Shape::nc(1, c)?, &mut weight, &mut bias), || true);
    refused
}

/// The limited process's whole work: under the test harness, whose own allocations are not limited.
fn child(which: &str) {
    let shape = |dims: &[usize], layout| Shape::new(dims, layout).unwrap();
    let refused = match which {
        // Large enough for threads, which it has no room for, and with results that exceed what the allocator keeps.
        "shared" => operations(shape(&[4, 20_000, 40], Layout::ChannelsFirst), 40_000),
        // A shape of many rows, for each of which nothing is kept.
        "narrow" => operations(shape(&[60_000, 4, 2], Layout::ChannelsFirst), 60_000),
        "wide" => operations(shape(&[3, 40_000], Layout::ChannelsLast), 60_000),
        "layers" => layers(300_000, 30_000),
        other => panic!("{other}"),
    };
    println!("refused {refused}");
}

#[test]
fn limited() {
    if let Ok(which) = std::env::var(LIMITED) {
        return child(&which);
    }
    // The narrow one may need no more than the allocator keeps; eight bytes for each row and channel would be refused 64 times.
    for (which, expected) in [("shared", 20..2000), ("narrow", 0..40), ("wide", 30..2000), ("layers", 100..10_000)] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "limited", "--nocapture", "--test-threads", "1"]).env(LIMITED, which);
        // The thread of the test would else have an arena whose address space it has already.
        command.env("MALLOC_ARENA_MAX", "1");
        let output = command.output().unwrap();
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{which}: {:?}\n{text}{errors}", output.status);
        let refused = text.split("refused ").nth(1).and_then(|text| text.lines().next()).unwrap_or_default();
        println!("{which}: {refused} refusals");
        assert!(expected.contains(&refused.parse::<usize>().unwrap()), "{which}, expected {expected:?}: {text}");
    }
}

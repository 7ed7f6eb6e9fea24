//! Replays the fuzz targets' corpus, and mutations of it.

use std::fs;
use std::path::Path;

use fastrand::Rng;

mod abuse;
#[path = "abuse/file.rs"]
mod file;
#[cfg(test)]
#[path = "abuse/self_test.rs"]
mod self_test;
#[path = "../fuzz/targets.rs"]
mod targets;

use abuse::Part;
use file::{Draft, mangled, mutate, pick};

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    paths.sort(); // So that equal numbers mean equal files.
    assert!(paths.len() >= 10, "{} holds {} files: the corpus is gone", folder.display(), paths.len());
    println!("{paths:?}");
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

#[test]
fn input_files() {
    corpus("input").iter().for_each(|bytes| targets::input(bytes));
}

#[test]
fn state_files() {
    corpus("state").iter().for_each(|bytes| targets::state(bytes));
}

/// The state of a layer of 3 channels, and an input's tensors.
fn whole(rng: &mut Rng) -> Draft {
    let mut draft = Draft::default();
    for name in ["weight", "bias", "running_mean", "running_var"] {
        let (dtype, bytes) = pick(rng, &[("F32", 4), ("F16", 2), ("BF16", 2), ("F64", 8)]);
        draft.push(name, dtype, &[3], &(0..3 * bytes).map(|_| rng.u8(..)).collect::<Vec<_>>());
    }
    let count = pick(rng, &[0, 7, i64::MAX, -1]);
    draft.push("num_batches_tracked", "I64", pick(rng, &[&[][..], &[1u64]]), &count.to_le_bytes());
    if rng.bool() {
        draft.push("x", "BF16", &[2, 3, 2], &[0x3f; 24]);
    }
    draft
}

/// Any bytes give no panic, and what is read of them is as the targets demand.
#[test]
fn mutated_files() {
    let (inputs, states) = (corpus("input"), corpus("state"));
    Part { name: "files", test: "mutated_files", few: 2_000 }.run(|trial| {
        let rng = &mut trial.rng;
        let bytes = match rng.u8(..4) {
            way @ 0..=1 => {
                let of = if way == 0 { &inputs } else { &states };
                let bytes = of[rng.usize(..of.len())].clone();
                mangled(rng, bytes)
            }
            way => {
                let mut draft = whole(rng);
                (0..=rng.usize(..3)).for_each(|_| mutate(rng, &mut draft));
                if way == 2 { draft.to_bytes() } else { mangled(rng, draft.to_bytes()) }
            }
        };
        trial.keep("input.safetensors", &bytes);
        targets::input(&bytes);
        targets::state(&bytes);
    });
}

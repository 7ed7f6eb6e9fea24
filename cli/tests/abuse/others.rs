//! `info --plan`, `verify` and `bench` under random options, none of which takes long.

use std::fs;

use batchnorm::Dtype;
use fastrand::Rng;

use crate::abuse::Trial;
use crate::command::{Ended, Folder};
use crate::file::pick;
use crate::words::{LAYOUTS, Words, device, epilogues, ops, strategies};

/// A shape as `--plan` takes it, of any size, or what looks like one.
fn shape(rng: &mut Rng) -> String {
    const SIZES: [&str; 16] = [
        "1",
        "2",
        "3",
        "7",
        "64",
        "1000",
        "65537",
        "4294967296",
        "9223372036854775807",
        "18446744073709551615",
        "0",
        "1",
        "8",
        "256",
        "56",
        "99999999999999999999",
    ];
    let sizes: Vec<&str> = (0..rng.usize(1..7)).map(|_| pick(rng, &SIZES)).collect();
    let shape = sizes.join("x");
    match rng.u8(..12) {
        0 => format!("{shape}x"),
        1 => shape.replace('x', pick(rng, &["X", "*", " x ", "xx", ",", "x-"])),
        _ => shape,
    }
}

/// A file to write: new, there already, in the way, or in no folder.
fn file(rng: &mut Rng, folder: &Folder, words: &mut Words, option: &str) {
    let path = folder.path().join(option);
    let name = match rng.u8(..8) {
        0 => format!("absent/{option}"),
        1 => {
            fs::create_dir(path).unwrap();
            option.to_owned()
        }
        2 => "same".to_owned(),
        3..=4 => {
            fs::write(path, b"as it was").unwrap();
            option.to_owned()
        }
        _ => option.to_owned(),
    };
    words.is_odd = true;
    words.option(rng, option, &name);
}

/// Runs the command, and holds the files that it leaves: those that it was asked for and no other, JSON where it is JSON.
fn finish(trial: &mut Trial, folder: &Folder, words: &mut Words) {
    words.disturb(&mut trial.rng);
    let ended = folder.command(trial, &words.args);
    assert!(ended == Ended::Done || words.is_wrong || words.is_odd, "expected exit code 0 for sound options, got 2");
    assert!(ended == Ended::Refused || !words.is_wrong, "expected exit code 2 for a wrong option, got 0");
    if ended == Ended::Refused {
        return;
    }
    for (name, content) in folder.contents() {
        let asked = words
            .args
            .iter()
            .any(|word| word == &name || word.to_string_lossy().ends_with(&format!("={}", name.display())));
        assert!(asked, "expected the files of the options, got {name:?}");
        let Some(content) = content else { continue };
        if name == "json" && content != b"as it was" {
            serde_json::from_slice::<serde_json::Value>(&content).unwrap_or_else(|error| panic!("--json: {error}"));
        }
    }
}

pub(crate) fn info(trial: &mut Trial) {
    let (folder, mut words, rng) = (Folder::new(), Words::new("info"), &mut trial.rng);
    if rng.bool() {
        words.args.push("--json".into());
    }
    if rng.u8(..8) == 0 {
        device(rng, &mut words);
    }
    if rng.u8(..8) != 0 {
        let shape = shape(rng);
        words.option(rng, "plan", &shape);
        words.is_odd = true;
    }
    for (option, of) in [
        ("op", &ops()[..]),
        ("layout", &LAYOUTS),
        ("epilogue", &epilogues()),
        ("dtype", &Dtype::ON_CUDA.iter().copied().map(Dtype::name).collect::<Vec<_>>()),
        ("gpu", &["a100", "h100", "h200", "b200", "rtx4090", "rtx5090", "cuda:0", "cuda:1", "cuda:99", "cpu"]),
    ] {
        if rng.u8(..3) == 0 {
            words.choice(rng, option, of);
            words.is_odd = true; // Without --plan they are refused.
        }
    }
    finish(trial, &folder, &mut words);
}

/// The files of `verify` and `bench`, each now and then.
fn files(rng: &mut Rng, folder: &Folder, words: &mut Words, of: &[&str]) {
    for option in of {
        if rng.u8(..3) == 0 {
            file(rng, folder, words, option);
        }
    }
}

pub(crate) fn verify(trial: &mut Trial) {
    let (folder, mut words, rng) = (Folder::new(), Words::new("verify"), &mut trial.rng);
    words.is_odd = device(rng, &mut words) != "cpu" || words.is_odd;
    words.number(rng, "every", &["997", "5000", "4294967295"], &["0", "-1", "4294967296", "1e3", "1.5"]);
    words.number(rng, "within", &["0", "1"], &["-1", "18446744073709551616", "0.5", "1e0"]);
    if rng.u8(..4) == 0 {
        words.is_odd |= words.choice(rng, "strategy", &strategies()) != "auto";
    }
    files(rng, &folder, &mut words, &["json", "journal"]);
    finish(trial, &folder, &mut words);
}

pub(crate) fn bench(trial: &mut Trial) {
    let (folder, mut words, rng) = (Folder::new(), Words::new("bench"), &mut trial.rng);
    words.args.push("--no-python".into());
    words.is_odd = device(rng, &mut words) != "cpu" || words.is_odd;
    // One small row and a second at most.
    words.number(rng, "within", &["0", "1"], &["-1", "18446744073709551616", "0.5"]);
    words.number(rng, "limit-bytes", &["0", "40000", "100000"], &["-1", "1e9", "18446744073709551616"]);
    words.number(rng, "seconds", &["0.001", "1e-3", "0.002"], &["0", "-1", "inf", "nan", "61", "1e-4"]);
    if rng.bool() {
        words.is_odd |= words.choice(rng, "suite", &["edge", "edge", "mlp", "volumes"]) != "edge";
    }
    if rng.bool() {
        let filter = pick(rng, &["two-values f32", "two-values", "f16 train", "nothing has this", "\u{1b}", ""]);
        words.option(rng, "filter", filter);
        words.is_odd = true;
    }
    if rng.bool() {
        words.choice(rng, "operation", &["train", "backward", "infer", "backward-add-relu"]);
    }
    if rng.u8(..4) == 0 {
        words.is_odd |= words.choice(rng, "strategy", &strategies()) != "auto";
    }
    if rng.u8(..4) == 0 {
        words.choice(rng, "peer", &["torch", "cudnn", "jax"]);
        words.is_odd = true;
    }
    files(rng, &folder, &mut words, &["json", "journal", "plot"]);
    finish(trial, &folder, &mut words);
}

//! `batchnorm run` on random files.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;

use batchnorm::{Epilogue, Op, StatisticsKind};
use fastrand::Rng;

use crate::abuse::Trial;
use crate::command::{Ended, Folder, told};
use crate::file::pick;
use crate::input::Input;
use crate::outputs;
use crate::words::{LAYOUTS, ODD, Words, device, epilogues, ops, strategies};

const INPUT: &str = "in.safetensors";

/// The output's path, and whether it can be written.
fn output(rng: &mut Rng, folder: &Folder) -> (OsString, bool) {
    let at = |name: &str| folder.path().join(name);
    match rng.u8(..12) {
        0 => (INPUT.into(), true),
        1 => {
            fs::create_dir(at("taken")).unwrap();
            ("taken".into(), false)
        }
        2 => ("absent/out.safetensors".into(), false),
        3 => (OsStr::from_bytes(b"\xff\xfe.safetensors").into(), true),
        4 => ("o\n\u{1b}[31mut".into(), true),
        5..=8 => {
            fs::write(at("out.safetensors"), b"as it was").unwrap();
            (pick(rng, &["out.safetensors", "./out.safetensors"]).into(), true)
        }
        _ => ("out.safetensors".into(), true),
    }
}

/// Whether the file has what an operation reads, and this operation takes a batch like that.
fn has_what_it_takes(input: &Input, op: Op, epilogue: Epilogue<()>, is_last: bool, is_unbiased: bool) -> bool {
    let has = |name| input.names.contains(&name);
    let running = has("running_mean") && has("running_var");
    let tracks = running || has("running_mean") || has("running_var") || has("num_batches_tracked");
    let residual = epilogue.residual().is_none() || has("z");
    // A backward pass reads z for an activation's derivative alone.
    let derivative = !epilogue.keeps_mask() || residual;
    has("x")
        && match op {
            Op::Train => residual && (!tracks || running && (!is_unbiased || input.m(is_last) != 1)),
            Op::Infer => residual && running,
            Op::Backward(StatisticsKind::Batch) => has("dy") && derivative,
            Op::Backward(StatisticsKind::Running) => has("dy") && running && derivative,
            Op::Moments => epilogue == Epilogue::IDENTITY,
        }
}

pub(crate) fn run(trial: &mut Trial) {
    let (folder, mut words) = (Folder::new(), Words::new("run"));
    let rng = &mut trial.rng;
    let op = words.choice(rng, "op", &ops());
    let layout = words.choice(rng, "layout", &LAYOUTS);
    let is_last = matches!(layout, "channels-last" | "nhwc");
    let device = device(rng, &mut words);
    let op = Op::named(op).unwrap();
    let epilogues = if !op.takes_epilogue() && rng.u8(..8) != 0 { vec!["identity"] } else { epilogues() };
    let epilogue = if rng.bool() { words.choice(rng, "epilogue", &epilogues) } else { "identity" };
    let epilogue = Epilogue::named(epilogue).unwrap();
    let strategies = if device == "cpu" && rng.u8(..20) != 0 { vec!["auto"] } else { strategies() };
    let strategy = if rng.u8(..3) == 0 { words.choice(rng, "strategy", &strategies) } else { "auto" };
    if rng.bool() {
        words.number(rng, "eps", &["1e-5", "1E-3", "0", "0.25", "3e-39", "1e-300", "1e30"], &ODD);
    }
    if rng.bool() {
        words.number(rng, "momentum", &["0.1", "0", "1", "1e-300", "0.9999999999999999", "cumulative"], &ODD);
    }
    let variance =
        if rng.u8(..3) == 0 { words.choice(rng, "running-var", &["unbiased", "biased"]) } else { "unbiased" };
    if rng.u8(..5) == 0 {
        words.args.push("--skip-non-finite".into());
    }
    // Sizes beyond the memory are tried where memory has a limit.
    let input = Input::new(rng, is_last, device != "cpu");
    let (output, is_writable) = output(rng, &folder);
    words.args.extend(["--input".into(), INPUT.into(), "--output".into(), output.clone()]);
    words.disturb(rng);

    let fits = match device {
        "cpu" => strategy == "auto",
        "cuda" | "cuda:0" => cfg!(feature = "emulate") && strategy == "auto" && input.dtype.is_on_cuda(),
        _ => false,
    };
    let is_sound = input.is_sound
        && !(words.is_wrong || words.is_odd)
        && is_writable
        && fits
        && has_what_it_takes(&input, op, epilogue, is_last, variance == "unbiased");

    trial.keep(INPUT, &input.bytes);
    fs::write(folder.path().join(INPUT), &input.bytes).unwrap();
    let mut before = folder.contents();
    let ended = folder.command(trial, &words.args);
    assert!(ended == Ended::Done || !is_sound, "expected exit code 0 for a sound file and sound options, got 2");
    assert!(ended == Ended::Refused || !words.is_wrong, "expected exit code 2 for a wrong option, got 0");
    let mut after = folder.contents();
    if ended == Ended::Refused || words.is_odd && after == before {
        return; // Help is no refusal, and writes nothing.
    }
    let key = output.to_str().and_then(|name| name.strip_prefix("./")).map_or(output.clone(), OsString::from);
    let written = after.remove(&key).flatten().unwrap_or_else(|| panic!("expected an output, got {}", told(&after)));
    before.remove(&key);
    assert!(after == before, "expected no other file than the output, got {}", told(&after));
    trial.keep("out.safetensors", &written);
    outputs::check(op, epilogue, is_last, &input.bytes, &written);
}

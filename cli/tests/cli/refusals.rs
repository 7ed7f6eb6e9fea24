//! Bad input: exit code 2, one line that says expected and actual, and nothing written.

use std::fs;

use batchnorm::tensors::TensorFile;
use batchnorm::{Dtype, Epilogue, Op, Strategy};

use crate::formulas::{ALL, Example, needed};
#[cfg(not(feature = "cuda"))]
use crate::harness::printed;
use crate::harness::{Folder, batchnorm, file, one_of, refused};

/// Refused with these words, without an output, and with an output that was there left as it was.
#[track_caller]
pub(crate) fn refuses(folder: &Folder, args: &[&str], words: &[&str]) {
    refused(&folder.run(args), words);
    assert_eq!(folder.names(), ["in.safetensors"]);
    fs::write(folder.output(), b"as it was").unwrap();
    refused(&folder.run(args), words);
    assert_eq!(fs::read(folder.output()).unwrap(), b"as it was");
    assert_eq!(folder.names(), ["in.safetensors", "out.safetensors"]);
    fs::remove_file(folder.output()).unwrap();
}

fn full() -> Folder {
    Folder::new(&file::<f32, f32>(&Example::new("nchw"), &ALL))
}

/// The example in which one tensor replaces that of its name.
fn instead(name: &str, change: impl FnOnce(&mut TensorFile) -> batchnorm::Result<()>) -> Folder {
    let others: Vec<_> = ALL.into_iter().filter(|&other| other != name).collect();
    with(&others, |file| change(file).unwrap())
}

/// The example with one tensor more.
fn with(names: &[&str], change: impl FnOnce(&mut TensorFile)) -> Folder {
    let mut file = file::<f32, f32>(&Example::new("nchw"), names);
    change(&mut file);
    Folder::new(&file)
}

#[test]
fn missing_tensors() {
    for &op in Op::ALL {
        for &epilogue in op.epilogues() {
            // Running statistics are followed where any of them is there: then all of them are needed.
            let tracked = if op.tracks() { &["running_mean", "running_var"][..] } else { &[] };
            for absent in [&needed(op, epilogue), tracked].concat() {
                let names: Vec<_> = ALL.into_iter().filter(|&name| name != absent).collect();
                let args = ["--op", op.name(), "--layout", "nchw", "--epilogue", epilogue.name()];
                refuses(&with(&names, |_| ()), &args, &[&format!("{absent}: expected in the file, which has"), "bias"]);
            }
        }
    }
    let counted = with(&["x", "num_batches_tracked"], |_| ());
    refuses(&counted, &["--op", "train", "--layout", "nchw"], &["running_mean: expected", "num_batches_tracked, x"]);
}

#[test]
fn misshapen_and_mistyped_tensors() {
    let backward = ["--op", "backward", "--layout", "nchw"];
    let train = ["--op", "train", "--layout", "nchw", "--epilogue", "add"];
    let four = |name: &'static str| instead(name, |file| file.push(name, &[4], &[1.0f32; 4]));
    for name in ["weight", "bias", "running_mean", "running_var"] {
        refuses(&four(name), &train, &[name, "expected dimensions [3]", "got [4]"]);
    }
    let like_x = "expected dimensions [2, 3, 2, 2]";
    refuses(&four("z"), &train, &["z: ", like_x, "got [4]"]);
    refuses(&four("dy"), &backward, &["dy: ", like_x, "got [4]"]);
    let transposed = instead("dy", |file| file.push("dy", &[2, 2, 2, 3], &[1.0f32; 24]));
    refuses(&transposed, &backward, &["dy: ", like_x, "got [2, 2, 2, 3]"]);
    let wide = instead("dy", |file| file.push("dy", &[2, 3, 2, 2], &[1.0f64; 24]));
    refuses(&wide, &backward, &["dy: ", "expected dtype f32", "got dtype f64"]);
    let counted = |name: &'static str| instead(name, |file| file.push_count(name, 3));
    let dtypes = format!("expected {}", one_of(&Dtype::ALL.iter().copied().map(Dtype::name).collect::<Vec<_>>()));
    refuses(&counted("x"), &train, &["x: ", &dtypes, "I64"]);
    refuses(&counted("weight"), &train, &["weight: ", &dtypes, "I64"]);
    let count = "num_batches_tracked";
    refuses(&instead(count, |file| file.push(count, &[1], &[1.0f32])), &train, &[count, "expected dtype i64", "F32"]);
    refuses(&instead(count, |file| file.push_count(count, -3)), &train, &[count, "count >= 0", "got -3"]);
}

#[test]
fn shapes() {
    let of = |dims: &[usize]| {
        let mut file = TensorFile::default();
        file.push("x", dims, &vec![1.0f32; dims.iter().product()]).unwrap();
        file.push("running_mean", &[1], &[0.0f32]).unwrap();
        file.push("running_var", &[1], &[1.0f32]).unwrap();
        Folder::new(&file)
    };
    let train = ["--op", "train", "--layout", "nchw"];
    refuses(&of(&[4]), &train, &["[4]", "expected 2 to 5 dimensions", "got 1"]);
    refuses(&of(&[1; 6]), &train, &["expected 2 to 5 dimensions", "got 6"]);
    refuses(&of(&[2, 0, 2]), &train, &["expected at least 1 channel", "got 0"]);
    refuses(&of(&[1, 1, 1]), &train, &["expected at least 2 values per channel", "got 1"]);
    let huge = of(&[0, 1 << 58]);
    for op in ["moments", "backward"] {
        let words = if op == "moments" { "results for x of [0, 288230376151711744]" } else { "dy: expected" };
        refuses(&huge, &["--op", op, "--layout", "nchw"], &[words]);
    }
}

#[test]
fn options_out_of_range() {
    let op = ["--op", "train", "--layout", "nchw"];
    let epilogues = Epilogue::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
    let strategies =
        format!("auto, {}", Strategy::ALL.iter().copied().map(Strategy::name).collect::<Vec<_>>().join(", "));
    for (options, words) in [
        (&["--eps", "-1"][..], &["eps", "expected a finite value >= 0", "got -1"][..]),
        (&["--eps", "nan"], &["eps", "got NaN"]),
        (&["--eps", "inf"], &["eps", "got inf"]),
        (&["--momentum", "-1.2"], &["momentum", "expected a value in [0, 1]", "got -1.2"]),
        (&["--momentum", "1.5"], &["momentum", "got 1.5"]),
        (&["--momentum", "-inf"], &["momentum", "got -inf"]),
        (&["--eps", "small"], &["--eps", "expected a number", "'small'"]),
        (&["--momentum", "fast"], &["--momentum", "expected a number or cumulative", "'fast'"]),
        (&["--running-var", "none"], &["--running-var", "unbiased, biased", "'none'"]),
        (&["--epilogue", "gelu"], &["--epilogue", &epilogues, "'gelu'"]),
        (&["--epilogue", "a\nb\u{1b}[31m"], &["--epilogue"]),
        (&["--device", "tpu"], &["--device", "expected cpu, cuda or cuda:N", "'tpu'"]),
        (&["--strategy", "block"], &["--strategy", "expected auto", "got block"]),
        (&["--strategy", "two-read"], &["--strategy", "expected auto", "got two-read"]),
        (&["--strategy", "magic"], &["--strategy", &strategies, "'magic'"]),
        (&["--fast"], &["unexpected argument '--fast'"]),
    ] {
        refuses(&full(), &[&op, options].concat(), words);
    }
    let everywhere = ["--layout", "nchw", "--eps", "-1"];
    for &op in Op::ALL {
        refuses(&full(), &[&["--op", op.name()], &everywhere[..]].concat(), &["eps", "got -1"]);
    }
    let moments = ["--op", "moments", "--layout", "nchw", "--epilogue"];
    for epilogue in Epilogue::ALL.iter().filter(|kind| !Op::Moments.epilogues().contains(kind)) {
        let got = format!("got {}", epilogue.name());
        refuses(&full(), &[&moments[..], &[epilogue.name()]].concat(), &["no epilogue", &got]);
    }
    let ops = Op::ALL.iter().copied().map(Op::name).collect::<Vec<_>>().join(", ");
    refuses(&full(), &["--op", "fuse", "--layout", "nchw"], &["--op", &ops, "'fuse'"]);
    refuses(&full(), &["--op", "train", "--layout", "nwc"], &["--layout", "channels-first, channels-last", "'nwc'"]);
    refuses(&full(), &["--op", "train"], &["required", "--layout"]);
}

#[test]
fn the_command_itself() {
    refused(&batchnorm(&[]), &["subcommand"]);
    refused(&batchnorm(&["bench2"]), &["bench2"]);
    refused(&batchnorm(&["info", "--device", "gpu"]), &["--device", "expected cpu, cuda or cuda:N", "'gpu'"]);
    refused(&batchnorm(&["info", "--device", "cpu", "--plan", "2x3"]), &["--device", "--plan", "cannot be used with"]);
    refused(&batchnorm(&["run"]), &["required", "--op", "--layout", "--input", "--output"]);
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_build_without_cuda() {
    for device in ["cuda", "cuda:1"] {
        let words = [&format!("--device {device}"), "no CUDA support", "expected cpu"];
        refuses(&full(), &["--op", "train", "--layout", "nchw", "--device", device], &words);
        refused(&batchnorm(&["verify", "--device", device]), &words);
        refused(&batchnorm(&["info", "--device", device]), &words);
    }
    assert!(printed(&batchnorm(&["info"])).contains("device cuda: not in this build"));
}

#[test]
fn files_that_are_no_safetensors() {
    let args = ["--op", "moments", "--layout", "nchw"];
    let whole = file::<f32, f32>(&Example::new("nchw"), &["x"]).to_bytes().unwrap();
    let headed = |len: u64, header: &str| [&len.to_le_bytes(), header.as_bytes()].concat();
    let hostile = "{\"x\":\"\\n\\u001b[31m\",\n\u{1b}[2J}";
    let named = r#"{"a\nb\u001b[31m\u2028":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#;
    let twice = r#"{"x":{"dtype":"F32","shape":[4,2],"data_offsets":[0,32]},"\u0078":{"dtype":"F32","shape":[2,4],"data_offsets":[0,32]}}"#;
    for (bytes, word) in [
        ([headed(twice.len() as u64, twice), vec![0; 32]].concat(), "the key \"x\" twice in one object of the header"),
        (whole[..whole.len() - 1].to_vec(), "not a safetensors file"),
        (whole[..5].to_vec(), "in 5 bytes"),
        (vec![], "in 0 bytes"),
        (headed(u64::MAX, "{}"), "not a safetensors file"),
        (headed(100_000_001, "{}"), "not a safetensors file"),
        (headed(hostile.len() as u64, hostile), "not a safetensors file"),
        (headed(named.len() as u64, named), "x: expected in the file, which has a\\nb"),
    ] {
        refuses(&Folder::with_bytes(&bytes), &args, &[word]);
    }
}

#[test]
fn paths() {
    let folder = full();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let run = |input: &str, output: &str| {
        batchnorm(&["run", "--op", "moments", "--layout", "nchw", "--input", &path(input), "--output", &path(output)])
    };
    refused(&run("absent", "out"), &["absent", "No such file"]);
    refused(&run("absent\n\u{1b}[31m", "out"), &["absent\\n", "No such file"]);
    refused(&run("", "out"), &["Is a directory"]);
    refused(&run("in.safetensors", "absent/out"), &["absent/out", "No such file"]);
    fs::create_dir(folder.path().join("taken")).unwrap();
    refused(&run("in.safetensors", "taken"), &["taken", "expected a regular file or a new one, got a folder"]);
    assert_eq!(folder.names(), ["in.safetensors", "taken"]);
    assert_eq!(fs::read_dir(folder.path().join("taken")).unwrap().count(), 0);
}

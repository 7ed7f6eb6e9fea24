//! The output appears whole or not at all: on a full disk, when killed, over its own input; and stdout may close.
#![cfg(unix)]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use batchnorm::tensors::{TensorFile, Tensors};

use crate::harness::{EXE, Folder, batchnorm, printed, refused};

/// 64 KiB of x: far over the 4 or 8 KiB that `ulimit -f 8` leaves to a file.
fn large() -> Folder {
    let mut file = TensorFile::default();
    let x: Vec<f32> = (0..16384).map(|i| (i % 97) as f32).collect();
    file.push("x", &[256, 64], &x).unwrap();
    Folder::new(&file)
}

fn limited(folder: &Folder, before: &str) -> Output {
    let script = format!(
        "ulimit -c 0; ulimit -f 8; {before} exec \"$1\" run --op train --layout nchw --input \"$2\" --output \"$3\""
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh", EXE]).arg(folder.input()).arg(folder.output());
    command.output().unwrap()
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let folder = large();
    refused(&limited(&folder, "trap '' XFSZ;"), &["out.safetensors", "File too large"]);
    assert_eq!(folder.names(), ["in.safetensors"]);
    fs::write(folder.output(), b"old").unwrap();
    refused(&limited(&folder, "trap '' XFSZ;"), &["out.safetensors", "File too large"]);
    assert_eq!(fs::read(folder.output()).unwrap(), b"old");
    assert_eq!(folder.names(), ["in.safetensors", "out.safetensors"]);
}

#[test]
fn a_killed_process_leaves_the_output_as_it_was() {
    let folder = large();
    assert!(limited(&folder, "").status.signal().is_some(), "killed while it wrote");
    assert!(!folder.output().exists());
    fs::write(folder.output(), b"old").unwrap();
    assert!(limited(&folder, "").status.signal().is_some());
    assert_eq!(fs::read(folder.output()).unwrap(), b"old");
}

#[test]
fn the_output_may_be_the_input() {
    let folder = large();
    let path = folder.input().to_str().unwrap().to_owned();
    printed(&batchnorm(&["run", "--op", "train", "--layout", "nchw", "--input", &path, "--output", &path]));
    let bytes = fs::read(&path).unwrap();
    assert_eq!(Tensors::parse(&bytes).unwrap().names(), ["inv_std", "mean", "y"]);
    assert_eq!(folder.names(), ["in.safetensors"]);
}

/// The exit code and stderr of a command whose stdout nobody reads.
fn unread(args: &[&str]) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(EXE);
    let output = command.args(args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_closed_stdout_is_no_failure() {
    let folder = large();
    let (input, output) = (folder.input(), folder.output());
    let (input, output) = (input.to_str().unwrap(), output.to_str().unwrap());
    let run = ["run", "--op", "train", "--layout", "nchw", "--input", input, "--output", output];
    for args in [&run[..], &["info"], &["info", "--json"], &["--help"], &["run", "--help"], &["--version"]] {
        assert_eq!(unread(args), (Some(0), String::new()), "{args:?}");
    }
    assert!(folder.output().exists());
}

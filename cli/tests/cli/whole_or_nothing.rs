//! The output appears whole or not at all: on a full disk, when killed, over its own input; and stdout may close.
#![cfg(unix)]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

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
    // The signal of a file beyond the limit ends nothing either.
    for trap in ["trap '' XFSZ;", ""] {
        let folder = large();
        refused(&limited(&folder, trap), &["out.safetensors", "File too large"]);
        assert_eq!(folder.names(), ["in.safetensors"]);
        fs::write(folder.output(), b"old").unwrap();
        refused(&limited(&folder, trap), &["out.safetensors", "File too large"]);
        assert_eq!(fs::read(folder.output()).unwrap(), b"old");
        assert_eq!(folder.names(), ["in.safetensors", "out.safetensors"]);
    }
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap().success());
}

/// Sends a signal as soon as there is a file of that beginning, and gives how the process ended: by it, unless it was done before.
fn interrupted(child: &mut Child, folder: &Path, beginning: &str, name: &str) -> ExitStatus {
    let is_there = || {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.into_iter().any(|name| name.starts_with(beginning))
    };
    while child.try_wait().unwrap().is_none() && !is_there() {}
    signal(child, name);
    child.wait().unwrap()
}

/// The program, which hears signals also where these tests are run by what ignores them, as nohup does.
fn listening() -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP,INT,TERM", EXE]);
    command
}

#[test]
fn a_signal_in_the_write_leaves_the_output_as_it_was_and_nothing_beside_it() {
    let mut file = TensorFile::default();
    file.push_vec("x", &[8, 1 << 20], vec![1.5f32; 8 << 20]).unwrap();
    let folder = Folder::new(&file);
    for (name, number) in [("TERM", 15), ("INT", 2), ("HUP", 1), ("KILL", 9)] {
        fs::write(folder.output(), b"old").unwrap();
        // A process may be done before the signal comes.
        let is_hit = (0..50).any(|_| {
            let mut command = listening();
            command.args(["run", "--op", "moments", "--layout", "nhwc"]).stdout(Stdio::null());
            command.args(["--input"]).arg(folder.input()).arg("--output").arg(folder.output());
            let status = interrupted(&mut command.spawn().unwrap(), folder.path(), ".batchnorm-", name);
            let bytes = fs::read(folder.output()).unwrap();
            if bytes != b"old" {
                assert_eq!(Tensors::parse(&bytes).unwrap().names(), ["mean", "var"]);
                fs::write(folder.output(), b"old").unwrap();
            }
            bytes == b"old" && status.signal() == Some(number)
        });
        assert!(is_hit, "{name}");
        let left = folder.names().len() - 2;
        // SIGKILL ends the process at once and leaves the file that was begun. It shows that this test would see one.
        assert_eq!(left > 0, name == "KILL", "{name}: {left} files beside the output");
    }
}

#[test]
fn a_signal_that_is_ignored_stays_so() {
    let script = format!("trap '' HUP INT TERM; exec {EXE} verify --every 97 --within 2");
    let mut command = Command::new("sh");
    let mut child = command.args(["-c", &script]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    for name in ["HUP", "INT", "TERM"] {
        std::thread::sleep(std::time::Duration::from_millis(200));
        signal(&child, name);
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_signal_before_the_peers_have_answered_leaves_no_folder_of_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let silent = folder.path().join("python");
    fs::write(&silent, "#!/bin/sh\nexec sleep 30\n").unwrap();
    fs::set_permissions(&silent, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let temporary = folder.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    for name in ["TERM", "INT", "HUP"] {
        let mut command = listening();
        command.args(["bench", "--suite", "edge", "--filter", "two-values", "--python"]).arg(&silent);
        command.arg("--json").arg(folder.path().join("bench.json")).env("TMPDIR", &temporary).stdout(Stdio::null());
        let status = interrupted(&mut command.stderr(Stdio::null()).spawn().unwrap(), &temporary, "", name);
        assert!(status.signal().is_some(), "{name}: {status}");
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "{name}");
        let left = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.filter(|name| name != "bench.json").count(), 2, "{name}");
    }
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

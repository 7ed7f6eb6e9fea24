//! Commands under limits of the process: the calling thread does the work where no other can be started, and memory that
//! runs out is one line and exit code 2.
#![cfg(target_os = "linux")]

use std::fs;
use std::process::{Command, Output};

use batchnorm::tensors::TensorFile;

use crate::harness::{EXE, Folder, printed, refused};

/// Three tensors of `rows` by 16 by 40 values.
fn folder(rows: usize) -> Folder {
    let mut file = TensorFile::default();
    let values: Vec<f32> = (0..rows * 640).map(|i| ((i * 7919) % 1013) as f32).collect();
    for name in ["x", "dy", "z"] {
        file.push(name, &[rows, 16, 40], &values).unwrap();
    }
    for name in ["running_mean", "running_var"] {
        file.push(name, &[16], &[1.0f32; 16]).unwrap();
    }
    Folder::new(&file)
}

/// Words of each command, for a shell to split.
fn commands(folder: &Folder) -> Vec<String> {
    let files = format!("--input {} --output {}", folder.input().display(), folder.output().display());
    let mut commands = vec!["info".into(), "info --json --plan 256x64x56x56 --gpu h200".into()];
    for op in ["train", "infer", "backward", "backward-frozen"] {
        commands.push(format!("run --op {op} --layout nchw --epilogue add-relu {files}"));
    }
    commands.push(format!("run --op moments --layout nchw {files}"));
    commands.push("verify --every 1997".into());
    commands.push("bench --suite edge --filter two-values --no-python --seconds 0.001".into());
    commands
}

/// A command behind these of a shell.
fn under(limits: &str, command: &str) -> Output {
    // The emulated device, where there is one, is not what is tested.
    Command::new("sh").args(["-c", &format!("ulimit -c 0; {limits} exec {EXE} {command}")]).output().unwrap()
}

/// Makes a process that may have no other thread. Root may have any number: it becomes nobody.
fn alone() -> String {
    let id = Command::new("id").arg("-u").output().unwrap();
    let is_root = String::from_utf8_lossy(&id.stdout).trim() == "0";
    let alone = format!("prlimit --nproc=1 {EXE}");
    if is_root { format!("setpriv --reuid=65534 --regid=65534 --clear-groups {alone}") } else { alone }
}

#[test]
fn no_thread_but_the_first() {
    // Small enough for one thread, and not.
    for folder in [folder(10), folder(200)] {
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        for command in commands(&folder) {
            let output = Command::new("sh").args(["-c", &format!("{} {command}", alone())]).output().unwrap();
            printed(&output);
            if command.starts_with("run") {
                fs::remove_file(folder.output()).unwrap();
            }
        }
    }
}

#[test]
fn more_threads_than_there_is_memory_for() {
    let folder = folder(200);
    for command in commands(&folder) {
        printed(&under("ulimit -v 4000000; export RAYON_NUM_THREADS=65535;", &command));
    }
}

/// The least address space, in KiB, under which the process begins: below, the system's loader and Rust's runtime end it.
fn least() -> usize {
    let begins = |kib: &usize| under(&format!("ulimit -v {kib};"), "--version").status.code() == Some(0);
    let coarse = (1..).map(|k| k * 1024).find(begins).unwrap();
    // A process that begins under a limit begins under every larger one: the search is for the largest that it fails under.
    let fails = (coarse - 1024..coarse).step_by(8).rev().find(|kib| !begins(kib)).unwrap_or(coarse - 1024);
    fails + 8
}

#[test]
fn memory_that_runs_out() {
    let (least, folder) = (least(), folder(150));
    for command in commands(&folder) {
        let old = b"of an earlier run";
        fs::write(folder.output(), old).unwrap();
        let (mut kib, mut refusals, mut passed) = (least, 0, 0);
        // The command has to pass some times in a row: with more memory it may want threads.
        while passed < 30 {
            let mut output = under(&format!("ulimit -v {kib};"), &command);
            if output.status.code() == Some(0) {
                printed(&output);
                passed += 1;
                if command.starts_with("run") {
                    assert_ne!(fs::read(folder.output()).unwrap(), old);
                    fs::write(folder.output(), old).unwrap();
                }
            } else {
                if command.starts_with("bench") {
                    output.stdout.clear(); // It prints row by row.
                }
                refused(&output, &["memory"]);
                assert_eq!(fs::read(folder.output()).unwrap(), old, "{command}");
                (refusals, passed) = (refusals + 1, 0);
            }
            assert_eq!(folder.names(), ["in.safetensors", "out.safetensors"], "{command} under {kib} KiB");
            kib += 68;
        }
        println!("{refusals} refusals from {least} to {kib} KiB: {command}");
        assert!(refusals > 5 || !command.starts_with("run"), "{command}");
    }
}

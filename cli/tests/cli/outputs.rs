//! An output may be a regular file or a new one, through whatever links. All else is refused and stays.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use batchnorm::tensors::{TensorFile, Tensors};

use crate::harness::{Folder, batchnorm, printed, refused};

fn folder() -> Folder {
    let mut file = TensorFile::default();
    file.push("x", &[2, 1], &[1.0f32, 3.0]).unwrap();
    Folder::new(&file)
}

/// Every option that names a file to be written whole, in a command that is otherwise well.
fn options(folder: &Folder) -> Vec<(Vec<String>, &'static str)> {
    let words = |text: &str| text.split(' ').map(String::from).collect::<Vec<_>>();
    let run = words(&format!("run --op moments --layout nchw --input {}", folder.input().display()));
    let bench = words("bench --suite edge --filter two-values --no-python --seconds 0.001 --within 0");
    let mut options = vec![
        (run, "--output"),
        (words("verify --within 0"), "--json"),
        (words("verify --within 0"), "--journal"),
        (bench.clone(), "--json"),
        (bench.clone(), "--plot"),
        (bench, "--journal"),
    ];
    if cfg!(feature = "emulate") {
        options.push((words("tune --shape 2x1 --op infer --most 1"), "--out"));
    }
    options
}

fn with(args: &[String], option: &str, path: &Path) -> std::process::Output {
    let path = path.to_str().unwrap();
    let args: Vec<&str> = args.iter().map(String::as_str).chain([option, path]).collect();
    batchnorm(&args)
}

#[test]
fn what_is_no_file_is_refused_and_stays() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let (fifo, socket, taken, device) = (at("fifo"), at("socket"), at("taken"), at("device"));
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    fs::create_dir(&taken).unwrap();
    // A link, so that a device of this machine's own is not what a mistake would replace.
    symlink("/dev/null", &device).unwrap();
    let before = folder.names();
    for (args, option) in options(&folder) {
        for (path, what) in [
            (&fifo, "a FIFO"),
            (&socket, "a socket"),
            (&taken, "a folder"),
            (&device, "a device"),
            (&"/dev/stdout".into(), "a FIFO"), // of this test
            (&"/proc/self/fd/1".into(), "a FIFO"),
        ] {
            if option == "--journal" && *path == device {
                continue; // Line by line, a device may take it.
            }
            refused(
                &with(&args, option, path),
                &[path.to_str().unwrap(), "expected a regular file or a new one", what],
            );
        }
        refused(&with(&args, option, Path::new("-")), &["-: expected the name of a file"]);
        assert_eq!(folder.names(), before, "{option}");
        assert!(device.is_symlink());
    }
}

#[test]
fn links_are_followed_and_modes_stay() {
    for (args, option) in options(&folder()) {
        let folder = folder();
        let args: Vec<String> = match option {
            "--output" => options(&folder).swap_remove(0).0,
            _ => args,
        };
        let (file, link) = (folder.output(), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        symlink("out.safetensors", &link).unwrap();
        let owner = fs::metadata(&file).unwrap().uid();
        printed(&with(&args, option, &link));
        let found = fs::metadata(&file).unwrap();
        assert!(link.is_symlink(), "{option}");
        assert_eq!((found.mode() & 0o777, found.uid()), (0o600, owner), "{option}");
        let bytes = fs::read(&file).unwrap();
        assert_ne!(bytes, b"old", "{option}");
        if option == "--output" {
            assert_eq!(Tensors::parse(&bytes).unwrap().names(), ["mean", "var"]);
        }
        assert_eq!(folder.names(), ["in.safetensors", "link", "out.safetensors"], "{option}");
    }
}

#[test]
fn two_names_of_one_file() {
    let folder = folder();
    let (file, link) = (folder.path().join("report"), folder.path().join("link"));
    symlink("report", &link).unwrap();
    let args = ["verify", "--within", "0", "--json", file.to_str().unwrap(), "--journal", link.to_str().unwrap()];
    refused(&batchnorm(&args), &["expected another file than that of --journal"]);
}

//! Running the executable, in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use batchnorm::Element;
use batchnorm::tensors::TensorFile;
use tempfile::TempDir;

use crate::formulas::Example;

pub(crate) const EXE: &str = env!("CARGO_BIN_EXE_batchnorm");

/// The devices that the contract is tested on. The library's tests use a real GPU.
pub(crate) const DEVICES: &[&str] = if cfg!(feature = "emulate") { &["cpu", "cuda"] } else { &["cpu"] };

/// The executable with these arguments.
pub(crate) fn batchnorm(args: &[&str]) -> Output {
    Command::new(EXE).args(args).output().unwrap()
}

/// A folder with an input file.
pub(crate) struct Folder {
    folder: TempDir,
}

impl Folder {
    pub(crate) fn with_bytes(bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("in.safetensors"), bytes).unwrap();
        Self { folder }
    }

    pub(crate) fn new(file: &TensorFile) -> Self {
        Self::with_bytes(&file.to_bytes().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn input(&self) -> PathBuf {
        self.path().join("in.safetensors")
    }

    pub(crate) fn output(&self) -> PathBuf {
        self.path().join("out.safetensors")
    }

    /// [`Folder::run`] on this device.
    pub(crate) fn run_on(&self, device: &str, args: &[&str]) -> Output {
        self.run(&[&["--device", device], args].concat())
    }

    /// `batchnorm run` from the input to the output.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(EXE);
        command.arg("run").args(args).arg("--input").arg(self.input()).arg("--output").arg(self.output());
        command.output().unwrap()
    }

    /// The names in the folder, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// A file with the example's tensors of these names, data in `T` and per-channel tensors in `P`.
pub(crate) fn file<T: Element, P: Element>(example: &Example, names: &[&str]) -> TensorFile {
    let mut file = TensorFile::default();
    for &name in names {
        match name {
            "num_batches_tracked" => file.push_count(name, example.count).unwrap(),
            "x" | "z" | "dy" => {
                let values: Vec<T> = example.tensor(name).iter().map(|&v| T::from_f64(v)).collect();
                file.push(name, &example.dims, &values).unwrap();
            }
            _ => {
                let values: Vec<P> = example.tensor(name).iter().map(|&v| P::from_f64(v)).collect();
                file.push(name, &[example.c], &values).unwrap();
            }
        }
    }
    file
}

/// Names as a message lists them: "f32, f16 or bf16".
pub(crate) fn one_of(names: &[&str]) -> String {
    let (last, others) = names.split_last().unwrap();
    format!("{} or {last}", others.join(", "))
}

/// The output of a successful command.
pub(crate) fn printed(output: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.is_empty(), "{stderr}");
    stdout.into_owned()
}

/// The one line of a refused command, which must have each of these words.
#[track_caller]
pub(crate) fn refused(output: &Output, words: &[&str]) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(2), "{stdout}{stderr}");
    assert!(stdout.is_empty(), "{stdout}");
    assert!(stderr.starts_with("batchnorm: ") && stderr.ends_with('\n'), "{stderr:?}");
    let line = &stderr[..stderr.len() - 1];
    assert!(!line.contains(char::is_control), "one line: {stderr:?}");
    for word in words {
        assert!(line.contains(word), "{word:?} in {line:?}");
    }
    line.to_owned()
}

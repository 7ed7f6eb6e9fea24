//! One command in a folder of its own, with little memory and a watchdog, tested for what is promised of any command.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::abuse::Trial;

/// Longer than any trial takes on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);
/// Kilobytes of address space, which the files' largest sizes are far beyond. The emulated device reserves more than there is.
const MEMORY: u64 = 2 << 20;

/// The folder that a command reads and writes.
pub(crate) struct Folder {
    folder: TempDir,
    /// Folder of stdout and stderr, another than that of the outputs, in which no file may be too many.
    printed: TempDir,
}

/// Contents of a folder, by name: a file's bytes, or `None` for a folder.
pub(crate) type Contents = BTreeMap<OsString, Option<Vec<u8>>>;

/// The end of a command that kept the promises of all commands.
#[derive(Debug, PartialEq)]
pub(crate) enum Ended {
    Done,
    Refused,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), printed: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn contents(&self) -> Contents {
        let content = |path: PathBuf| if path.is_dir() { None } else { Some(fs::read(path).unwrap()) };
        let entries = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| (entry.file_name(), content(entry.path()))).collect()
    }

    /// Runs the executable with these arguments, in this folder.
    pub(crate) fn command(&self, trial: &mut Trial, args: &[OsString]) -> Ended {
        trial.keep("command.txt", format!("batchnorm {args:?}\n").as_bytes());
        let before = self.contents();
        let (out, err) = (self.printed.path().join("out"), self.printed.path().join("err"));
        let on_device = args.iter().any(|word| word.to_string_lossy().contains("cuda"));
        let memory = if on_device { "unlimited".to_owned() } else { MEMORY.to_string() };
        let mut command = Command::new("sh");
        let script = format!("ulimit -c 0; ulimit -v {memory}; exec \"$0\" \"$@\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_batchnorm")]);
        command.args(args).current_dir(self.path()).env("RAYON_NUM_THREADS", trial.rng.u8(1..5).to_string());
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        let code = in_time(command);
        let (out, err) = (fs::read(&out).unwrap(), fs::read(&err).unwrap());
        trial.keep("stderr.txt", &err);
        match code {
            Some(0) => {
                assert!(err.is_empty(), "exit code 0: expected nothing on stderr, got {}", err.escape_ascii());
                Ended::Done
            }
            Some(2) => {
                assert!(out.is_empty(), "exit code 2: expected nothing on stdout, got {}", out.escape_ascii());
                assert_one_line(&err);
                assert!(
                    self.contents() == before,
                    "exit code 2: expected files as they were, got {}",
                    told(&self.contents())
                );
                Ended::Refused
            }
            // 1 would say that a check has failed, and all of them hold.
            code => panic!("expected exit code 0 or 2, got {code:?}, stderr {}", err.escape_ascii()),
        }
    }
}

/// The exit code of a command; `None` where a signal ended it.
fn in_time(mut command: Command) -> Option<i32> {
    let (mut child, start) = (command.spawn().unwrap(), Instant::now());
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("hung: expected an end within {PATIENCE:?}");
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

fn assert_one_line(err: &[u8]) {
    let text = std::str::from_utf8(err).unwrap_or_else(|_| panic!("expected UTF-8, got {}", err.escape_ascii()));
    let line = text.strip_prefix("batchnorm: ").and_then(|text| text.strip_suffix('\n'));
    let line = line.unwrap_or_else(|| panic!("expected a line that begins with batchnorm: , got {text:?}"));
    assert!(!line.is_empty() && !line.contains(char::is_control), "expected one line of words, got {text:?}");
}

/// The names in a folder with their sizes.
pub(crate) fn told(contents: &Contents) -> String {
    let each = contents.iter().map(|(name, content)| format!("{name:?}: {:?} bytes", content.as_ref().map(Vec::len)));
    each.collect::<Vec<_>>().join(", ")
}

//! The process of the peers, which answers one line of JSON with one line.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use batchnorm::bench::PEERS;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ending;

/// Characters of the process's last words on stderr that become part of the reason when it ends.
const TOLD: usize = 300;
/// Time for an answer that is on its way at the end of the time.
const LEAST: Duration = Duration::from_secs(2);

/// The process. Once it has ended, or did not answer in time, that is the answer to everything.
pub(super) struct Process {
    child: Child,
    input: ChildStdin,
    lines: Receiver<io::Result<String>>,
    gone: Option<String>,
    /// The end of the time, beyond which no answer is waited for.
    until: Option<Instant>,
    stderr: PathBuf,
    /// The folder of its files, which lives as long as it does.
    _folder: TempDir,
}

impl Process {
    /// Starts it by a command that is given the folder of its files, and waits for its first line.
    pub(super) fn start(
        program: &Path,
        command: impl FnOnce(&Path) -> Command,
        limit: Duration,
        until: Option<Instant>,
    ) -> Result<(Self, Value), String> {
        let told = |error: io::Error| format!("{}: {error}", program.display());
        let folder = ending::temporary(tempfile::tempdir, TempDir::path).map_err(told)?;
        for (name, text) in PEERS {
            fs::write(folder.path().join(name), text).map_err(told)?;
        }
        let stderr = folder.path().join("stderr.txt");
        // A library's messages would break the bar of progress.
        let mut command = command(folder.path());
        command.stderr(File::create(&stderr).map_err(told)?).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(told)?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else { return Err("no pipes".into()) };
        let (sender, lines) = mpsc::channel();
        // Ends with the process, or with whoever would have read on.
        let pass_on = move || BufReader::new(output).lines().try_for_each(|line| sender.send(line));
        let reader = thread::Builder::new().spawn(pass_on);
        let mut process = Self { child, input, lines, gone: None, until, stderr, _folder: folder };
        reader.map_err(|error| process.end(&format!("expected a thread to read its answers, got {error}")))?;
        let said = process.read(limit)?;
        Ok((process, said))
    }

    /// Its answer, or the reason that it gives or that there is none.
    pub(super) fn ask(&mut self, request: &Value, limit: Duration) -> Result<Value, String> {
        if let Some(reason) = &self.gone {
            return Err(reason.clone());
        }
        // Reading reports a process that is gone.
        let _ = writeln!(self.input, "{request}").and_then(|()| self.input.flush());
        self.read(limit)
    }

    fn read(&mut self, limit: Duration) -> Result<Value, String> {
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()).max(LEAST));
        let limit = left.map_or(limit, |left| limit.min(left));
        let line = match self.lines.recv_timeout(limit) {
            Ok(Ok(line)) => line,
            Ok(Err(error)) => return Err(self.end(&format!("expected a line, got {error}"))),
            Err(RecvTimeoutError::Disconnected) => return Err(self.end("it ended")),
            Err(RecvTimeoutError::Timeout) => {
                return Err(self.end(&format!("expected an answer within {} seconds", limit.as_secs_f64())));
            }
        };
        match serde_json::from_str::<Value>(&line) {
            Ok(said) => said["reason"].as_str().map_or_else(|| Ok(said.clone()), |reason| Err(reason.into())),
            Err(error) => Err(self.end(&format!("expected JSON ({error}), got {line:?}"))),
        }
    }

    /// Ends it, and says why in all later answers too: with the last of what it wrote to stderr.
    fn end(&mut self, why: &str) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let text = fs::read(&self.stderr).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" ");
        let skipped = text.chars().count().saturating_sub(TOLD);
        let tail: String = text.chars().skip(skipped).collect();
        let tail = if tail.is_empty() { tail } else { format!("; its last words: {tail}") };
        let reason = format!("the process of the peers: {why}{tail}");
        self.gone = Some(reason.clone());
        reason
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = writeln!(self.input, "{}", json!({ "request": "end" }));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// A shell instead of Python.
    fn started(script: &str) -> Result<(Process, Value), String> {
        let command = |_: &Path| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        Process::start(Path::new("sh"), command, Duration::from_secs(20), None)
    }

    #[test]
    fn a_process_that_dies_is_quoted() {
        let (mut process, said) =
            started("echo '{\"a\": 1}'; read line; echo \"no  such\nkernel\" >&2; exit 3").unwrap();
        assert_eq!(said["a"], 1);
        for _ in 0..2 {
            let reason = process.ask(&json!({}), Duration::from_secs(20)).unwrap_err();
            assert_eq!(reason, "the process of the peers: it ended; its last words: no such kernel");
        }
        let reason = started("echo first >&2; exit 1").err().unwrap();
        assert!(reason.ends_with("it ended; its last words: first"), "{reason}");
    }

    #[test]
    fn a_process_that_is_silent_is_ended() {
        let (mut process, _) = started("echo '{}'; exec sleep 1000").unwrap();
        let begin = Instant::now();
        let reason = process.ask(&json!({}), Duration::from_millis(50)).unwrap_err();
        assert_eq!(reason, "the process of the peers: expected an answer within 0.05 seconds");
        assert_eq!(process.ask(&json!({}), Duration::from_secs(1000)).unwrap_err(), reason);
        assert!(begin.elapsed() < Duration::from_secs(100) && process.child.try_wait().unwrap().is_some());
    }

    #[test]
    fn a_reason_ends_nothing() {
        let script = "echo '{}'; read line; echo '{\"reason\": \"no\"}'; read line; echo '{\"ok\": true}'; read line";
        let (mut process, _) = started(script).unwrap();
        assert_eq!(process.ask(&json!({}), Duration::from_secs(20)).unwrap_err(), "no");
        assert_eq!(process.ask(&json!({}), Duration::from_secs(20)).unwrap()["ok"], true);
    }
}

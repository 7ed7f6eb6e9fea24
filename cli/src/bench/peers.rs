//! Peers in Python: a process that is asked row by row, so that they are measured in turns with what is measured here.

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;

use batchnorm::bench::{PEERS, Row};
use serde_json::{Value, json};

use super::subject::{Samples, Subject, Way};
use super::{Args, Task};
use crate::device::Device;

/// The peers that answered, and those that did not with the reason.
pub(super) struct Peers {
    process: Option<Rc<RefCell<Process>>>,
    /// Of the process: name, and what its time includes or why it is not there.
    found: Vec<(String, Result<String, String>)>,
    /// What the process said of itself, or why there is none.
    pub(super) said: Value,
}

impl Peers {
    /// Starts the process, unless none is wanted.
    pub(super) fn start(args: &Args) -> Self {
        if args.no_python {
            return Self { process: None, found: Vec::new(), said: json!({ "reason": "--no-python" }) };
        }
        match Process::start(args) {
            Ok((process, said)) => {
                let found = said["peers"].as_array().into_iter().flatten().map(|peer| {
                    let text = |key: &str| peer[key].as_str().map(String::from);
                    let includes = text("reason").map_or_else(|| Ok(text("includes").unwrap_or_default()), Err);
                    (text("name").unwrap_or_default(), includes)
                });
                let is_wanted = |name: &String| args.peer.is_empty() || args.peer.contains(name);
                let found = found.filter(|(name, _)| is_wanted(name));
                Self { found: found.collect(), process: Some(Rc::new(RefCell::new(process))), said }
            }
            Err(reason) => Self { process: None, found: Vec::new(), said: json!({ "reason": reason }) },
        }
    }

    /// Every peer on this task; a row that the process cannot take is every peer's reason.
    pub(super) fn subjects(&mut self, task: &Task) -> Vec<Box<dyn Subject>> {
        let Some(process) = &self.process else { return Vec::new() };
        let row = process.borrow_mut().ask(&request(&task.row)).and_then(answer);
        let subject = |(name, includes): &(String, Result<String, String>)| {
            let reason = includes.as_ref().err().or(row.as_ref().err()).cloned();
            let includes = includes.clone().unwrap_or_default();
            let (name, operation, process) = (name.clone(), task.operation.name(), Rc::clone(process));
            Box::new(Peer { name, includes, operation, process, reason }) as Box<dyn Subject>
        };
        self.found.iter().map(subject).collect()
    }
}

fn request(row: &Row) -> Value {
    let shape = row.shape;
    let spatial = match shape.layout() {
        batchnorm::Layout::ChannelsFirst => &shape.dims()[2..],
        batchnorm::Layout::ChannelsLast => &shape.dims()[1..shape.dims().len() - 1],
    };
    json!({
        "request": "row",
        "n": shape.n(),
        "c": shape.c(),
        "spatial": spatial,
        "layout": shape.layout().to_string(),
        "dtype": row.dtype.to_string(),
        "offset": row.offset,
    })
}

/// An answer, or its reason.
fn answer(said: Value) -> Result<Value, String> {
    match said["reason"].as_str() {
        Some(reason) => Err(reason.into()),
        None => Ok(said),
    }
}

struct Peer {
    name: String,
    includes: String,
    operation: String,
    process: Rc<RefCell<Process>>,
    reason: Option<String>,
}

impl Subject for Peer {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn includes(&self) -> String {
        self.includes.clone()
    }
    fn measure(&mut self, seconds: f64) -> Result<Samples, String> {
        if let Some(reason) = &self.reason {
            return Err(reason.clone());
        }
        let request = json!({ "request": "time", "peer": self.name, "operation": self.operation, "seconds": seconds });
        let said = self.process.borrow_mut().ask(&request).and_then(answer)?;
        let ways = [("samples", Way::Call), ("graph", Way::Graph), ("eager", Way::Eager), ("host", Way::Host)];
        let of_way = |(key, way): (&str, Way)| {
            let samples: Vec<f64> = said[key].as_array()?.iter().filter_map(Value::as_f64).collect();
            Some((way, samples))
        };
        let samples: Samples = ways.into_iter().filter_map(of_way).filter(|(_, samples)| !samples.is_empty()).collect();
        if samples.is_empty() { Err(format!("expected samples, got {said}")) } else { Ok(samples) }
    }
}

/// The process, which answers one line with one line.
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// The folder of its files, which lives as long as it does.
    _folder: tempfile::TempDir,
}

impl Process {
    /// The process, and its first line.
    fn start(args: &Args) -> Result<(Self, Value), String> {
        let told = |error: std::io::Error| format!("{}: {error}", args.python.display());
        let folder = tempfile::tempdir().map_err(told)?;
        for (name, text) in PEERS {
            fs::write(folder.path().join(name), text).map_err(told)?;
        }
        let device = match args.device {
            Device::Cpu => "cpu".to_owned(),
            Device::Cuda(_) => "cuda".to_owned(),
        };
        let mut command = Command::new(&args.python);
        command.arg(folder.path().join("peers.py")).args(["--serve", "--device", &device]);
        command.args(["--threads", &rayon::current_num_threads().to_string()]);
        if let Device::Cuda(number) = args.device {
            command.env("CUDA_VISIBLE_DEVICES", number.to_string());
        }
        // What a library has to say would break the bar of progress.
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(told)?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else { return Err("no pipes".into()) };
        let mut process = Self { child, input, output: BufReader::new(output), _folder: folder };
        let said = process.read().and_then(answer)?;
        Ok((process, said))
    }

    fn ask(&mut self, request: &Value) -> Result<Value, String> {
        let gone = |error: std::io::Error| format!("the process of the peers is gone: {error}");
        writeln!(self.input, "{request}").and_then(|()| self.input.flush()).map_err(gone)?;
        self.read()
    }

    fn read(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(0) => Err("the process of the peers ended".into()),
            Ok(_) => serde_json::from_str(&line).map_err(|error| format!("expected JSON ({error}), got {line:?}")),
            Err(error) => Err(format!("the process of the peers is gone: {error}")),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = writeln!(self.input, "{}", json!({ "request": "end" }));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! Peers in Python: a process that is asked row by row, so that they are measured in turns with what is measured here.

mod process;

use std::cell::RefCell;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use batchnorm::Cpu;
use batchnorm::bench::{PEER_NAMES, Row};
use serde_json::{Value, json};

use super::subject::{Reason, Samples, Subject, Way};
use super::{Args, Task};
use crate::device::Device;
use crate::failure::Failure;
use process::Process;

/// The name of cuDNN's peers, which are measured without Python.
const CUDNN: &str = "cudnn";
/// Time in which the process must have imported what the peers need; a third of `--within` at most, so that time is left for
/// what is measured here.
const START: Duration = Duration::from_secs(180);
/// Time in which it must answer, on top of the seconds that it is to measure.
const ANSWER: Duration = Duration::from_secs(60);

/// The peers that are asked for.
pub(super) struct Wanted {
    python: Vec<&'static str>,
    pub(super) cudnn: bool,
    /// Whether they were named, so that the absence of each is worth a word.
    are_named: bool,
}

impl Wanted {
    /// The peers of these names, all of them if there is none.
    pub(super) fn new(asked: &[String]) -> Result<Self, Failure> {
        let is_known = |name: &&String| PEER_NAMES.contains(&name.as_str()) || name.as_str() == CUDNN;
        if let Some(unknown) = asked.iter().find(|name| !is_known(name)) {
            let known = PEER_NAMES.join(", ");
            return Err(Failure::new(format!("--peer: expected one of {known}, {CUDNN}, got \"{unknown}\"")));
        }
        let is_asked = |name: &str| asked.is_empty() || asked.iter().any(|asked| asked == name);
        Ok(Self {
            python: PEER_NAMES.into_iter().filter(|name| is_asked(name)).collect(),
            cudnn: is_asked(CUDNN),
            are_named: !asked.is_empty(),
        })
    }
}

/// The peers that answered, and those that did not with the reason.
pub(super) struct Peers {
    process: Option<Rc<RefCell<Process>>>,
    /// Name of each peer, and what its time includes or why it is not there.
    found: Vec<(String, Result<String, String>)>,
    /// The process's answer about itself, or the reason why there is no process.
    pub(super) said: Value,
}

impl Peers {
    /// Starts the process, unless nobody asks for what it measures.
    pub(super) fn start(args: &Args, wanted: &Wanted, began: Instant) -> Self {
        let mut found: Vec<(String, Result<String, String>)> = Vec::new();
        if wanted.cudnn && wanted.are_named && (args.device == Device::Cpu || !cfg!(feature = "cudnn")) {
            let reason = if args.device == Device::Cpu { "it needs a CUDA device" } else { "not in this build" };
            found.push((CUDNN.into(), Err(reason.into())));
        }
        let without = |reason: &str, found| Self { process: None, found, said: json!({ "reason": reason }) };
        if args.no_python {
            return without("--no-python", found);
        }
        if wanted.python.is_empty() {
            return without("not asked for by --peer", found);
        }
        let until = args.within.and_then(|within| began.checked_add(Duration::from_secs(within)));
        let patience = args.within.map_or(START, |within| START.min(Duration::from_secs(within.div_ceil(3))));
        match Process::start(&args.python, |folder| command(args, wanted, folder), patience, until) {
            Ok((process, said)) => {
                found.extend(said["peers"].as_array().into_iter().flatten().map(|peer| {
                    let text = |key: &str| peer[key].as_str().map(String::from);
                    let includes = text("reason").map_or_else(|| Ok(text("includes").unwrap_or_default()), Err);
                    (text("name").unwrap_or_default(), includes)
                }));
                Self { found, process: Some(Rc::new(RefCell::new(process))), said }
            }
            Err(reason) => without(&reason, found),
        }
    }

    /// Every peer on this task; a row that the process cannot take is every peer's reason.
    pub(super) fn subjects(&mut self, task: &Task) -> Vec<Box<dyn Subject>> {
        let ask = |process: &Rc<RefCell<Process>>| process.borrow_mut().ask(&request(&task.row), ANSWER);
        let row = self.process.as_ref().map_or_else(|| Ok(Value::Null), ask);
        let subject = |(name, includes): &(String, Result<String, String>)| {
            let reason = includes.as_ref().err().or(row.as_ref().err()).cloned();
            let includes = includes.clone().unwrap_or_default();
            let (name, operation, process) = (name.clone(), task.operation.name(), self.process.clone());
            Box::new(Peer { name, includes, operation, process, reason }) as Box<dyn Subject>
        };
        self.found.iter().map(subject).collect()
    }
}

/// The program, whose files lie in this folder.
fn command(args: &Args, wanted: &Wanted, folder: &Path) -> Command {
    let device = match args.device {
        Device::Cpu => "cpu",
        Device::Cuda(_) => "cuda",
    };
    let mut command = Command::new(&args.python);
    command.arg(folder.join("peers.py")).args(["--device", device]);
    command.args(["--threads", &Cpu::threads().to_string()]);
    command.args(wanted.python.iter().flat_map(|name| ["--peer", name]));
    if let Device::Cuda(number) = args.device {
        command.env("CUDA_VISIBLE_DEVICES", number.to_string());
    }
    command
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

struct Peer {
    name: String,
    includes: String,
    operation: String,
    process: Option<Rc<RefCell<Process>>>,
    reason: Option<String>,
}

impl Subject for Peer {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn includes(&self) -> String {
        self.includes.clone()
    }
    fn measure(&mut self, seconds: f64) -> Result<Samples, Reason> {
        if let Some(reason) = &self.reason {
            return Err(reason.clone().into());
        }
        let Some(process) = &self.process else { return Err("no process".to_owned().into()) };
        let request = json!({ "request": "time", "peer": self.name, "operation": self.operation, "seconds": seconds });
        // Each way to time takes so long, and each is warmed up.
        let limit = ANSWER + Duration::from_secs_f64(4.0 * seconds);
        let said = process.borrow_mut().ask(&request, limit)?;
        let ways = [("samples", Way::Call), ("graph", Way::Graph), ("eager", Way::Eager), ("host", Way::Host)];
        let of_way = |(key, way): (&str, Way)| {
            let samples: Vec<f64> = said[key].as_array()?.iter().filter_map(Value::as_f64).collect();
            Some((way, samples))
        };
        let samples: Samples = ways.into_iter().filter_map(of_way).filter(|(_, samples)| !samples.is_empty()).collect();
        if samples.is_empty() { Err(format!("expected samples, got {said}").into()) } else { Ok(samples) }
    }
}

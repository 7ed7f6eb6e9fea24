//! `batchnorm bench`: how long operations take, beside the least that they could and beside their peers.
//!
//! Everything that is compared is measured in one run, in turns: what comes first in one round comes last in the next.
//! Nothing is timed before it was held against the CPU path.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cudnn")]
mod cudnn;
mod machine;
mod measured;
mod peers;
mod plot;
#[cfg(feature = "cuda")]
mod probes;
mod report;
mod subject;
#[cfg(feature = "cuda")]
mod timing;

use std::path::PathBuf;
use std::time::Instant;

use batchnorm::Dtype;
use batchnorm::bench::{Operation, Row, rows};
use half::{bf16, f16};
use indicatif::{ProgressBar, ProgressStyle};

use crate::device::Device;
use crate::failure::Failure;
use crate::output::{self, Pending};
use measured::Measured;
use peers::Peers;
use report::Report;
use subject::Subject;

/// Options of `batchnorm bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to measure: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// The shapes: resnet50, mlp, volumes or edge; all of them by default
    #[arg(long, value_name = "NAME")]
    suite: Vec<String>,
    /// Only rows that contain all of these words, such as "stage1 f16 channels-last n=32 train"
    #[arg(long, value_name = "WORDS", default_value = "")]
    filter: String,
    /// Only these operations, such as train or backward-add-relu
    #[arg(long, value_name = "NAME")]
    operation: Vec<String>,
    /// Only these of the peers in Python, such as torch
    #[arg(long, value_name = "NAME")]
    peer: Vec<String>,
    /// The seconds that each subject is timed for on each row
    #[arg(long, default_value = "0.2", value_parser = seconds, allow_hyphen_values = true)]
    seconds: f64,
    /// Begin no row after so many seconds
    #[arg(long, value_name = "SECONDS")]
    within: Option<u64>,
    /// Leave out rows whose x has more bytes; without it the CPU's limit is 2^28, a GPU's its memory
    #[arg(long, value_name = "BYTES")]
    limit_bytes: Option<usize>,
    /// The Python interpreter that has the peers, such as that of a virtual environment
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: PathBuf,
    /// Measure no peers in Python
    #[arg(long)]
    no_python: bool,
    /// Write all samples, with what they were taken on, to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw time against bytes into this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| (0.001..=60.0).contains(seconds));
    seconds.ok_or_else(|| "expected seconds from 0.001 to 60".into())
}

/// The bytes of x up to which the CPU is measured by default.
const CPU_LIMIT: usize = 1 << 28;

/// One row and one operation on it.
struct Task {
    row: Row,
    operation: Operation,
}

impl Task {
    /// Such as `resnet50/stage1 n=32 c=64 s=3136 channels-first f16 train`.
    fn name(&self) -> String {
        let Self { row: Row { suite, name, shape, dtype, .. }, operation } = self;
        let (n, c, s) = (shape.n(), shape.c(), shape.s());
        format!("{suite}/{name} n={n} c={c} s={s} {} {dtype} {}", shape.layout(), operation.name())
    }
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let tasks = tasks(args)?;
    let (json, plot) = (args.json.as_deref().map(Pending::new), args.plot.as_deref().map(Pending::new));
    let (json, plot) = (json.transpose()?, plot.transpose()?);
    let mut report = Report::new(args.device, args.seconds)?;
    let mut peers = Peers::start(args);
    report.peers = peers.said.clone();
    match args.device {
        Device::Cpu => {
            let limit = args.limit_bytes.unwrap_or(CPU_LIMIT);
            measure_all(args, limit, &tasks, &mut peers, &mut report, |task| match task.row.dtype {
                Dtype::F16 => cpu::subjects::<f16>(task),
                Dtype::Bf16 => cpu::subjects::<bf16>(task),
                _ => cpu::subjects::<f32>(task),
            });
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(number) => {
            let bench = cuda::Bench::new(number)?;
            if let Some(text) = bench.emulated()? {
                return output::print(&text);
            }
            report.probes = bench.probes(args.seconds);
            let limit = args.limit_bytes.unwrap_or(usize::MAX);
            measure_all(args, limit, &tasks, &mut peers, &mut report, |task| match task.row.dtype {
                Dtype::F16 => bench.subjects::<f16>(task),
                Dtype::Bf16 => bench.subjects::<bf16>(task),
                _ => bench.subjects::<f32>(task),
            });
        }
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => return Err(args.device.not_built()),
    }
    // The files first: a closed stdout must not cost an hour's measurements.
    if let Some(json) = json {
        json.keep(&format!("{:#}\n", report.to_json()))?;
    }
    if let Some(plot) = plot {
        plot.keep(&plot::svg(&report).map_err(Failure::new)?)?;
    }
    output::print(&report.to_text())
}

/// What is to be measured.
fn tasks(args: &Args) -> Result<Vec<Task>, Failure> {
    let rows = rows().map_err(|error| Failure::new(format!("benches/suites.json: {error}")))?;
    let mut names: Vec<&str> = rows.iter().map(|row| row.suite.as_str()).collect();
    names.dedup();
    if let Some(unknown) = args.suite.iter().find(|suite| !names.contains(&suite.as_str())) {
        return Err(Failure::new(format!("--suite: expected one of {}, got \"{unknown}\"", names.join(", "))));
    }
    let operations = Operation::ALL.map(Operation::name);
    if let Some(unknown) = args.operation.iter().find(|name| !operations.contains(name)) {
        let operations = operations.join(", ");
        return Err(Failure::new(format!("--operation: expected one of {operations}, got \"{unknown}\"")));
    }
    let words: Vec<&str> = args.filter.split_whitespace().collect();
    let wanted = |task: &Task| {
        let name = task.name();
        let (path, _) = name.split_once(' ').unwrap_or((&name, ""));
        // A word is one of the name's, or a part of its path: "train" is not "train-relu".
        let is_asked = args.operation.is_empty() || args.operation.contains(&task.operation.name());
        is_asked && words.iter().all(|word| name.split(' ').any(|part| part == *word) || path.contains(word))
    };
    let rows = rows.iter().filter(|row| args.suite.is_empty() || args.suite.contains(&row.suite));
    let of_row = |row: &Row| Operation::ALL.map(|operation| Task { row: row.clone(), operation });
    let tasks: Vec<Task> = rows.flat_map(of_row).filter(wanted).collect();
    match tasks.is_empty() {
        true => Err(Failure::new(format!("--filter: expected words of a row's name, got \"{}\"", args.filter))),
        false => Ok(tasks),
    }
}

/// Measures task after task, ours and the peers in Python, with a bar of progress.
fn measure_all(
    args: &Args,
    limit: usize,
    tasks: &[Task],
    peers: &mut Peers,
    report: &mut Report,
    ours: impl Fn(&Task) -> Result<Vec<Box<dyn Subject>>, String>,
) {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}").unwrap_or(ProgressStyle::default_bar());
    let progress = ProgressBar::new(tasks.len() as u64).with_style(style);
    let begin = Instant::now();
    let mut measure = |task: &Task| {
        let bytes = task.row.bytes();
        if bytes > limit {
            return Err(format!("x has {bytes} bytes, more than --limit-bytes {limit}"));
        }
        if let Some(within) = args.within.filter(|&within| begin.elapsed().as_secs() >= within) {
            return Err(format!("not reached --within {within} seconds"));
        }
        let mut subjects = ours(task)?;
        subjects.extend(peers.subjects(task));
        Ok(subject::in_turns(&mut subjects, args.seconds))
    };
    for task in tasks {
        progress.set_message(task.name());
        let before = machine::clocks(args.device);
        let outcomes = measure(task);
        report.push(Measured::new(task, outcomes, [before, machine::clocks(args.device)]));
        progress.inc(1);
    }
    progress.finish_and_clear();
}

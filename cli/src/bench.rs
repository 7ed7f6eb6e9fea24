//! `batchnorm bench`: the times of operations, of the least that they could take, and of their peers.
//!
//! Everything that is compared is measured in one run, in turns: what comes first in one round comes last in the next.
//! Nothing is timed before it was compared with the CPU path. Results are written as they become known: a journal
//! line before and behind each turn, a line of the table and the JSON anew after each task.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cudnn")]
mod cudnn;
mod machine;
mod measured;
#[cfg(feature = "cuda")]
mod ours;
mod peers;
mod plot;
#[cfg(feature = "cuda")]
mod probes;
mod report;
mod subject;
mod tasks;
#[cfg(feature = "cuda")]
mod timing;

use std::path::PathBuf;
use std::time::Instant;

use batchnorm::verify::Journal;
use batchnorm::with_device_element;
use indicatif::{ProgressBar, ProgressStyle};

use crate::choices::Strategy;
use crate::device::Device;
use crate::failure::{Failure, one_line};
use crate::output::{self, Renewed};
#[cfg(feature = "cuda")]
pub(crate) use cuda::Bench;
use measured::Measured;
#[cfg(feature = "cuda")]
pub(crate) use measured::way_of;
#[cfg(feature = "cuda")]
pub(crate) use ours::Ours;
use peers::{Peers, Wanted};
use report::Report;
#[cfg(feature = "cuda")]
pub(crate) use report::samples_json;
#[cfg(feature = "cuda")]
pub(crate) use subject::{Samples, Summary};
pub(crate) use subject::{Subject, Turns};
use tasks::tasks;
pub(crate) use tasks::{Task, suites};

/// Options of `batchnorm bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Device to measure: cpu, cuda or cuda:N
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
    /// Ours on a GPU by these strategies; by default the planner's choice and each strategy forced
    #[arg(long, value_enum, value_name = "NAME")]
    strategy: Vec<Strategy>,
    /// Only these peers, such as torch, or cudnn as it is called without Python; all of them by default
    #[arg(long, value_name = "NAME")]
    peer: Vec<String>,
    /// The seconds that each subject is timed for on each row
    #[arg(long, default_value = "0.2", value_parser = seconds, allow_hyphen_values = true)]
    seconds: f64,
    /// Begin no operation on a row after so many seconds, counted from the start of the process
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
    /// Leave out what a GPU can do at best, which is measured once before the rows and goes into the JSON
    #[arg(long)]
    no_probes: bool,
    /// Write a line to this file before and behind each turn of a subject: what has a beginning and no end is what hangs
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Write all samples, with what they were taken on, to this file too, anew after each operation on a row
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw time against bytes into this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// `--seconds`.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| (0.001..=60.0).contains(seconds));
    seconds.ok_or_else(|| "expected seconds from 0.001 to 60".into())
}

/// The bytes of x up to which the CPU is measured by default.
const CPU_LIMIT: usize = 1 << 28;
/// Rows are of the dtypes that every device computes.
pub(crate) const NO_F64: &str = "expected a row of f32, f16 or bf16, got f64";

/// Whether everything of ours that was measured is right, and the device was not lost.
pub(crate) fn run(args: &Args, began: Instant) -> Result<bool, Failure> {
    let tasks = tasks(args)?;
    let wanted = Wanted::new(&args.peer)?;
    args.journal.as_deref().map(output::expect_journal).transpose()?;
    output::expect_distinct(&[
        ("--journal", args.journal.as_deref()),
        ("--json", args.json.as_deref()),
        ("--plot", args.plot.as_deref()),
    ])?;
    let files = Files {
        json: args.json.as_deref().map(Renewed::new).transpose()?,
        plot: args.plot.as_deref().map(Renewed::new).transpose()?,
    };
    // The journal is opened behind all that may be refused, since it is empty from then on.
    let journal = || match &args.journal {
        Some(path) => Journal::new(began).into_file(path).map_err(|error| Failure::new(format!("--journal: {error}"))),
        None => Ok(Journal::new(began)),
    };
    match args.device {
        Device::Cpu => {
            if let Some(other) = args.strategy.iter().find(|&&strategy| strategy != Strategy::Auto) {
                return Err(other.refused("auto on the CPU"));
            }
            let report = Report::new(args.device, machine::processor(), args.seconds);
            let limit = args.limit_bytes.unwrap_or(CPU_LIMIT);
            let run = Run { args, began, tasks: &tasks, wanted: &wanted, journal: &journal()?, files };
            run.measure_all(
                limit,
                report,
                &|| false,
                |task| with_device_element!(task.row.dtype, T => cpu::subjects::<T>(task), f64 => Err(NO_F64.into())),
            )
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(number) => {
            let bench = cuda::Bench::new(number, &args.strategy, wanted.cudnn)?;
            let mut report = Report::new(args.device, bench.name()?, args.seconds);
            let run = Run { args, began, tasks: &tasks, wanted: &wanted, journal: &journal()?, files };
            (report.is_timed, report.limits) = (bench.is_timed(), bench.limits());
            if !args.no_probes {
                run.files.keep(&report);
                report.probes = bench.probes(args.seconds, run.journal, &|| run.late());
            }
            let limit = args.limit_bytes.unwrap_or(bench.default_limit());
            run.measure_all(
                limit,
                report,
                &|| bench.is_lost(),
                |task| with_device_element!(task.row.dtype, T => bench.subjects::<T>(task), f64 => Err(NO_F64.into())),
            )
        }
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => Err(args.device.not_built()),
    }
}

/// The files that a report is written to.
struct Files<'a> {
    json: Option<Renewed<'a>>,
    plot: Option<Renewed<'a>>,
}

impl Files<'_> {
    /// Writes the JSON as far as it is. What fails now may not at the end, and the rest is worth knowing without it.
    fn keep(&self, report: &Report) {
        if let Some(json) = &self.json {
            let _ = json.write(&report.to_json());
        }
    }

    fn finish(&self, report: &Report) -> Result<(), Failure> {
        if let Some(json) = &self.json {
            json.write(&report.to_json())?;
        }
        match &self.plot {
            Some(plot) => plot.write(&plot::svg(report).map_err(Failure::new)?),
            None => Ok(()),
        }
    }
}

/// The options of a run.
struct Run<'a> {
    args: &'a Args,
    began: Instant,
    tasks: &'a [Task],
    wanted: &'a Wanted,
    journal: &'a Journal,
    files: Files<'a>,
}

impl Run<'_> {
    /// Measures task after task, ours and the peers in Python, with a bar of progress. `is_lost` says whether the device is.
    fn measure_all(
        &self,
        limit: usize,
        mut report: Report,
        is_lost: &dyn Fn() -> bool,
        ours: impl Fn(&Task) -> Result<Vec<Box<dyn Subject>>, String>,
    ) -> Result<bool, Failure> {
        let Self { args, tasks, journal, files, .. } = self;
        files.keep(&report);
        let mut peers = Peers::start(args, self.wanted, self.began);
        report.peers = peers.said.clone();
        report.lost = journal.lost().cloned();
        report.width = tasks.iter().map(|task| task.name().len()).max().unwrap_or(0);
        files.keep(&report);

        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}").unwrap_or(ProgressStyle::default_bar());
        let progress = ProgressBar::new(tasks.len() as u64).with_style(style);
        // The reader of the lines may be gone; the files are not.
        let say = |text: &str| progress.suspend(|| drop(output::print(text)));
        say(&report.head());
        for task in *tasks {
            progress.set_message(task.name());
            if let Some(reason) = self.reason_to_leave_out(task, limit) {
                report.push(Measured::left_out(task, reason));
                progress.inc(1);
                continue;
            }
            let before = machine::clocks(args.device);
            let outcomes = ours(task).map(|mut subjects| {
                let what = task.name();
                // They are asked for the row first, and may not answer.
                let asked = journal.run("peers", "no plan", &what, || peers.subjects(task), |_| None);
                subjects.extend(asked.into_iter().flatten());
                let turns = Turns { journal, what: &what, is_timed: report.is_timed, is_lost };
                turns.measure(&mut subjects, args.seconds)
            });
            let measured = Measured::new(task, outcomes, [before, machine::clocks(args.device)]);
            say(&report.line(&measured));
            report.push(measured);
            report.lost = journal.lost().cloned();
            files.keep(&report);
            progress.inc(1);
        }
        progress.finish_and_clear();
        report.is_complete = true;
        // The files first: a closed stdout must not cost an hour's measurements.
        let finished = files.finish(&report);
        output::print(&report.to_text())?;
        finished?;
        match journal.broken() {
            Some(error) => Err(Failure::new(format!("--journal: lines are missing: {}", one_line(error)))),
            None => Ok(report.lost.is_none() && !report.is_wrong()),
        }
    }

    fn reason_to_leave_out(&self, task: &Task, limit: usize) -> Option<String> {
        let bytes = task.row.bytes();
        if self.journal.lost().is_some() {
            return Some("not reached: the device was lost".into());
        }
        if bytes > limit {
            return Some(format!("x has {bytes} bytes, more than --limit-bytes {limit}"));
        }
        self.late()
    }

    /// The reason why nothing more may begin, if the time is over.
    fn late(&self) -> Option<String> {
        let within = self.args.within.filter(|&within| self.began.elapsed().as_secs() >= within);
        within.map(|within| format!("not reached --within {within} seconds"))
    }
}

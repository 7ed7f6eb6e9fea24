//! `batchnorm verify`: every case of the library's table against the f64 oracle, on a CUDA device under every strategy.
//!
//! Results are written as they become known: a journal line before and behind each launch, the JSON anew after each
//! group of cases.

mod report;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use batchnorm::Cpu;
use batchnorm::verify::{Group, Journal, Verified, thinned};
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;

use crate::choices::Strategy;
#[cfg(feature = "cuda")]
use crate::device;
use crate::device::Device;
use crate::failure::Failure;
use crate::output::{self, Renewed};
use crate::threads;
use report::Tally;

/// One group in so many on an emulated device, which takes hours for what a GPU does in a minute.
#[cfg(feature = "cuda")]
const EMULATED_EVERY: usize = 37;

/// Options of `batchnorm verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Device to compute on: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Only these strategies of a CUDA device; all of them by default
    #[arg(long, value_enum, value_name = "NAME")]
    strategy: Vec<Strategy>,
    /// One group of cases in so many, and of the large ones one in sixteen of these
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    every: Option<u32>,
    /// Begin no case after so many seconds, counted from the start of the process
    #[arg(long, value_name = "SECONDS")]
    within: Option<u64>,
    /// Write a line to this file before and behind each launch: what has a beginning and no end is what hangs
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Write the table and the failures to this file too, anew after each group of cases
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Whether every case passed that was reached.
pub(crate) fn run(args: &Args, began: Instant) -> Result<bool, Failure> {
    let journal = Journal::new(began).within(args.within.map(Duration::from_secs));
    match args.device {
        Device::Cpu => {
            if let Some(other) = args.strategy.iter().find(|&&strategy| strategy != Strategy::Auto) {
                return Err(other.refused("auto on the CPU"));
            }
            hold(args, journal, &[Cpu], 1, String::new())
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(number) => {
            let cuda = device::cuda(number)?;
            let name = cuda.name()?;
            let is_emulated = device::is_emulated(&name);
            // A context that is lost tells whoever asks next. On an emulated device that is the launch's own thread.
            let journal = if is_emulated { journal } else { journal.one_at_a_time() };
            let every = if is_emulated { EMULATED_EVERY } else { 1 };
            let backends: Vec<_> = Strategy::all_or(&args.strategy)
                .into_iter()
                .map(|strategy| cuda.clone().with_strategy(strategy.forced()))
                .collect();
            hold(args, journal, &backends, every, name)
        }
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => Err(args.device.not_built()),
    }
}

/// Checks the backends by the table, of which `every` says how much is gone through by default.
fn hold<B: Verified>(
    args: &Args,
    journal: Journal,
    backends: &[B],
    every: usize,
    model: String,
) -> Result<bool, Failure> {
    args.journal.as_deref().map(output::expect_journal).transpose()?;
    output::expect_distinct(&[("--journal", args.journal.as_deref()), ("--json", args.json.as_deref())])?;
    let json = args.json.as_deref().map(Renewed::new).transpose()?;
    // The journal is opened behind all that may be refused, since it is empty from here on.
    let journal = match &args.journal {
        Some(path) => journal.into_file(path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?,
        None => journal,
    };
    let every = args.every.map_or(every, |every| every as usize);
    let groups = thinned(every);
    let strategies = backends.iter().map(|backend| backend.strategy_name()).collect();
    let tally = Mutex::new(Tally::new(args.device, model, strategies, every, groups.len()));
    let locked = || tally.lock().unwrap_or_else(PoisonError::into_inner);
    let keep = |tally: &Tally| match &json {
        Some(json) => json.write(&format!("{:#}\n", tally.to_json(&journal))),
        None => Ok(()),
    };
    keep(&locked())?;

    let cases = |group: &Group| group.cases().len() as u64;
    let bar = ProgressBar::new(groups.iter().map(cases).sum());
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} cases, {elapsed} of about {duration} {msg}") {
        bar.set_style(style);
    }
    let hold = |group: &Group| {
        let reports = B::check_all(backends, &group.cases(), 0, &journal);
        bar.inc(cases(group));
        let mut tally = locked();
        tally.add(reports.unwrap_or_default());
        if tally.failed() > 0 {
            bar.set_message(format!("{} failed", tally.failed()));
        }
        // A disk that is full now may have room at the end, and the rest is worth knowing without it.
        let _ = keep(&tally);
    };
    threads::install(|| groups.par_iter().for_each(hold));
    bar.finish_and_clear();
    let tally = locked();
    let kept = keep(&tally);
    output::print(&tally.to_text(&journal))?;
    kept?;
    match journal.broken() {
        Some(error) => Err(Failure::new(format!("--journal: lines are missing: {error}"))),
        None => Ok(tally.failed() == 0),
    }
}

//! `batchnorm verify`: every case of the library's table against the f64 oracle.

use std::collections::BTreeMap;
use std::path::PathBuf;

use batchnorm::Cpu;
#[cfg(feature = "cuda")]
use batchnorm::verify::{Failure as CaseFailure, thinned};
use batchnorm::verify::{Group, Report, Verified, groups};
#[cfg(feature = "cuda")]
use batchnorm::{Error, Strategy};
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use serde_json::{Value, json};

#[cfg(feature = "cuda")]
use crate::device;
use crate::device::Device;
use crate::failure::{Failure, one_line};
use crate::output;

/// How many failures are shown; the JSON has all.
const SHOWN: usize = 10;

/// On an emulated device: one group in so many.
#[cfg(feature = "cuda")]
const EMULATED_EVERY: usize = 37;

/// Options of `batchnorm verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to compute: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Write the table and every failure to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One line of the table: the cases of one operation on one dtype.
#[derive(Default)]
struct Row {
    cases: usize,
    failed: usize,
    /// The largest error as a share of what is allowed.
    worst: f64,
}

/// Whether every case held.
pub(crate) fn run(args: &Args) -> Result<bool, Failure> {
    let (reports, note) = match args.device {
        Device::Cpu => (reports(&Cpu, &groups()), String::new()),
        #[cfg(feature = "cuda")]
        Device::Cuda(number) => cuda_reports(number)?,
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => return Err(args.device.not_built()),
    };
    let mut rows = BTreeMap::<(String, String), Row>::new();
    let mut failures = Vec::new();
    for Report { case, result } in &reports {
        let row = rows.entry((format!("{:?}", case.op), case.group.dtype.to_string())).or_default();
        row.cases += 1;
        match result {
            Ok(worst) => row.worst = row.worst.max(*worst),
            Err(failure) => {
                row.failed += 1;
                failures.push((case.to_string(), failure.to_string()));
            }
        }
    }
    if let Some(path) = &args.json {
        let text = format!("{:#}\n", to_json(args.device, reports.len(), &rows, &failures, &note));
        output::Pending::new(path)?.keep(&text)?;
    }
    output::print(&to_text(args.device, reports.len(), &rows, &failures, &note))?;
    Ok(failures.is_empty())
}

/// Runs every group, with a progress bar on stderr where that is a terminal.
fn reports<B: Verified>(backend: &B, groups: &[Group]) -> Vec<Report> {
    let cases = |group: &Group| group.cases().len() as u64;
    let bar = ProgressBar::new(groups.iter().map(cases).sum());
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} cases, {elapsed} of about {duration} {msg}") {
        bar.set_style(style);
    }
    let check = |group: &Group| {
        let reports = backend.check(group).unwrap_or_default();
        bar.inc(cases(group));
        reports
    };
    let reports = groups.par_iter().flat_map_iter(check).collect();
    bar.finish_and_clear();
    reports
}

/// The table under the planned strategy and under each forced one, where that can hold the case; with what there is to
/// say about it.
#[cfg(feature = "cuda")]
fn cuda_reports(number: usize) -> Result<(Vec<Report>, String), Failure> {
    let cuda = device::cuda(number)?;
    let name = cuda.name()?;
    // An emulated device takes hours for what a GPU does in a minute.
    let every = if device::is_emulated(&name) { EMULATED_EVERY } else { 1 };
    let groups = thinned(every);
    let strategies = Strategy::ALL.into_iter().map(Some).chain([None]);
    let of_strategy = |strategy| {
        let mut reports = reports(&cuda.clone().with_strategy(strategy), &groups);
        reports.retain(|report| {
            !matches!(&report.result, Err(CaseFailure::Refused(Error::Strategy { .. } | Error::NoStrategy { .. })))
        });
        reports
    };
    let reports = strategies.flat_map(of_strategy).collect();
    let thinning = if every > 1 {
        format!("; one group of cases in {every}, and of the large ones one in sixteen of these")
    } else {
        String::new()
    };
    let names = Strategy::ALL.map(Strategy::name).join(", ");
    Ok((reports, format!("{name}; strategies {names}, auto{thinning}")))
}

fn to_text(
    device: Device,
    cases: usize,
    rows: &BTreeMap<(String, String), Row>,
    failures: &[(String, String)],
    note: &str,
) -> String {
    let mut text =
        format!("{:<16} {:<6} {:>7} {:>7}  {}\n", "operation", "dtype", "cases", "failed", "largest error / allowed");
    for ((op, dtype), Row { cases, failed, worst }) in rows {
        text += &format!("{op:<16} {dtype:<6} {cases:>7} {failed:>7}  {worst:.3}\n");
    }
    for (case, failure) in failures.iter().take(SHOWN) {
        text += &format!("FAILED {}\n       {}\n", one_line(case), one_line(failure));
    }
    if failures.len() > SHOWN {
        text += &format!("and {} more failures\n", failures.len() - SHOWN);
    }
    if !note.is_empty() {
        text += &format!("{note}\n");
    }
    text + &format!("{cases} cases on {device} against the f64 oracle: {} failed\n", failures.len())
}

fn to_json(
    device: Device,
    cases: usize,
    rows: &BTreeMap<(String, String), Row>,
    failures: &[(String, String)],
    note: &str,
) -> Value {
    let row = |((op, dtype), row): (&(String, String), &Row)| json!({ "op": op, "dtype": dtype, "cases": row.cases, "failed": row.failed, "largest_share": row.worst });
    let failure = |(case, failure): &(String, String)| json!({ "case": case, "failure": failure });
    json!({
        "device": device.to_string(),
        "note": note,
        "version": env!("CARGO_PKG_VERSION"),
        "cases": cases,
        "failed": failures.len(),
        "rows": rows.iter().map(row).collect::<Vec<_>>(),
        "failures": failures.iter().map(failure).collect::<Vec<_>>(),
    })
}

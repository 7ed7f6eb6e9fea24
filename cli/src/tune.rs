//! `batchnorm tune`: measures plans of problems on a CUDA device, and writes the best ones into a table for
//! `Cuda::with_plans` and `BATCHNORM_PLANS`.
//!
//! Candidates of a problem are held against the f64 oracle first, all of them on the same data, and then timed in turns as `bench`
//! does. The table is written once, whole, at the end.

#[cfg(feature = "cuda")]
mod measure;
#[cfg(feature = "cuda")]
mod report;
mod tasks;

use std::path::PathBuf;
use std::time::Instant;

use crate::choices::{Dimensions, Dtype, Epilogue, Layout, Op, dimensions};
use crate::device::Device;
use crate::failure::Failure;
use crate::output;

/// Options of `batchnorm tune`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Device to measure: cuda or cuda:N
    #[arg(long, default_value = "cuda")]
    device: Device,
    /// The shapes of a suite: resnet50, mlp, volumes or edge
    #[arg(long, value_name = "NAME", required_unless_present = "shape")]
    suite: Vec<String>,
    /// Only rows of suites that contain all of these words, such as "stage1 n=32"
    #[arg(long, value_name = "WORDS", default_value = "", requires = "suite")]
    filter: String,
    /// A tensor of these dimensions, such as 256x64x56x56
    #[arg(long, value_name = "SHAPE", value_parser = dimensions)]
    shape: Vec<Dimensions>,
    /// Elements by which the tensors of --shape begin beyond an aligned address
    #[arg(long, value_name = "ELEMENTS", default_value = "0", requires = "shape")]
    offset: usize,
    /// The operations; train and backward by default
    #[arg(long, value_enum, value_name = "NAME")]
    op: Vec<Op>,
    /// Types of the data; by default f16 of a shape, and all of a suite
    #[arg(long, value_enum, value_name = "NAME")]
    dtype: Vec<Dtype>,
    /// Positions of the channels among the dimensions; by default channels-first of a shape, and both of a suite
    #[arg(long, value_enum, value_name = "NAME")]
    layout: Vec<Layout>,
    /// Activations, and a residual before them, fused behind the normalization; identity by default
    #[arg(long, value_enum, value_name = "NAME")]
    epilogue: Vec<Epilogue>,
    /// Plans of a problem that are measured, those of least predicted time, but one of each strategy at least
    #[arg(long, value_name = "N", default_value = "12", value_parser = clap::value_parser!(u32).range(1..=256))]
    most: u32,
    /// Values of x up to which plans are held against the f64 oracle, which is slow; beyond, against the CPU path on
    /// four channels alone, as all are before they are timed
    #[arg(long, value_name = "VALUES", default_value = "16777216")]
    oracle_values: usize,
    /// The seconds that each plan is timed for
    #[arg(long, default_value = "0.2", value_parser = crate::bench::seconds, allow_hyphen_values = true)]
    seconds: f64,
    /// Begin no problem after so many seconds, counted from the start of the process
    #[arg(long, value_name = "SECONDS")]
    within: Option<u64>,
    /// Leave out rows of suites whose x has more bytes; without it an emulated device's limit is 65536, a GPU's its memory
    #[arg(long, value_name = "BYTES", requires = "suite")]
    limit_bytes: Option<usize>,
    /// The file for the table
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write a line to this file before and behind each plan's turn: what has a beginning and no end is what hangs
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Write all samples to this file too, anew after each problem
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Whether every candidate gave what the reference gives, and the device was not lost.
pub(crate) fn run(args: &Args, began: Instant) -> Result<bool, Failure> {
    let tasks = tasks::tasks(args)?;
    args.journal.as_deref().map(output::expect_journal).transpose()?;
    output::expect_distinct(&[
        ("--out", Some(&args.out)),
        ("--journal", args.journal.as_deref()),
        ("--json", args.json.as_deref()),
    ])?;
    // A table in the environment that is out of date is no reason not to make a new one.
    // SAFETY: the program has no other thread yet.
    #[allow(unsafe_code)]
    unsafe {
        std::env::remove_var("BATCHNORM_PLANS");
    }
    match args.device {
        Device::Cpu => Err(Failure::new("--device: expected cuda or cuda:N, got cpu, which plans nothing")),
        #[cfg(feature = "cuda")]
        Device::Cuda(number) => measure::run(args, number, &tasks, began),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => {
            let _ = (tasks, began);
            Err(Failure::new(format!("--device {}: expected a build with CUDA support, got one without", args.device)))
        }
    }
}

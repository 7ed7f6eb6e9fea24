//! The command line: launches against the PTX of one architecture.
//!
//! Exit code 0: all that ran is equal. 1: something differs, trapped, or was not reached where all was asked for. 2: the input is
//! not what it should be, in one line each.

mod corpus;
mod faults;
mod kind;
mod pool;
mod rewrite;
mod table;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ptx_replay::Options;

use corpus::Corpus;

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Executes launches, compares memory with what the emulated device left, and prints a table.
    Run {
        #[command(flatten)]
        input: Input,
        /// Fail where an entry, or a strategy or an epilogue of one, was not reached.
        #[arg(long)]
        require_all: bool,
        /// Sequentially consistent memory, instead of memory as stale as PTX lets a CTA see it.
        #[arg(long)]
        consistent: bool,
        /// Take the 64-bit half of each division that nvcc has made two of.
        #[arg(long)]
        wide_divisions: bool,
        /// A line for each launch, tab-separated.
        #[arg(long, value_name = "FILE")]
        lines: Option<PathBuf>,
    },
    /// Plants faults in the PTX, one at a time, and shows that each is noticed.
    Faults {
        #[command(flatten)]
        input: Input,
        /// Kernels that each fault is planted in, at most.
        #[arg(long, default_value = "8")]
        kernels: NonZeroUsize,
        /// In so many kernels also where the first has told.
        #[arg(long)]
        every: bool,
        /// The faults whose names have this in them.
        #[arg(long)]
        filter: Option<String>,
    },
}

#[derive(clap::Args)]
struct Input {
    /// Files of PTX, all of one architecture.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    ptx: Vec<PathBuf>,
    /// Folders of launches, or launches, as the emulated device wrote them (CUDA_EMULATOR_DUMP).
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    launches: Vec<PathBuf>,
    /// The most launches of each kind (kernel, dtype, form, strategy, epilogue), drawn; all without it.
    #[arg(long)]
    most: Option<NonZeroUsize>,
    /// The seed of what is drawn: launches, order, delays, the contents of uninitialised memory. 0 interrupts nobody.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Input {
    fn corpus(&self) -> Result<Corpus, String> {
        Corpus::open(&self.ptx, &self.launches, self.most.map(NonZeroUsize::get), self.seed)
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(what) => {
            // The message is one line, whatever the names of files and kernels have in them.
            eprintln!("error: {}", what.replace(char::is_control, " "));
            ExitCode::from(2)
        }
    }
}

/// Whether all is as it should be.
fn run(command: Command) -> Result<bool, String> {
    match command {
        Command::Run { input, require_all, consistent, wide_divisions, lines } => {
            let corpus = input.corpus()?;
            let options = Options { seed: input.seed, weak: !consistent, ..Options::default() };
            let body: pool::Body = if wide_divisions { rewrite::wide_divisions } else { str::to_owned };
            let results = pool::run(&corpus, &options, body)?;
            if let Some(path) = lines {
                let text: String = results.iter().map(|result| format!("{}\n", result.line())).collect();
                std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
            }
            Ok(table::print(&corpus, &results, require_all))
        }
        Command::Faults { input, kernels, every, filter } => {
            let corpus = input.corpus()?;
            faults::run(&corpus, input.seed, kernels.get(), every, filter.as_deref())
        }
    }
}

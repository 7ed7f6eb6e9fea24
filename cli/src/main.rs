//! `batchnorm`, the command line: parses, dispatches, and turns what happened into an exit code.
//!
//! 0: done. 1: a check failed. 2: bad input, told in one line on stderr, and nothing written.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod args;
mod bench;
mod choices;
mod device;
mod ending;
mod failure;
mod info;
mod output;
mod plan_json;
mod run;
mod threads;
mod tune;
mod verify;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use args::{Command, Parsed};
use failure::Failure;

#[global_allocator]
static ALLOCATOR: ending::Allocator = ending::Allocator;

const CHECK_FAILED: u8 = 1;
const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    let began = Instant::now();
    ending::watch_signals();
    match args::parse().and_then(|parsed| dispatch(parsed, began)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => CHECK_FAILED.into(),
        Err(failure) => {
            // The exit code alone tells it where stderr is closed too.
            let _ = writeln!(io::stderr(), "batchnorm: {failure}");
            BAD_INPUT.into()
        }
    }
}

/// Whether every check passed; the commands that check nothing are true. `began` is the start of the process.
fn dispatch(parsed: Parsed, began: Instant) -> Result<bool, Failure> {
    let command = match parsed {
        Parsed::Text(text) => return output::print(&text).map(|()| true),
        Parsed::Command(command) => *command,
    };
    match command {
        Command::Info(args) => info::run(&args).map(|()| true),
        Command::Run(args) => run::run(&args).map(|()| true),
        // These take their memory without a way back: for tensors of every case, and of every row.
        Command::Verify(args) => {
            ending::end_without_memory();
            verify::run(&args, began)
        }
        Command::Bench(args) => {
            ending::end_without_memory();
            bench::run(&args, began)
        }
        Command::Tune(args) => {
            ending::end_without_memory();
            tune::run(&args, began)
        }
    }
}

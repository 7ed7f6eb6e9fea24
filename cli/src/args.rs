//! The command line as a whole, and clap's errors as one line.

use clap::Parser;
use clap::error::ErrorKind;

use crate::failure::Failure;
use crate::{bench, info, run, tune, verify};

/// Batch normalization on safetensors files.
#[derive(Debug, Parser)]
#[command(name = "batchnorm", version, arg_required_else_help = false)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Commands.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show the version, the features built in and the devices
    Info(info::Args),
    /// Run one operation on the tensors of a safetensors file
    Run(run::Args),
    /// Hold a device against the f64 oracle, case by case
    Verify(verify::Args),
    /// Time operations beside the least that memory allows and beside their peers
    Bench(bench::Args),
    /// Measure the plans of shapes on a CUDA device, and write a table of the best ones
    Tune(tune::Args),
}

/// The command line, parsed.
pub(crate) enum Parsed {
    /// A command.
    Command(Box<Command>),
    /// The text of `--help` or `--version`.
    Text(String),
}

/// Parses the process's arguments.
pub(crate) fn parse() -> Result<Parsed, Failure> {
    match Cli::try_parse() {
        Ok(cli) => Ok(Parsed::Command(Box::new(cli.command))),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Parsed::Text(error.to_string()))
        }
        Err(error) => Err(Failure::new(one_line(&error.to_string()))),
    }
}

/// The command of these words, as behind the program's name.
#[cfg(all(test, feature = "emulate"))]
pub(crate) fn parsed(words: &[&str]) -> Result<Command, clap::Error> {
    Cli::try_parse_from([&["batchnorm"], words].concat()).map(|cli| cli.command)
}

/// The first paragraph of clap's message: what was wrong and the values that would do, without tips and usage.
fn one_line(message: &str) -> String {
    let paragraph = message.lines().take_while(|line| !line.trim().is_empty());
    let joined = paragraph.map(str::trim).collect::<Vec<_>>().join(" ");
    format!("{}; see --help", joined.trim_start_matches("error: "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_message_becomes_one_line() {
        let message = "error: invalid value 'a' for '--op <OP>'\n  [possible values: train]\n\n  tip: x\n\nUsage: y\n";
        assert_eq!(one_line(message), "invalid value 'a' for '--op <OP>' [possible values: train]; see --help");
    }
}

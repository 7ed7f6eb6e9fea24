//! Fits the constants of src/plan/cost.rs to what `batchnorm bench` measured on a GPU:
//!
//!     cargo run --release --example fit_cost_model -- [--way graph|eager] [--rows] FILE.json...
//!
//! It prints each constant with what it was fitted from and how well it fits, then how far predicted times are from measured ones,
//! and whether the planner would have chosen the strategy that was measured to be the best; with `--rows` each row too. It
//! compares the plans that were measured: other plans that new constants might choose have no times. The times are those of
//! graphs unless `--way` says otherwise.

mod fit;
mod measured;
mod report;
#[cfg(test)]
mod tests;

use std::fs;
use std::process::ExitCode;

use measured::Measured;

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: impl Iterator<Item = String>) -> Result<String, String> {
    let (mut way, mut rows, mut files) = ("graph".to_owned(), false, Vec::new());
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--way" => way = arguments.next().ok_or("expected --way graph or --way eager")?,
            "--rows" => rows = true,
            option if option.starts_with('-') => return Err(format!("expected --way, --rows or a file, got {option}")),
            _ => files.push(argument),
        }
    }
    if files.is_empty() {
        return Err("expected files that `batchnorm bench --json` has written, got none".into());
    }
    let mut measured = Measured::default();
    for file in files {
        let told = |error: &dyn std::fmt::Display| format!("{file}: {error}");
        let text = fs::read_to_string(&file).map_err(|error| told(&error))?;
        let json = serde_json::from_str(&text).map_err(|error| told(&error))?;
        measured.read(&json, &way).map_err(|error| told(&error))?;
    }
    Ok(told(&measured, rows))
}

/// The whole report.
fn told(measured: &Measured, with_rows: bool) -> String {
    let (constants, fitted) = fit::fit(measured);
    let mut text = report::constants(measured, &constants, &fitted);
    if with_rows {
        text += &report::rows(measured, &constants);
    }
    text += &report::summary(measured, &constants);
    measured.notes.iter().for_each(|note| text += &format!("no constant: {note}\n"));
    text
}

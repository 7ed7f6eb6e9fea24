//! `cargo xtask abuse`: random trials of what must hold whatever comes, part by part, and one table at the end.
//!
//! The parts are tests of the test suite, which runs a few of their trials each time. Here they have minutes.

mod options;
mod outcome;
mod parts;

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use options::Options;
use outcome::Outcome;
use parts::Part;

/// The time that a part may take beyond its own: a trial that is under way, a failure that is made smaller.
const BEYOND: Duration = Duration::from_secs(180);

/// Runs every part, also behind one that fails.
pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    for part in &options.parts {
        build(part)?;
    }
    let mut rows = Vec::new();
    for part in &options.parts {
        let (seconds, start) = (options.seconds(part), Instant::now());
        println!("\n== {}, seed {}, {seconds:.0} s: {}", part.name, options.seed, part.promise);
        let outcome = outcome(part, options.seed, seconds)?;
        if let Some(why) = &outcome.why {
            println!("{}: {why}{}", part.name, died_in(part, options.seed));
        }
        rows.push((part, outcome, start.elapsed()));
    }
    println!("\n{:<16} {:>9} {:>9} {:>8}", "part", "trials", "failures", "seconds");
    for (part, Outcome { trials, failures, .. }, took) in &rows {
        let trials = trials.map_or("-".to_owned(), |trials| trials.to_string());
        println!("{:<16} {trials:>9} {failures:>9} {:>8.1}", part.name, took.as_secs_f64());
    }
    let failed: Vec<_> = rows.iter().filter(|(_, outcome, _)| outcome.failures > 0).map(|row| row.0.name).collect();
    if failed.is_empty() { Ok(()) } else { Err(format!("abuse: failures in {}", failed.join(", ")).into()) }
}

/// Builds a part's test, so that its minutes are those of its trials.
fn build(part: &Part) -> Result<(), Box<dyn Error>> {
    let ["cargo", words @ ..] = part.words else { return Ok(()) };
    let before = words.iter().take_while(|&&word| word != "--");
    let status = Command::new("cargo").args(before).args(["--quiet", "--no-run"]).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{}: expected a test that builds, got {status}", part.name).into())
    }
}

/// The file where a part writes the number of each trial before it begins.
fn running(part: &Part) -> String {
    format!("target/abuse/{}.running", part.name)
}

/// Runs a part in a process group of its own, which ends with it.
fn outcome(part: &Part, seed: u64, seconds: f64) -> Result<Outcome, Box<dyn Error>> {
    let _ = fs::remove_file(running(part)); // An earlier run may have left one.
    let [program, words @ ..] = part.words else { return Err("a part without a command".into()) };
    let mut command = Command::new(program);
    command.args(words).envs(part.environment.iter().copied());
    command.env("BATCHNORM_ABUSE_SEED", seed.to_string()).env("BATCHNORM_ABUSE_SECONDS", seconds.to_string());
    command.env_remove("BATCHNORM_ABUSE_TRIAL").process_group(0).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let stdout = child.stdout.take().ok_or("a part without stdout")?;
    let (sender, receiver) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut lines = Vec::new();
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            println!("{line}");
            lines.push(line);
        }
        let _ = sender.send(()); // Nobody waits for it any more after a hang.
        lines
    });
    let has_ended = receiver.recv_timeout(Duration::from_secs_f64(seconds) + BEYOND).is_ok();
    if !has_ended {
        Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status()?;
    }
    let status = child.wait()?;
    let lines = reader.join().map_err(|_| "the reader of a part's output panicked")?;
    Ok(Outcome::new(part.name, has_ended.then_some(status), &lines))
}

/// The trial that a part was at, and how to repeat it: of one that died, which told nobody.
fn died_in(part: &Part, seed: u64) -> String {
    let Ok(trial) = fs::read_to_string(running(part)) else { return String::new() };
    let (trial, words) = (trial.trim(), part.words.join(" "));
    format!("; in trial {trial}:\n  BATCHNORM_ABUSE_SEED={seed} BATCHNORM_ABUSE_TRIAL={trial} {words}")
}

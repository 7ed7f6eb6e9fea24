//! The command line's promises under random files and options. For bad input: exit code 2, one line on stderr, and nothing
//! written. For all else: exit code 0, and the files that were asked for. Never a signal, a panic, a hang, anything else left.
#![cfg(unix)]

#[path = "../../../tests/abuse/mod.rs"]
mod abuse;
#[cfg(test)]
mod command;
#[path = "../../../tests/abuse/file.rs"]
mod file;
#[cfg(test)]
mod input;
#[cfg(test)]
mod others;
#[cfg(test)]
mod outputs;
#[cfg(test)]
mod run;
#[cfg(test)]
mod words;

#[test]
fn any_command_line() {
    abuse::Part { name: "cli", test: "any_command_line", few: 60 }.run(|trial| match trial.rng.u8(..20) {
        0..=1 => others::info(trial),
        2 => others::verify(trial),
        3 => others::bench(trial),
        _ => run::run(trial),
    });
}

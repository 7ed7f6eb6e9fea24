//! The project's own commands: `cargo xtask ci` and `cargo xtask conformance`.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ci;
mod conformance;
mod toolkit;

use std::env;
use std::error::Error;

const USAGE: &str = "usage: cargo xtask ci           all checks beyond the test suite
       cargo xtask conformance  makes tests/data/conformance out of ../shared/conformance";

fn main() -> Result<(), Box<dyn Error>> {
    // Paths in this package are those of the workspace's root.
    env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))?;
    match env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [command] if command == "ci" => ci::run(),
        [command] if command == "conformance" => conformance::run(),
        [command] if command == "toolkit" => toolkit::run(),
        _ => Err(USAGE.into()),
    }
}

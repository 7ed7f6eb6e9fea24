//! Text for stdout. Who reads only the first lines of it (`| head -1`) gets them, and no panic.

use std::io::{self, ErrorKind, Write};

use crate::failure::Failure;

/// Prints the text as it is. A closed stdout is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::new(format!("stdout: {error}"))),
        _ => Ok(()),
    }
}

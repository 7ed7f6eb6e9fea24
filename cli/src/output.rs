//! Text for stdout, where who reads only the first lines of it (`| head -1`) gets them, and no panic; and files.

use std::io::{self, ErrorKind, Write};
use std::path::Path;

use crate::failure::Failure;

/// Prints the text as it is. A closed stdout is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::new(format!("stdout: {error}"))),
        _ => Ok(()),
    }
}

/// A file that is to appear whole or not at all: a temporary one beside it, until it is kept.
pub(crate) struct Pending<'a> {
    path: &'a Path,
    file: tempfile::NamedTempFile,
}

impl<'a> Pending<'a> {
    /// Finds out at once whether it can be written, which may be long before there is anything to write.
    pub(crate) fn new(path: &'a Path) -> Result<Self, Failure> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new();
        // As any new file: a temporary one is its owner's alone.
        #[cfg(unix)]
        file.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = file.tempfile_in(folder).map_err(|error| told(path, &error))?;
        Ok(Self { path, file })
    }

    /// Writes it, and puts it in its place.
    pub(crate) fn keep(mut self, text: &str) -> Result<(), Failure> {
        self.file.write_all(text.as_bytes()).map_err(|error| told(self.path, &error))?;
        self.file.persist(self.path).map(drop).map_err(|error| told(self.path, &error.error))
    }
}

fn told(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("{}: {error}", path.display()))
}

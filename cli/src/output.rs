//! Text for stdout, where who reads only the first lines of it (`| head -1`) gets them, and no panic; tables; and files.

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Prints the text as it is. A closed stdout is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::new(format!("stdout: {error}"))),
        _ => Ok(()),
    }
}

/// Rows as lines: columns as wide as their widest cell, these to the left and the others, numbers, to the right.
pub(crate) fn table(rows: &[Vec<String>], left: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match left.contains(&column) {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// A file that is whole whenever it is there, however often it is written anew: each time a temporary one beside it takes
/// its place.
pub(crate) struct WholeFile<'a>(&'a Path);

impl<'a> WholeFile<'a> {
    /// Finds out at once whether it can be written, which may be long before there is anything to write.
    pub(crate) fn new(path: &'a Path) -> Result<Self, Failure> {
        let file = Self(path);
        if path.is_dir() {
            return Err(Failure::new(format!("{}: expected a file, got a folder", path.display())));
        }
        file.temporary().map(|_| file)
    }

    fn temporary(&self) -> Result<tempfile::NamedTempFile, Failure> {
        let mut file = tempfile::Builder::new();
        // As any new file: a temporary one is its owner's alone.
        #[cfg(unix)]
        file.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        file.tempfile_in(folder_of(self.0)).map_err(|error| told(self.0, &error))
    }

    /// Puts this text into its place.
    pub(crate) fn write(&self, text: &str) -> Result<(), Failure> {
        let mut file = self.temporary()?;
        file.write_all(text.as_bytes()).map_err(|error| told(self.0, &error))?;
        file.persist(self.0).map(drop).map_err(|error| told(self.0, &error.error))
    }
}

/// Refuses options that name one file, of which the last to be written would be left. An option that is not given is `None`.
pub(crate) fn expect_apart(options: &[(&str, Option<&Path>)]) -> Result<(), Failure> {
    let mut seen: Vec<(&str, PathBuf)> = Vec::new();
    for (option, path) in options.iter().filter_map(|&(option, path)| Some((option, path?))) {
        let (Ok(folder), Some(name)) = (folder_of(path).canonicalize(), path.file_name()) else {
            continue; // A folder that is not there is the error of whoever writes.
        };
        let place = folder.join(name);
        if let Some((other, _)) = seen.iter().find(|(_, seen)| *seen == place) {
            let path = path.display();
            let expected = format!("{option}: expected another file than that of {other}, got {path} for both");
            return Err(Failure::new(expected));
        }
        seen.push((option, place));
    }
    Ok(())
}

/// The folder that a file is in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn told(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["name", "us"], ["a", "1234.5"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(table(&rows, &[0]), "name      us\na     1234.5\n");
    }
}

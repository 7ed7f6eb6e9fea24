//! Text for stdout, where who reads only the first lines of it (`| head -1`) gets them, and no panic; tables; and files.

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use batchnorm::tensors::{WholeFile, place_of};

use crate::ending;
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

/// A file that is whole whenever it is there, however often it is written anew: each time another takes its place.
pub(crate) struct Renewed<'a>(&'a Path);

impl<'a> Renewed<'a> {
    /// Finds out at once whether it can be written, which may be long before there is anything to write.
    pub(crate) fn new(path: &'a Path) -> Result<Self, Failure> {
        expect_file(path)?;
        begun(path)?;
        Ok(Self(path))
    }

    /// Puts this text into its place.
    pub(crate) fn write(&self, text: &str) -> Result<(), Failure> {
        let mut file = begun(self.0)?;
        file.write_all(text.as_bytes()).map_err(|error| told(self.0, &error))?;
        Ok(file.keep()?)
    }
}

/// A new file of this name, which is gone if the process ends before it is complete.
pub(crate) fn begun(path: &Path) -> batchnorm::Result<WholeFile> {
    ending::temporary(|| WholeFile::create(path), WholeFile::temporary)
}

/// Refuses what could not be written whole or not at all: a stream, a device, a folder.
pub(crate) fn expect_file(path: &Path) -> Result<(), Failure> {
    if path == Path::new("-") {
        let text =
            "-: expected the name of a file, got the sign for stdout, which cannot be written whole or not at all";
        return Err(Failure::new(text));
    }
    place_of(path)?;
    Ok(())
}

/// Refuses what takes no line after line: as [`expect_file`], but a device may be a journal.
pub(crate) fn expect_journal(path: &Path) -> Result<(), Failure> {
    #[cfg(unix)]
    if std::fs::metadata(path).is_ok_and(|found| std::os::unix::fs::FileTypeExt::is_char_device(&found.file_type())) {
        return Ok(());
    }
    expect_file(path)
}

/// Refuses options that name one file, of which the last to be written would be left. An option that is not given is `None`.
pub(crate) fn expect_distinct(options: &[(&str, Option<&Path>)]) -> Result<(), Failure> {
    let mut seen: Vec<(&str, PathBuf)> = Vec::new();
    for (option, path) in options.iter().filter_map(|&(option, path)| Some((option, path?))) {
        let place = place_of(path).unwrap_or_else(|_| path.to_path_buf());
        if let Some((other, _)) = seen.iter().find(|(_, seen)| *seen == place) {
            let path = path.display();
            let expected = format!("{option}: expected another file than that of {other}, got {path} for both");
            return Err(Failure::new(expected));
        }
        seen.push((option, place));
    }
    Ok(())
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

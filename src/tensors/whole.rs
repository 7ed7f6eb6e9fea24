//! A file that appears whole or not at all.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::io_error;
use crate::error::{Error, Result};

/// Symbolic links that are followed one behind the other, as many as Linux does.
const MOST_LINKS: usize = 40;

/// A new file that takes its name when it is complete. Until then, or where it is given up, what has the name stays as it is.
///
/// It is written next to the file that it replaces, synced to the disk and renamed. Symbolic links are followed: what they lead
/// to is replaced. The new file has the mode of the old one, and its owner where the process may give that. Other hard links of
/// the file keep what they had.
///
/// A process that is killed while it writes leaves the new file behind, under the name [`WholeFile::temporary`].
#[derive(Debug)]
pub struct WholeFile {
    /// The path as it was given, for errors.
    path: PathBuf,
    place: PathBuf,
    old: Option<Metadata>,
    new: NamedTempFile,
}

impl WholeFile {
    /// Begins a file of this name.
    ///
    /// # Errors
    /// Those of [`place_of`]; [`Error::Io`] where the folder takes no new file.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (place, old) = found(path)?;
        let create = |path: &Path| create_new(path, old.as_ref());
        let made = tempfile::Builder::new().prefix(".batchnorm-").make_in(folder_of(&place), create);
        let new = made.map_err(|error| io_error(path, without_path(error)))?;
        Ok(Self { path: path.to_path_buf(), place, old, new })
    }

    /// The new file's name as long as it has no other: what a process that is killed leaves behind.
    pub fn temporary(&self) -> &Path {
        self.new.path()
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// [`Error::Io`]. What has the name is as it was then.
    pub fn keep(self) -> Result<()> {
        let Self { path, place, old, new } = self;
        let told = |error| io_error(&path, error);
        if let Some(old) = old {
            keep_owner(new.as_file(), &old);
            new.as_file().set_permissions(old.permissions()).map_err(told)?;
        }
        new.as_file().sync_all().map_err(told)?;
        new.persist(&place).map(drop).map_err(|error| told(error.error))
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.new.as_file_mut().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.new.as_file_mut().flush()
    }
}

/// The path that a file of this name would be written to, the same for all names of the file: symbolic links are followed.
///
/// # Errors
/// [`Error::NotAFile`] for what is there and no regular file; [`Error::Io`] where it cannot be looked at.
pub fn place_of(path: impl AsRef<Path>) -> Result<PathBuf> {
    let (place, _) = found(path.as_ref())?;
    // A folder that is not there is the error of whoever writes.
    let folder = folder_of(&place).canonicalize();
    Ok(folder.ok().zip(place.file_name()).map(|(folder, name)| folder.join(name)).unwrap_or(place))
}

/// The folder that a file is in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The place of a path, and what is there.
fn found(path: &Path) -> Result<(PathBuf, Option<Metadata>)> {
    // The target of a link of /proc has no name of its own.
    let refused = |actual| Error::NotAFile { path: path.display().to_string(), actual };
    let opened = fs::metadata(path).ok();
    if let Some(found) = opened.as_ref().filter(|found| !found.is_file()) {
        return Err(refused(kind(found)));
    }
    let mut place = path.to_path_buf();
    // Step by step, since the last link may lead to what is not there yet.
    for _ in 0..=MOST_LINKS {
        match fs::symlink_metadata(&place) {
            Ok(found) if found.is_symlink() => {
                let target = fs::read_link(&place).map_err(|error| io_error(path, error))?;
                place = folder_of(&place).join(target);
            }
            Ok(found) => return Ok((place, Some(found))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return if opened.is_none() {
                    Ok((place, None))
                } else {
                    Err(refused("a file that has no name any more"))
                };
            }
            Err(error) => return Err(io_error(path, error)),
        }
    }
    Err(refused("symbolic links without an end"))
}

/// A kind of what is no regular file.
fn kind(found: &Metadata) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = found.file_type();
        if kind.is_fifo() {
            return "a FIFO or a pipe";
        } else if kind.is_socket() {
            return "a socket";
        } else if kind.is_block_device() || kind.is_char_device() {
            return "a device";
        }
    }
    if found.is_dir() { "a folder" } else { "something else" }
}

/// A file that was not there, with the mode of any new one, or for no more than those who may read the old one: its owner's
/// alone is what a temporary one would have.
fn create_new(path: &Path, old: Option<&Metadata>) -> io::Result<File> {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    if let Some(old) = old {
        use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
        options.mode(old.mode() & 0o777);
    }
    #[cfg(not(unix))]
    let _ = old;
    options.write(true).create_new(true).open(path)
}

/// The owner of the file that is replaced, where this process may give it.
fn keep_owner(new: &File, old: &Metadata) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, fchown};
        let _ = fchown(new, Some(old.uid()), Some(old.gid()));
    }
    #[cfg(not(unix))]
    let _ = (new, old);
}

/// The system's error, without the name of the temporary file that nobody asked for.
fn without_path(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|error| error.source()).and_then(|error| error.downcast_ref::<io::Error>());
    inner.and_then(io::Error::raw_os_error).map_or(error, io::Error::from_raw_os_error)
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn written(path: &Path, text: &str) -> Result<()> {
        let mut file = WholeFile::create(path)?;
        file.write_all(text.as_bytes()).unwrap();
        file.keep()
    }

    /// The text and the mode of a file, and the number of others in its folder.
    fn read(path: &Path) -> (String, u32, usize) {
        let mode = fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
        (fs::read_to_string(path).unwrap(), mode, fs::read_dir(folder_of(path)).unwrap().count() - 1)
    }

    #[test]
    fn links_are_followed_and_modes_kept() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link, far, dangling] = ["file", "link", "far", "dangling"].map(|name| folder.path().join(name));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("file", &link).unwrap();
        symlink(&link, &far).unwrap();
        written(&far, "new").unwrap();
        assert_eq!(read(&file), ("new".into(), 0o640, 2));
        assert!(link.is_symlink() && far.is_symlink());
        symlink("other", &dangling).unwrap();
        written(&dangling, "made").unwrap();
        assert!(dangling.is_symlink());
        let (text, mode, _) = read(&folder.path().join("other"));
        // Permissions are those of any new file: readable for others, if the umask allows it.
        let plain = folder.path().join("plain");
        fs::write(&plain, "").unwrap();
        assert_eq!((text.as_str(), mode), ("made", read(&plain).1));
    }

    #[test]
    fn what_is_given_up_leaves_everything_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "old").unwrap();
        let mut new = WholeFile::create(&file).unwrap();
        new.write_all(b"half").unwrap();
        assert_eq!(fs::read_to_string(new.temporary()).unwrap(), "half");
        drop(new);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
        let new = WholeFile::create(&file).unwrap();
        assert_eq!(
            read(new.temporary()).1,
            0o400,
            "nobody may read what is not yet there who may not read the old one"
        );
        drop(new);
        assert_eq!(read(&file), ("old".into(), read(&file).1, 0));
    }

    #[test]
    fn what_is_no_file_is_refused_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let [fifo, socket, ring] = ["fifo", "socket", "ring"].map(|name| folder.path().join(name));
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        symlink("ring", &ring).unwrap();
        let device = Path::new("/dev/null");
        let nameless = tempfile::tempfile().unwrap();
        let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&nameless));
        for (path, what) in [
            (&*fifo, "a FIFO or a pipe"),
            (&*socket, "a socket"),
            (&*ring, "symbolic links without an end"),
            (folder.path(), "a folder"),
            (device, "a device"),
            (Path::new(&name), "a file that has no name any more"),
        ] {
            if path.starts_with("/proc") && !cfg!(target_os = "linux") {
                continue;
            }
            let error = written(path, "new").unwrap_err().to_string();
            assert_eq!(error, format!("{}: expected a regular file or a new one, got {what}", path.display()));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
        let error = written(&folder.path().join("none/file"), "new").unwrap_err().to_string();
        assert!(error.ends_with("none/file: No such file or directory (os error 2)"), "{error}");
    }
}

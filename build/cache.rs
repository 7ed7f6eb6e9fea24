// Objects of the kernels, kept from build to build: the crate, the command line and the Python package are several builds
// of the same kernels, and nvcc takes a minute for them. Shared by build.rs and by the tests of xtask.

use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use super::sources;

/// A folder of objects that were made of the same sources by the same command.
pub(crate) struct Cache(PathBuf);

impl Cache {
    /// The cache below `parent` of what this nvcc makes of these sources with these flags.
    pub(crate) fn open(parent: &Path, kernels: &Path, nvcc: &Path, flags: &[String]) -> Result<Self, String> {
        let told = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
        let mut key = DefaultHasher::new();
        // One compiler, by whatever path it was found.
        let found = nvcc.canonicalize().and_then(|nvcc| Ok((fs::metadata(&nvcc)?, nvcc)));
        let (facts, nvcc) = found.map_err(|error| told(nvcc, error))?;
        (nvcc, facts.len(), facts.modified().ok(), flags).hash(&mut key);
        // Every file, since any of them may be included.
        for (name, file) in sources::below(kernels)? {
            let text = fs::read(&file).map_err(|error| told(&file, error))?;
            (name, text).hash(&mut key);
        }
        let folder = parent.join(format!("{:016x}", key.finish()));
        fs::create_dir_all(&folder).map_err(|error| told(&folder, error))?;
        Ok(Self(folder))
    }

    fn object(&self, source: &Path) -> PathBuf {
        self.0.join(source.file_stem().unwrap_or(OsStr::new("kernel"))).with_extension("o")
    }

    /// The object of this source, where it was made before.
    pub(crate) fn find(&self, source: &Path) -> Option<PathBuf> {
        Some(self.object(source)).filter(|object| object.is_file())
    }

    /// Keeps an object. It appears whole: several builds may share the folder.
    pub(crate) fn keep(&self, source: &Path, object: &Path) -> Result<(), String> {
        let kept = self.object(source);
        let partial = kept.with_extension(format!("partial-{}", std::process::id()));
        let copied = fs::copy(object, &partial).and_then(|_| fs::rename(&partial, &kept));
        copied.map_err(|error| format!("{}: {error}", kept.display()))
    }
}

// The files of kernels/ and of the folders in it. Shared by build.rs and xtask.

use std::fs;
use std::path::{Path, PathBuf};

/// Every file below a folder, with its path from there, whose parts a `/` separates; in the order of these paths.
#[allow(dead_code, reason = "for those who compile kernels")]
pub(crate) fn below(folder: &Path) -> Result<Vec<(String, PathBuf)>, String> {
    let mut files = Vec::new();
    add(folder, "", &mut files)?;
    files.sort();
    Ok(files)
}

fn add(folder: &Path, prefix: &str, files: &mut Vec<(String, PathBuf)>) -> Result<(), String> {
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(told)? {
        let path = entry.map_err(told)?.path();
        let name = format!("{prefix}{}", path.file_name().unwrap_or_default().to_string_lossy());
        if path.is_dir() {
            add(&path, &format!("{name}/"), files)?;
        } else {
            files.push((name, path));
        }
    }
    Ok(())
}

/// The sources that are compiled, every .cu below a folder, in the order of their paths.
#[allow(dead_code, reason = "for those who compile kernels")]
pub(crate) fn compiled(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files: Vec<_> = below(folder)?.into_iter().map(|(_, path)| path).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "cu"));
    if files.is_empty() { Err(format!("{} holds no .cu file", folder.display())) } else { Ok(files) }
}

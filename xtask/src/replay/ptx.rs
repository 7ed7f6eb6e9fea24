//! The .cu files of kernels/ as PTX, by the flags of the build.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rayon::prelude::*;

use super::FOLDER;
use crate::build::{flags, hash};
use crate::kernels;
use crate::toolkit::Toolkit;

/// The files of one architecture, such as 90.
pub(super) struct Ptx {
    pub(super) architecture: String,
    pub(super) files: Vec<PathBuf>,
}

/// The PTX of each architecture, made anew where sources or flags have changed. Its first line says of which sources it is.
pub(super) fn make(architectures: &[String]) -> Result<Vec<Ptx>, Box<dyn Error>> {
    let toolkit = Toolkit::ensure()?;
    let sources = format!("// sources: {}", hash::sources(Path::new("kernels"))?);
    let files = kernels::files()?;
    let mut jobs = Vec::new();
    for architecture in architectures {
        let folder = Path::new(FOLDER).join(format!("compute_{architecture}"));
        fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let to = |file: &PathBuf| folder.join(file.file_name().unwrap_or_default()).with_extension("ptx");
        jobs.extend(files.iter().map(|file| (architecture, file, to(file))));
    }
    jobs.par_iter().try_for_each(|(architecture, file, to)| compile(&toolkit, architecture, file, to, &sources))?;
    let of = |architecture: &String| {
        let its = jobs.iter().filter(|(its, ..)| *its == architecture);
        Ptx { architecture: architecture.clone(), files: its.map(|(.., to)| to.clone()).collect() }
    };
    Ok(architectures.iter().map(of).collect())
}

fn compile(toolkit: &Toolkit, architecture: &str, file: &Path, to: &Path, sources: &str) -> Result<(), String> {
    let told = |e: std::io::Error| format!("{}: {e}", to.display());
    let mut nvcc = Command::new(toolkit.nvcc());
    nvcc.args(flags::FLAGS).arg(flags::STRICT).args(["-ptx", &format!("-arch=compute_{architecture}")]);
    // The second line is the command, but for its last words: PTX of other flags is made anew.
    let words: Vec<_> = nvcc.get_args().map(|word| word.to_string_lossy()).collect();
    let head = format!("{sources}\n// nvcc {}\n", words.join(" "));
    if fs::read_to_string(to).is_ok_and(|text| text.starts_with(&head)) {
        return Ok(());
    }
    let partial = to.with_extension("partial");
    let output = nvcc.arg(file).arg("-o").arg(&partial).output().map_err(|e| format!("nvcc does not run: {e}"))?;
    if !output.status.success() {
        return Err(format!("nvcc, {}: {}", file.display(), String::from_utf8_lossy(&output.stderr)));
    }
    let text = fs::read_to_string(&partial).map_err(told)?;
    fs::write(&partial, head + &text).map_err(told)?;
    fs::rename(&partial, to).map_err(told)
}

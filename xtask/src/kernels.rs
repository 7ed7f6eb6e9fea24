//! `cargo xtask kernels [--json FILE]`: compiles the .cu files of kernels/ as the build does, and reads from the machine code what
//! each kernel takes on each architecture. Fails where one keeps values in local memory, or where there are too many.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rayon::prelude::*;

use crate::build::sources;
use crate::toolkit::Toolkit;

mod budget;
mod compile;
mod flow;
mod loops;
mod occupancy;
mod report;
mod sass;
mod stretches;

/// The most kernels of one architecture. Every one more costs compile time, loading time and tuning.
const LIMIT: usize = 150;
/// The most bytes of machine code and PTX, compressed.
const FAT_BINARY: u64 = 20_000_000;

/// A compiled file.
struct Source {
    file: String,
    seconds: f64,
    /// Its part of the fat binary, compressed.
    bytes: u64,
    kernels: Vec<Kernel>,
}

/// A kernel on one architecture.
struct Kernel {
    name: String,
    /// A compute capability, such as 90 or "90a".
    architecture: String,
    registers: u32,
    /// Stores and loads, in bytes.
    spills: u32,
    /// Bytes a thread.
    stack: u32,
    /// Static shared memory, in bytes.
    shared: u32,
    code: sass::Code,
}

/// Compiles, reports and judges.
pub(crate) fn run(json: Option<&str>) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let toolkit = Toolkit::ensure()?;
    let sources =
        files()?.par_iter().map(|file| compile::compile(&toolkit, file)).collect::<Result<Vec<_>, String>>()?;
    report::print(&sources, start.elapsed());
    if let Some(file) = json {
        fs::write(file, serde_json::to_string_pretty(&report::json(&sources))? + "\n")
            .map_err(|e| format!("{file}: {e}"))?;
    }
    let faults = faults(&sources);
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}

/// The files that are compiled, in order.
pub(crate) fn files() -> Result<Vec<PathBuf>, Box<dyn Error>> {
    Ok(sources::compiled(Path::new("kernels"))?)
}

/// The faults that no kernel may have, in words.
fn faults(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for kernel in sources.iter().flat_map(|source| &source.kernels) {
        let Kernel { name, architecture, spills, stack, code, .. } = kernel;
        if *spills + *stack > 0 || code.local > 0 {
            faults.push(format!(
                "{name} on sm_{architecture} keeps values in local memory: {spills} bytes spilled, a stack frame of \
                 {stack} bytes, {} accesses",
                code.local
            ));
        }
        faults.extend(budget::faults(kernel).into_iter().map(|fault| format!("{name} on sm_{architecture} {fault}")));
    }
    let bytes: u64 = sources.iter().map(|source| source.bytes).sum();
    if bytes > FAT_BINARY {
        faults.push(format!("the fat binary has {bytes} bytes, and at most {FAT_BINARY} are meant to be"));
    }
    for architecture in report::architectures(sources) {
        let kernels = sources.iter().flat_map(|source| &source.kernels);
        let count = kernels.filter(|kernel| kernel.architecture == architecture).count();
        if count > LIMIT {
            faults.push(format!("sm_{architecture} has {count} kernels, and at most {LIMIT} are meant to be"));
        }
    }
    if report::architectures(sources).is_empty() {
        faults.push("kernels/ holds no kernel".to_string());
    }
    faults
}

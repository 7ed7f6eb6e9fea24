//! `cargo xtask bundle [--arch N] [--no-wheel] [--emulate]`: what a machine with a GPU and no toolchain needs to test and measure this
//! crate, in one folder that can be copied anywhere.

mod options;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::toolkit::Toolkit;
use crate::wheel::Archive;
pub(crate) use options::Options;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The folder in which compiled kernels are kept from build to build.
pub(crate) const CACHE: &str = "target/cuda-cache";
/// The most that a bundle may be, in bytes: it is sent to the machine for each use.
const LIMIT: u64 = 40_000_000;
/// The executables: their names in the bundle, and cargo's name and kind of the target each is made of.
const EXECUTABLES: [(&str, &str, &str); 2] = [("batchnorm", "batchnorm", "bin"), ("cuda-tests", "cuda", "test")];
/// Further files and folders, and their paths in the bundle: the repository's where tests look for them.
const FILES: [(&str, &str); 12] = [
    ("xtask/bundle/evidence.py", "evidence.py"),
    ("xtask/bundle/steps.py", "steps.py"),
    ("xtask/bundle/machine.py", "machine.py"),
    ("xtask/bundle/watch.py", "watch.py"),
    ("xtask/bundle/record.py", "record.py"),
    ("xtask/bundle/smoke.py", "smoke.py"),
    ("tests/data/conformance", "tests/data/conformance"),
    ("python/tests/test_cuda.py", "python/tests/test_cuda.py"),
    ("python/benches/train_step.py", "python/benches/train_step.py"),
    ("python/benches/host_cost.py", "python/benches/host_cost.py"),
    ("python/examples/train_digits.py", "python/examples/train_digits.py"),
    ("data/digits.safetensors", "data/digits.safetensors"),
];

/// Builds, gathers and weighs.
pub(crate) fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    if !options.emulate {
        Toolkit::ensure()?;
    }
    let built = executables(&built(options)?)?;

    // The bundle is made in a folder next to the final one: an interrupted run leaves nothing that passes for a bundle.
    let folder = options.folder();
    let partial = folder.with_extension("partial");
    remove(&partial)?;
    fs::create_dir_all(&partial)?;
    for ((name, ..), from) in EXECUTABLES.iter().zip(&built) {
        let to = partial.join(name);
        copy(from, &to)?;
        strip(&to)?;
    }
    for (from, to) in FILES {
        copy(Path::new(from), &partial.join(to))?;
    }
    if options.wheel {
        Archive::unpack()?.cuda_wheel(&options.kernels(), &partial.join("python"))?;
    }
    fs::write(partial.join("built.txt"), description(options)?)?;
    let entries = sizes(&partial)?;
    remove(folder)?;
    fs::rename(&partial, folder)?;

    for (name, bytes) in &entries {
        println!("{:>9.3} MB  {name}", *bytes as f64 / 1e6);
    }
    let total = entries.iter().map(|(_, bytes)| bytes).sum();
    println!("{:>9.3} MB  {}, in {:.0} s", total as f64 / 1e6, folder.display(), start.elapsed().as_secs_f64());
    within(total)
}

/// The facts of a bundle, for whoever finds its results.
fn description(options: &Options) -> Result<String> {
    let rustc = Command::new("rustc").arg("--version").output().map_err(|e| format!("rustc does not run: {e}"))?;
    let device = if options.emulate { "the emulated device".into() } else { format!("sm_{}", options.arch) };
    // A package's sources may lie outside any repository.
    let git = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=40"]).output();
    let commit = git.ok().filter(|output| output.status.success());
    let commit = commit.map_or("unknown\n".into(), |output| String::from_utf8_lossy(&output.stdout).into_owned());
    Ok(format!("batchnorm, built for {device} by {}commit {commit}", String::from_utf8_lossy(&rustc.stdout)))
}

/// Cargo's messages of the build: one JSON object a line.
fn built(options: &Options) -> Result<String> {
    let mut cargo = options.build();
    let output = cargo.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("cargo could not build the bundle's executables ({})", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The path of each of [`EXECUTABLES`] in cargo's messages.
fn executables(messages: &str) -> Result<Vec<PathBuf>> {
    let messages: Vec<Value> = messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let path = |(_, name, kind): &(&str, &str, &str)| {
        let is_it = |message: &&Value| {
            let (target, is_bin) = (&message["target"], *kind == "bin");
            let is_target = target["name"] == *name && target["kind"][0] == *kind;
            // A program's own unit tests are another executable of the same target.
            is_target && message["executable"].is_string() && !(is_bin && message["profile"]["test"] == true)
        };
        let found = messages.iter().find(is_it).and_then(|message| message["executable"].as_str());
        found.map(PathBuf::from).ok_or_else(|| format!("cargo named no executable of the {kind} \"{name}\"").into())
    };
    EXECUTABLES.iter().map(path).collect()
}

/// A file, or a folder with all that is in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let told = |e: std::io::Error| format!("{} to {}: {e}", from.display(), to.display());
    if from.is_dir() {
        for entry in fs::read_dir(from).map_err(told)? {
            let entry = entry.map_err(told)?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    fs::create_dir_all(to.parent().ok_or("no folder to copy to")?).map_err(told)?;
    fs::copy(from, to).map_err(told)?;
    Ok(())
}

/// Drops the symbols of a copy: another cargo profile would build every dependency again for it.
fn strip(file: &Path) -> Result<()> {
    let status = Command::new("strip").arg(file).status().map_err(|e| format!("strip does not run: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("strip {}: {status}", file.display()).into()) }
}

/// The bytes of each file or folder in a folder.
fn sizes(folder: &Path) -> Result<Vec<(String, u64)>> {
    let mut sizes = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))? {
        let (entry, path) = entry.map(|entry| (entry.file_name(), entry.path()))?;
        let bytes = if path.is_dir() {
            self::sizes(&path)?.iter().map(|(_, bytes)| bytes).sum()
        } else {
            fs::metadata(&path)?.len()
        };
        sizes.push((entry.to_string_lossy().into_owned(), bytes));
    }
    sizes.sort();
    Ok(sizes)
}

fn within(total: u64) -> Result<()> {
    if total <= LIMIT {
        Ok(())
    } else {
        Err(format!("the bundle has {total} bytes, and at most {LIMIT} may be").into())
    }
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::env;

    use super::*;
    use crate::build::cache::Cache;

    #[test]
    fn an_object_is_found_again_by_the_same_sources_compiler_and_flags_alone() {
        let top = env::temp_dir().join(format!("batchnorm-cache-{}", std::process::id()));
        let (parent, kernels, nvcc) = (top.join("cache"), top.join("kernels"), top.join("nvcc"));
        fs::create_dir_all(kernels.join("common")).unwrap();
        let (source, header) = (kernels.join("a.cu"), kernels.join("common/b.cuh"));
        for file in [&source, &header, &nvcc] {
            fs::write(file, "1").unwrap();
        }
        let open = |flags: &[&str]| {
            Cache::open(&parent, &kernels, &nvcc, &flags.iter().map(|f| (*f).into()).collect::<Vec<_>>())
        };
        let finds = |flags: &[&str]| open(flags).unwrap().find(&source).is_some();
        assert!(!finds(&["-O3"]));
        open(&["-O3"]).unwrap().keep(&source, &header).unwrap();
        assert!(finds(&["-O3"]) && !finds(&["-O3", "-lineinfo"]));
        for file in [&source, &header, &nvcc] {
            fs::write(file, "22").unwrap();
            assert!(!finds(&["-O3"]), "{}", file.display());
            open(&["-O3"]).unwrap().keep(&source, &header).unwrap();
        }
        assert!(finds(&["-O3"]));
        fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn a_bundle_above_the_limit_is_refused() {
        assert!(within(LIMIT).is_ok());
        assert!(within(LIMIT + 1).is_err());
    }

    #[test]
    fn executables_are_told_apart() {
        let message = |name: &str, kind: &str, test: bool, path: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"name":"{name}","kind":["{kind}"]}},"profile":{{"test":{test}}},"executable":"{path}"}}"#
            )
        };
        let all = [
            r#"{"reason":"compiler-artifact","target":{"name":"batchnorm","kind":["lib"]},"executable":null}"#
                .to_owned(),
            message("batchnorm", "bin", true, "unit-tests"),
            message("batchnorm", "bin", false, "cli"),
            message("cuda", "test", true, "tests"),
        ];
        let found = executables(&all.join("\n")).unwrap();
        assert_eq!(found, ["cli", "tests"].map(PathBuf::from));
        let error = executables(&all[..3].join("\n")).unwrap_err();
        assert_eq!(error.to_string(), "cargo named no executable of the test \"cuda\"");
    }

    #[test]
    fn what_is_copied_is_in_the_repository() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for (from, _) in FILES {
            assert!(root.join(from).exists(), "{from}");
        }
    }
}

//! The input: PTX of one architecture, and the launches to execute.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use ptx_replay::launch::Launch;
use ptx_replay::ptx::Module;

use crate::kind::{self, Kind};

/// CTAs of a cooperative grid as on a GPU of today's size.
const LARGE: u32 = 132;

/// Modules, and the launches to execute by them.
pub(crate) struct Corpus {
    pub(crate) modules: Vec<Module>,
    pub(crate) cases: Vec<Case>,
    /// Launches that were there to choose from.
    pub(crate) offered: usize,
    /// Launches that failed on the emulated device, or that this architecture does not do.
    pub(crate) skipped: usize,
}

/// A launch to execute.
pub(crate) struct Case {
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) entry: String,
    /// The index of the module that has the entry.
    pub(crate) module: usize,
    /// CTAs that are resident together: of a cluster, or of a cooperative grid.
    pub(crate) together: u32,
    /// A measure of its work: bytes of memory and of CTAs.
    pub(crate) size: u64,
}

impl Corpus {
    /// Reads modules and launches, and draws `most` of each kind.
    pub(crate) fn open(ptx: &[PathBuf], paths: &[PathBuf], most: Option<usize>, seed: u64) -> Result<Self, String> {
        let modules = ptx.iter().map(|path| Module::open(path)).collect::<Result<Vec<_>, _>>()?;
        let target = modules.first().map_or(0, |module| module.target);
        if let Some(other) = modules.iter().find(|module| module.target != target) {
            return Err(format!("{}: expected sm_{target} as in the first file, got sm_{}", other.file, other.target));
        }
        let (mut files, mut folders) = (BTreeSet::new(), BTreeSet::new());
        for path in paths {
            find(path, &mut files, &mut folders)?;
        }
        if files.is_empty() {
            return Err(format!("expected files that end with .launch in {}", shown(paths)));
        }
        let (offered, mut skipped) = (files.len(), 0);
        let mut by_kind: BTreeMap<(Kind, usize, u32, bool, bool), Vec<Case>> = BTreeMap::new();
        for path in files {
            let launch = Launch::open(&path)?;
            // A template may be instantiated in several files.
            let having: Vec<usize> =
                (0..modules.len()).filter(|&module| modules[module].body(&launch.kernel).is_some()).collect();
            if having.is_empty() {
                return Err(format!("{}: no entry {} in the PTX", path.display(), launch.kernel));
            }
            having.iter().try_for_each(|&module| check_sources(&modules[module], &launch, &path))?;
            if launch.code != 0 || (launch.cluster > 1 && target < 90) {
                skipped += 1;
                continue;
            }
            let kind = kind::of(&launch);
            let changes = launch.allocations.iter().any(|allocation| allocation.before.bytes != allocation.after.bytes);
            let memory: usize = launch.allocations.iter().map(|allocation| allocation.before.bytes.len()).sum();
            let size = memory as u64 + u64::from(launch.ctas()) * (launch.shared_bytes + 65536);
            for module in having {
                let case = Case {
                    path: path.clone(),
                    kind: kind.clone(),
                    entry: launch.kernel.clone(),
                    module,
                    together: if launch.cooperative { launch.ctas() } else { launch.cluster },
                    size,
                };
                // A cluster of another size, a grid of a whole GPU, and what had nothing to do, are worth a launch of their own.
                let is_large = launch.cooperative && launch.ctas() >= LARGE;
                by_kind.entry((kind.clone(), module, launch.cluster, is_large, changes)).or_default().push(case);
            }
        }
        if by_kind.is_empty() {
            return Err(format!(
                "{offered} launches, none to execute: all failed on the emulated device, or need clusters"
            ));
        }
        let mut rng = Rng::with_seed(seed);
        let mut cases: Vec<Case> = by_kind.into_values().flat_map(|cases| draw(cases, most, &mut rng)).collect();
        // The largest first, so that no thread is left alone with them at the end.
        cases.sort_by_key(|case| std::cmp::Reverse(case.size));
        Ok(Self { modules, cases, offered, skipped })
    }

    /// The file and the name of every entry.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.modules.iter().flat_map(|module| module.entries().map(|entry| (module.file.as_str(), entry)))
    }
}

/// Launch and PTX are of the same sources, where the PTX says of which it is.
fn check_sources(module: &Module, launch: &Launch, path: &Path) -> Result<(), String> {
    match &module.sources {
        Some(expected) if *expected != launch.sources => {
            let got = if launch.sources.is_empty() { "none" } else { &launch.sources };
            let (path, file) = (path.display(), &module.file);
            Err(format!("{path}: of another build: expected sources {expected} as in {file}, got {got}"))
        }
        _ => Ok(()),
    }
}

/// Some of these, from the smaller half.
fn draw(mut cases: Vec<Case>, most: Option<usize>, rng: &mut Rng) -> Vec<Case> {
    let Some(most) = most.filter(|&most| most < cases.len()) else { return cases };
    cases.sort_by_key(|case| case.size);
    cases.truncate((cases.len() / 2).max(most));
    rng.shuffle(&mut cases);
    cases.truncate(most);
    cases
}

/// The launches in a folder and below, or the one that the path names. Links may lead to a folder again: it counts once.
fn find(path: &Path, files: &mut BTreeSet<PathBuf>, folders: &mut BTreeSet<PathBuf>) -> Result<(), String> {
    let told = |e: std::io::Error| format!("{}: {e}", path.display());
    if !path.is_dir() {
        files.insert(path.into());
        return Ok(());
    }
    if !folders.insert(fs::canonicalize(path).map_err(told)?) {
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(told)? {
        let path = entry.map_err(told)?.path();
        if path.is_dir() || path.extension().is_some_and(|extension| extension == "launch") {
            find(&path, files, folders)?;
        }
    }
    Ok(())
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

//! Launches on all processors.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use ptx_replay::compare::compare;
use ptx_replay::launch::Launch;
use ptx_replay::ptx::Entry;
use ptx_replay::{Machine, Options, Trap};

use crate::corpus::{Case, Corpus};
use crate::kind::Kind;

/// A change of an entry's body before it is decoded.
pub(crate) type Body = fn(&str) -> String;

/// The end of a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Equal,
    /// Equal but for the payloads of NaNs.
    Nan,
    Differs(String),
    Trap(String),
    /// The entry has something that is not known.
    Unknown(String),
}

pub(crate) struct Report {
    pub(crate) kind: Kind,
    pub(crate) entry: String,
    /// The index of the module that the entry is of.
    pub(crate) module: usize,
    pub(crate) file: String,
    pub(crate) outcome: Outcome,
    /// CTAs that were resident together.
    pub(crate) together: u32,
    pub(crate) instructions: u64,
    pub(crate) changed: u64,
    /// Whether each of the entry's instructions was executed.
    pub(crate) hit: Vec<bool>,
}

impl Outcome {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Equal => "EQUAL",
            Self::Nan => "NAN",
            Self::Differs(_) => "DIFFERS",
            Self::Trap(_) => "TRAP",
            Self::Unknown(_) => "UNKNOWN",
        }
    }

    pub(crate) fn is_failure(&self) -> bool {
        !matches!(self, Self::Equal | Self::Nan)
    }

    pub(crate) fn detail(&self) -> &str {
        match self {
            Self::Equal | Self::Nan => "",
            Self::Differs(what) | Self::Trap(what) | Self::Unknown(what) => what,
        }
    }
}

impl Report {
    /// The difference as one line.
    pub(crate) fn line(&self) -> String {
        let Self { kind, file, outcome, instructions, changed, .. } = self;
        format!("{}\t{file}\t{kind}\t{instructions}\t{changed}\t{}", outcome.name(), outcome.detail())
    }
}

/// Executes every case of a corpus. A case's seed is of its file's name too, so that it is the same in any company.
pub(crate) fn run(corpus: &Corpus, options: &Options, body: Body) -> Result<Vec<Report>, String> {
    let entries = Entries { corpus, body, decoded: Mutex::default() };
    in_parallel(&corpus.cases, |case| {
        let launch = Launch::open(&case.path)?;
        let file = case.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let blank = |outcome| Report {
            kind: case.kind.clone(),
            entry: case.entry.clone(),
            module: case.module,
            file: file.clone(),
            outcome,
            together: case.together,
            instructions: 0,
            changed: 0,
            hit: Vec::new(),
        };
        let mut result = match entries.of(case) {
            Ok(entry) => {
                let seed = if options.seed == 0 { 0 } else { options.seed ^ hash(&case.path) };
                execute(&entry, &launch, &case.kind, &Options { seed, ..*options })
                    .map_err(|what| format!("{}: {what}", case.path.display()))?
            }
            Err(trap) => blank(Outcome::Unknown(trap.to_string())),
        };
        if result.outcome.is_failure() {
            println!("{}  {file}  {}  {}", result.outcome.name(), case.kind, result.outcome.detail());
        }
        (result.file, result.module, result.together) = (file, case.module, case.together);
        Ok(result)
    })
}

/// Executes one launch.
pub(crate) fn execute(entry: &Entry, launch: &Launch, kind: &Kind, options: &Options) -> Result<Report, String> {
    let mut result = Report {
        kind: kind.clone(),
        entry: entry.name.clone(),
        module: 0,
        file: String::new(),
        outcome: Outcome::Equal,
        together: 1,
        instructions: 0,
        changed: 0,
        hit: Vec::new(),
    };
    match Machine::new(entry, launch, *options)?.run() {
        Ok(ran) => {
            let comparison = compare(launch, &ran.memory, kind.halves());
            result.outcome = match comparison.first {
                Some(first) => Outcome::Differs(format!("{} bytes; {first}", comparison.different)),
                None if comparison.in_nans > 0 => Outcome::Nan,
                None => Outcome::Equal,
            };
            result.changed = comparison.changed;
            result.instructions = ran.instructions;
            result.hit = ran.hit;
        }
        Err((trap, instructions)) => {
            result.outcome = Outcome::Trap(trap.to_string());
            result.instructions = instructions;
        }
    }
    Ok(result)
}

/// Entries that are decoded once.
struct Entries<'a> {
    corpus: &'a Corpus,
    body: Body,
    /// Kernels by name and module, decoded.
    decoded: Mutex<HashMap<(String, usize), Decoded>>,
}

type Decoded = Result<Arc<Entry>, Trap>;

impl Entries<'_> {
    fn of(&self, case: &Case) -> Decoded {
        let mut decoded = self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        decoded.entry((case.entry.clone(), case.module)).or_insert_with(|| self.decode(case)).clone()
    }

    fn decode(&self, case: &Case) -> Decoded {
        let module = &self.corpus.modules[case.module];
        let body = module.body(&case.entry).map(|(body, _)| (self.body)(body)).unwrap_or_default();
        module.entry_with_body(&case.entry, &body).map(Arc::new)
    }
}

/// A function of each item, in order, on all processors. The first error ends it.
pub(crate) fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    function: impl Fn(&T) -> Result<R, String> + Sync,
) -> Result<Vec<R>, String> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, R)>> = Mutex::default();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let work = || -> Result<(), String> {
        while let index = next.fetch_add(1, Ordering::Relaxed)
            && let Some(item) = items.get(index)
        {
            let result = function(item).inspect_err(|_| next.store(items.len(), Ordering::Relaxed))?;
            results.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|_| Err("a thread of the replay panicked".into())))
    })?;
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

/// A number of a file's name, but for the number of the process that wrote it: the same on every run.
fn hash(path: &Path) -> u64 {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let serial = name.rsplit(|&byte| byte == b'-').next().unwrap_or(name);
    serial
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

//! The table of what ran.

use std::collections::{BTreeMap, BTreeSet};

use crate::corpus::Corpus;
use crate::kind::{self, Kernel};
use crate::pool::{Outcome, Report};

#[derive(Default)]
struct Row {
    instances: BTreeSet<String>,
    epilogues: BTreeSet<&'static str>,
    together: u32,
    launches: usize,
    equal: usize,
    nan: usize,
    differs: usize,
    traps: usize,
}

/// Prints a row for each kernel and strategy, and what was not reached. Returns whether all is as it should be.
pub(crate) fn print(corpus: &Corpus, results: &[Report], require_all: bool) -> bool {
    let mut rows: BTreeMap<(String, String), Row> = BTreeMap::new();
    for result in results {
        let row = rows.entry((result.kind.kernel.clone(), result.kind.strategy())).or_default();
        row.instances.insert(result.kind.instance.clone());
        row.epilogues.extend(result.kind.epilogue);
        row.together = row.together.max(result.together);
        row.launches += 1;
        match result.outcome {
            Outcome::Equal => row.equal += 1,
            Outcome::Nan => row.nan += 1,
            Outcome::Differs(_) => row.differs += 1,
            Outcome::Trap(_) | Outcome::Unknown(_) => row.traps += 1,
        }
    }
    let target = corpus.modules.first().map_or(0, |module| module.target);
    println!(
        "\nsm_{target}: {} executions, drawn from {} launches; together: the most CTAs of a cluster or a cooperative grid\n",
        results.len(),
        corpus.offered
    );
    println!(
        "{:<24} {:<10} {:>9} {:>9} {:>8} {:>8} {:>6} {:>5} {:>7} {:>5}",
        "kernel", "strategy", "instances", "epilogues", "together", "launches", "equal", "nan", "differs", "trap"
    );
    for ((kernel, strategy), row) in &rows {
        let Row { together, launches, equal, nan, differs, traps, .. } = row;
        let (instances, epilogues) = (row.instances.len(), row.epilogues.len());
        println!(
            "{kernel:<24} {strategy:<10} {instances:>9} {epilogues:>9} {together:>8} {launches:>8} {equal:>6} {nan:>5} {differs:>7} {traps:>5}"
        );
    }
    let missing = missing(corpus, results);
    let (hit, all, ran) = instructions(results);
    let failures = results.iter().filter(|result| result.outcome.is_failure()).count();
    let executed: u64 = results.iter().map(|result| result.instructions).sum();
    println!(
        "\n{} of {} entries ran; of their instructions {hit} of {all}; {executed} instructions in all",
        ran,
        corpus.entries().count()
    );
    println!("{} skipped: failed on the emulated device, or clusters on an architecture without", corpus.skipped);
    println!(
        "{failures} differ or trapped; {} not reached{}",
        missing.len(),
        if missing.is_empty() { "" } else { ":" }
    );
    for name in &missing {
        println!("  not reached: {name}");
    }
    failures == 0 && (missing.is_empty() || !require_all)
}

/// Entries without a launch, and of the others the strategies and epilogues without one.
fn missing(corpus: &Corpus, results: &[Report]) -> Vec<String> {
    let mut reached: BTreeMap<(&str, &str), Vec<&Report>> = BTreeMap::new();
    for result in results {
        reached.entry((&corpus.modules[result.module].file, &result.entry)).or_default().push(result);
    }
    let has_clusters = corpus.modules.iter().any(|module| module.target >= 90);
    let mut missing = Vec::new();
    for (file, entry) in corpus.entries() {
        let (kernel, instance, _) = kind::names(entry);
        let name = format!("{file} {kernel}<{instance}>");
        match (reached.get(&(file, entry)), kind::kernel_named(&kernel)) {
            (None, Some(kernel)) if !has_clusters && needs_clusters(kernel, &instance) => {}
            (None, _) => missing.push(name),
            (Some(_), None) => missing.push(format!("{name}: what it is launched by, which src/kind.rs does not say")),
            (Some(results), Some(kernel)) => {
                let of_it = missing_kinds(kernel, &instance, results, has_clusters);
                missing.extend(of_it.into_iter().map(|kind| format!("{name} {kind}")));
            }
        }
    }
    missing
}

/// Whether an instance does nothing without clusters.
fn needs_clusters(kernel: &Kernel, instance: &str) -> bool {
    kernel.needs_clusters || kind::strategies_of(kernel, instance) == ["cluster"]
}

/// The strategies and epilogues of an entry that none of its launches has.
fn missing_kinds(kernel: &Kernel, instance: &str, results: &[&Report], has_clusters: bool) -> Vec<String> {
    // None: any strategy will do.
    let strategies: Vec<Option<&str>> = if kernel.strategies.is_empty() {
        vec![None]
    } else {
        kind::strategies_of(kernel, instance).into_iter().map(Some).collect()
    };
    let mut missing = Vec::new();
    for strategy in strategies.into_iter().filter(|&strategy| has_clusters || strategy != Some("cluster")) {
        let its: Vec<_> =
            results.iter().filter(|result| strategy.is_none() || result.kind.strategy == strategy).collect();
        let name = strategy.unwrap_or_default();
        if its.is_empty() {
            missing.push(name.to_owned());
            continue;
        }
        let epilogues = kernel.epilogues.iter().copied();
        let without = epilogues.filter(|&epilogue| !its.iter().any(|result| result.kind.epilogue == Some(epilogue)));
        missing.extend(without.map(|epilogue| format!("{name} {epilogue}").trim().to_owned()));
    }
    missing
}

/// Instructions that were executed at least once, all of the entries that ran, and how many these are.
fn instructions(results: &[Report]) -> (usize, usize, usize) {
    let mut hits: BTreeMap<(usize, &str), Vec<bool>> = BTreeMap::new();
    for result in results.iter().filter(|result| !result.hit.is_empty()) {
        let hit = hits.entry((result.module, &result.entry)).or_insert_with(|| vec![false; result.hit.len()]);
        for (all, one) in hit.iter_mut().zip(&result.hit) {
            *all |= one;
        }
    }
    let hit = hits.values().flatten().filter(|&&hit| hit).count();
    (hit, hits.values().map(Vec::len).sum(), hits.len())
}

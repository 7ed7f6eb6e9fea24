//! What ran, as a table.

use std::collections::{BTreeMap, BTreeSet};

use crate::corpus::Corpus;
use crate::kind;
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
        "\nsm_{target}: {} of {} launches; together: the most CTAs of a cluster or a cooperative grid\n",
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
    let mut missing = Vec::new();
    for (file, entry) in corpus.entries() {
        let (kernel, instance, _) = kind::names(entry);
        let name = format!("{file} {kernel}<{instance}>");
        let Some(results) = reached.get(&(file, entry)) else {
            missing.push(name);
            continue;
        };
        let strategies = kind::strategies_of(&kernel)
            .iter()
            .map(Some)
            .chain(kind::strategies_of(&kernel).is_empty().then_some(None));
        for strategy in strategies {
            if strategy == Some(&"cluster") && corpus.modules.iter().all(|module| module.target < 90) {
                continue;
            }
            let of_strategy: Vec<_> = results
                .iter()
                .filter(|result| strategy.is_none_or(|&name| result.kind.strategy == Some(name)))
                .collect();
            let strategy = strategy.map_or(String::new(), |name| format!(" {name}"));
            if of_strategy.is_empty() {
                missing.push(format!("{name}{strategy}"));
                continue;
            }
            for epilogue in kind::epilogues_of(&kernel) {
                if !of_strategy.iter().any(|result| result.kind.epilogue == Some(epilogue)) {
                    missing.push(format!("{name}{strategy} {epilogue}"));
                }
            }
        }
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

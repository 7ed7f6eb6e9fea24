//! Shows that the replay can fail: plants a fault in the PTX of a kernel, and executes launches that run it.
//!
//! A fault is noticed where a launch differs or traps, in some order of a few that are drawn. One that nothing can notice is in
//! the list with the reason, and fails once it is noticed.

mod list;

use std::collections::BTreeMap;

use fastrand::Rng;
use ptx_replay::launch::Launch;
use ptx_replay::ptx::Entry;
use ptx_replay::{Options, Trap};
use regex::Regex;

use crate::corpus::{Case, Corpus};
use crate::pool::{Outcome, execute, in_parallel};
use list::{Fault, LIST, Noticed};

/// Launches that a fault is tried by in a kernel, at most.
const LAUNCHES: usize = 12;
/// Orders in which each of them is tried.
const SEEDS: [u64; 5] = [0, 1, 2, 3, 4];

/// A fault in a kernel.
struct Planted {
    fault: usize,
    /// Kernel, line, and what was put where.
    place: String,
    /// The outcome by which it was noticed.
    noticed: Option<String>,
}

/// Plants every fault of the list, in one kernel after the other until it is noticed, in `kernels` of them at most; with
/// `every` in all of these. Returns whether each was noticed that should be, and no other.
pub(crate) fn run(
    corpus: &Corpus,
    seed: u64,
    kernels: usize,
    every: bool,
    filter: Option<&str>,
) -> Result<bool, String> {
    let mut by_entry: BTreeMap<(&str, usize), Vec<&Case>> = BTreeMap::new();
    for case in &corpus.cases {
        by_entry.entry((&case.entry, case.module)).or_default().push(case);
    }
    let faults: Vec<(usize, &Fault)> =
        LIST.iter().enumerate().filter(|(_, fault)| filter.is_none_or(|part| fault.name.contains(part))).collect();
    if faults.is_empty() {
        return Err(format!("no fault has {} in its name", filter.unwrap_or_default()));
    }
    let planted = in_parallel(&faults, |&(number, fault)| {
        let mut rng = Rng::with_seed(seed ^ number as u64);
        let pattern = Regex::new(fault.pattern).map_err(|e| format!("{}: {e}", fault.name))?;
        let mut entries: Vec<_> = by_entry.iter().collect();
        rng.shuffle(&mut entries);
        let mut planted = Vec::new();
        for (&(entry, module), cases) in entries {
            let is_noticed = planted.iter().any(|planted: &Planted| planted.noticed.is_some());
            if planted.len() == kernels || (is_noticed && !every) {
                break;
            }
            let of_strategy = |case: &&&Case| fault.strategy.is_none_or(|name| case.kind.strategy == Some(name));
            let mut cases: Vec<&Case> = cases.iter().filter(of_strategy).copied().collect();
            rng.shuffle(&mut cases);
            cases.truncate(2 * LAUNCHES);
            if let Some((place, noticed)) = plant(corpus, fault, &pattern, (entry, module), &cases, &mut rng)? {
                planted.push(Planted { fault: number, place, noticed });
            }
        }
        Ok(planted)
    })?;
    let planted: Vec<Planted> = planted.into_iter().flatten().collect();
    println!("\n{:<44} {:>7} {:>7}  how", "fault", "kernels", "noticed");
    let mut is_right = true;
    for (number, fault) in faults {
        let its: Vec<&Planted> = planted.iter().filter(|planted| planted.fault == number).collect();
        let noticed = its.iter().filter(|planted| planted.noticed.is_some()).count();
        let how = its.iter().find_map(|planted| planted.noticed.clone()).unwrap_or_default();
        let (is_expected, remark) = match fault.noticed {
            Noticed::Yes => (noticed > 0, ""),
            Noticed::Never(reason) => (noticed == 0 && !its.is_empty(), reason),
        };
        is_right &= is_expected;
        let how: String =
            if remark.is_empty() { how.chars().take(100).collect() } else { format!("not seen: {remark}") };
        println!("{:<44} {:>7} {noticed:>7}  {how}", fault.name, its.len());
        if !is_expected {
            let places: Vec<&str> = its.iter().map(|planted| planted.place.as_str()).collect();
            println!("  FAILED: expected {:?}; planted at {}", fault.noticed, places.join("; "));
        }
    }
    let noticed = planted.iter().filter(|planted| planted.noticed.is_some()).count();
    println!("\n{noticed} of {} planted faults were noticed", planted.len());
    Ok(is_right)
}

/// Plants a fault where launches of an entry run it. Returns where, and how it was noticed; `None` where there is no such place.
fn plant(
    corpus: &Corpus,
    fault: &Fault,
    pattern: &Regex,
    (name, module): (&str, usize),
    cases: &[&Case],
    rng: &mut Rng,
) -> Result<Option<(String, Option<String>)>, String> {
    let module = &corpus.modules[module];
    let Some((body, first_line)) = module.body(name) else { return Ok(None) };
    let mut places: Vec<_> = pattern.captures_iter(body).filter_map(|found| Some((found.get(0)?, found))).collect();
    places.retain(|(place, _)| fault.occurrence.is_it(&body[..place.start()]));
    if places.is_empty() || cases.is_empty() {
        return Ok(None);
    }
    let entry = module.entry(name).map_err(|trap| trap.to_string())?;
    // Each launch, with the lines that it runs.
    let mut launches = Vec::new();
    for case in cases {
        let launch = Launch::open(&case.path)?;
        let options = Options { seed: 0, ..Options::default() };
        let ran = execute(&entry, &launch, &case.kind, &options)?;
        let lines: Vec<u32> = entry.lines().zip(&ran.hit).filter(|(_, hit)| **hit).map(|(line, _)| line).collect();
        launches.push((launch, *case, ran.instructions, lines));
    }
    let line_of = |at: usize| first_line + body[..at].matches('\n').count() as u32;
    rng.shuffle(&mut places);
    let run = |at: usize| launches.iter().any(|(.., lines)| lines.binary_search(&line_of(at)).is_ok());
    let Some((place, found)) = places.into_iter().find(|(place, _)| run(place.start())) else { return Ok(None) };
    let line = line_of(place.start());
    launches.retain(|(.., lines)| lines.binary_search(&line).is_ok());
    launches.truncate(LAUNCHES);
    let mut new = String::new();
    found.expand(fault.instead, &mut new);
    let changed = format!("{}{new}{}", &body[..place.start()], &body[place.end()..]);
    let shown = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let told = format!("{name}, {}:{line} \"{}\" became \"{}\"", module.file, shown(place.as_str()), shown(&new));
    let mutant = match module.entry_with_body(name, &changed) {
        Ok(mutant) => mutant,
        Err(trap) => return Ok(Some((told, Some(format!("not decoded: {trap}"))))),
    };
    let may_spin = matches!(fault.noticed, Noticed::Never(_));
    Ok(Some((told, notice(&mutant, &launches, may_spin)?)))
}

/// The outcome of the first of these launches that tells that something is wrong. Where a cluster `may_spin`, the limit of instructions
/// tells nothing: an order in which a CTA polls for long reaches it too.
fn notice(
    mutant: &Entry,
    launches: &[(Launch, &Case, u64, Vec<u32>)],
    may_spin: bool,
) -> Result<Option<String>, String> {
    for seed in SEEDS {
        for (launch, case, instructions, _) in launches {
            let options = Options { seed, most_instructions: 30 * instructions + 1_000_000, ..Options::default() };
            let outcome = execute(mutant, launch, &case.kind, &options)?.outcome;
            let is_limit = may_spin && outcome.detail().starts_with(Trap::NO_END);
            if matches!(outcome, Outcome::Differs(_) | Outcome::Trap(_)) && !is_limit {
                return Ok(Some(format!("{}: {}", outcome.name().to_lowercase(), outcome.detail())));
            }
        }
    }
    Ok(None)
}

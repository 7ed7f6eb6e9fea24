//! The findings, as tables and as JSON.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::stretches::{Counts, Stretch};
use super::{Kernel, Source, budget, occupancy};

/// A table for each architecture, one of the files, and a summary in the last line.
pub(super) fn print(sources: &[Source], elapsed: Duration) {
    for architecture in architectures(sources) {
        println!("sm_{architecture}");
        let mut rows = vec![HEAD.map(String::from).to_vec()];
        for source in sources {
            rows.extend(source.kernels.iter().filter(|kernel| kernel.architecture == architecture).map(row));
        }
        table(&rows);
        let mut rows = vec![stretch_head()];
        for source in sources {
            rows.extend(
                source.kernels.iter().filter(|kernel| kernel.architecture == architecture).flat_map(stretch_rows),
            );
        }
        println!("sm_{architecture}, between walks over data: from least to most");
        table(&rows);
    }
    let mut rows = vec![["file", "seconds", "bytes"].map(String::from).to_vec()];
    for Source { file, seconds, bytes, .. } in sources {
        rows.push(vec![file.clone(), format!("{seconds:.1}"), bytes.to_string()]);
    }
    table(&rows);

    println!(
        "budgets of f16 and bf16: {} instructions an element forward, {} backward",
        budget::FORWARD,
        budget::BACKWARD
    );
    let all = || sources.iter().flat_map(|source| &source.kernels);
    let count = architectures(sources).len();
    println!(
        "kernels: {} kernels, {count} architectures, max {} registers, {} spills, fat binary {:.0} KB, compiled in \
         {:.0} s",
        all().count() / count.max(1),
        all().map(|kernel| kernel.registers).max().unwrap_or(0),
        all().filter(|kernel| kernel.spills > 0).count(),
        sources.iter().map(|source| source.bytes).sum::<u64>() as f64 / 1e3,
        elapsed.as_secs_f64(),
    );
}

/// The same, for programs.
pub(super) fn json(sources: &[Source]) -> Value {
    let kernel = |source: &Source, kernel: &Kernel| {
        json!({
            "file": source.file,
            "kernel": kernel.name,
            "architecture": format!("sm_{}", kernel.architecture),
            "threads": kernel.code.threads,
            "registers": kernel.registers,
            "resident_ctas": resident(kernel),
            "static_shared_bytes": kernel.shared,
            "stack_bytes": kernel.stack,
            "spill_bytes": kernel.spills,
            "local_accesses": kernel.code.local,
            "widest_load": kernel.code.load.map(|access| access.to_string()),
            "widest_store": kernel.code.store.map(|access| access.to_string()),
            "instructions_an_element": budget::instructions(kernel),
            "stretches": kernel.code.stretches.iter().map(stretch).collect::<Vec<_>>(),
            "atomics": kernel.code.atomics,
        })
    };
    let file =
        |source: &Source| json!({"file": source.file, "seconds": source.seconds, "fat_binary_bytes": source.bytes});
    let kernels = sources.iter().flat_map(|source| source.kernels.iter().map(move |it| kernel(source, it)));
    json!({
        "files": sources.iter().map(file).collect::<Vec<_>>(),
        "kernels": kernels.collect::<Vec<_>>(),
    })
}

fn stretch(stretch: &Stretch) -> Value {
    let counts = |counts: &Counts| {
        counts.named().map(|(name, count)| (name.replace(' ', "_"), json!(count))).into_iter().collect::<Map<_, _>>()
    };
    json!({
        "from": stretch.from.to_string(),
        "to": stretch.to.to_string(),
        "exchange": stretch.exchange.to_string(),
        "least": counts(&stretch.least),
        "most": counts(&stretch.most),
    })
}

/// The architectures in the order of age.
pub(super) fn architectures(sources: &[Source]) -> Vec<String> {
    let all = sources.iter().flat_map(|source| &source.kernels).map(|kernel| kernel.architecture.clone());
    let all: BTreeSet<(usize, String)> = all.map(|name| (name.len(), name)).collect();
    all.into_iter().map(|(_, name)| name).collect()
}

const HEAD: [&str; 11] = [
    "kernel",
    "threads",
    "registers",
    "CTAs/SM",
    "shared",
    "stack",
    "spilled",
    "local",
    "load",
    "store",
    "instr/element",
];

fn row(kernel: &Kernel) -> Vec<String> {
    let known = |value: Option<u32>| value.map_or("-".into(), |value| value.to_string());
    let access = |access: Option<super::sass::Access>| access.map_or("-".into(), |access| access.to_string());
    vec![
        kernel.name.clone(),
        known(kernel.code.threads),
        kernel.registers.to_string(),
        known(resident(kernel)),
        kernel.shared.to_string(),
        kernel.stack.to_string(),
        kernel.spills.to_string(),
        kernel.code.local.to_string(),
        access(kernel.code.load),
        access(kernel.code.store),
        budget::instructions(kernel).map_or("-".into(), |found| format!("{found:.1}")),
    ]
}

fn stretch_head() -> Vec<String> {
    let counts = Counts::default().named().map(|(name, _)| name);
    ["kernel", "from", "to", "exchange"].into_iter().chain(counts).map(String::from).collect()
}

/// A row for each stretch, with one number where least and most are equal.
fn stretch_rows(kernel: &Kernel) -> Vec<Vec<String>> {
    let row = |stretch: &Stretch| {
        let Stretch { from, to, exchange, least, most } = stretch;
        let counts = least.named().into_iter().zip(most.named()).map(|((_, least), (_, most))| match least == most {
            true => least.to_string(),
            false => format!("{least}-{most}"),
        });
        let words = [kernel.name.clone(), from.to_string(), to.to_string(), exchange.to_string()];
        words.into_iter().chain(counts).collect()
    };
    kernel.code.stretches.iter().map(row).collect()
}

/// Resident CTAs at its launch bounds, with static shared memory alone: dynamic shared memory is the plan's choice.
fn resident(kernel: &Kernel) -> Option<u32> {
    occupancy::ctas(&kernel.architecture, kernel.code.threads?, kernel.registers, kernel.shared)
}

/// Columns as wide as their widest cell, the first to the left and the others to the right.
fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        println!("{}", cells.collect::<Vec<_>>().join("  "));
    }
    println!();
}

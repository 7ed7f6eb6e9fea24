//! The paths of a stretch.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::algo::{dominators::simple_fast, toposort};
use petgraph::prelude::{Dfs, DiGraphMap};
use petgraph::visit::Reversed;

use super::super::flow::{Loop, is_call};
use super::super::sass::Line;
use super::{Counts, Exchange};

/// The shortest and the longest path to a line.
pub(super) type Paths = (Counts, Counts);

/// A search for the paths of a stretch, in a graph without cycles.
pub(super) struct Search<'a> {
    lines: &'a [Line<'a>],
    graph: DiGraphMap<usize, ()>,
    order: Vec<usize>,
    end: usize,
    /// The first lines that lead to other walks alone.
    closed: BTreeSet<usize>,
    cluster: Shown,
    grid: Shown,
}

/// The lines that show an exchange.
#[derive(Default)]
struct Shown {
    /// For each of them the lines that every path to it passes, and not every path to the end, from it to the first.
    leading: Vec<Vec<usize>>,
    /// Whether every way has this exchange.
    is_certain: bool,
}

/// The line before all others.
const START: usize = usize::MAX;

impl<'a> Search<'a> {
    /// None where no path leads to the end.
    pub(super) fn new(
        lines: &'a [Line<'a>],
        mut graph: DiGraphMap<usize, ()>,
        starts: &BTreeSet<usize>,
        end: usize,
        others: &[&Loop],
    ) -> Option<Self> {
        for &start in starts {
            graph.add_edge(START, start, ());
        }
        let always: BTreeSet<usize> = simple_fast(&graph, START).dominators(end)?.collect();
        for call in (0..lines.len()).filter(|line| is_call(&lines[*line]) && !always.contains(line)) {
            graph.remove_node(call);
        }
        let order = toposort(&graph, None).ok()?;
        let dominators = simple_fast(&graph, START);
        let always: BTreeSet<usize> = dominators.dominators(end)?.collect();
        // From a line back to the first that leads to it alone.
        let leading = |line: usize| -> Option<Vec<usize>> {
            Some(dominators.dominators(line)?.filter(|it| !always.contains(it)).collect())
        };
        let closed: BTreeSet<usize> = others.iter().filter_map(|walk| leading(walk.head)?.last().copied()).collect();
        let [mut cluster, mut grid] = [Shown::default(), Shown::default()];
        // Lines that lead to the end: others say nothing of the ways to it.
        let mut behind = Dfs::new(Reversed(&graph), end);
        let to_end: BTreeSet<usize> = core::iter::from_fn(|| behind.next(Reversed(&graph))).collect();
        for &line in order.iter().filter(|&&line| line != START && to_end.contains(&line)) {
            let Some(exchange) = shown(&lines[line]) else { continue };
            let Some(leading) = leading(line).filter(|leading| !leading.iter().any(|it| closed.contains(it))) else {
                continue;
            };
            // Some threads load the partials of a grid. If a barrier of the CTA leads to that, all of the CTA took this way.
            let (found, is_a_way) = match exchange {
                Exchange::Grid => (&mut grid, leading.iter().any(|&line| is(&lines[line], "BAR"))),
                Exchange::Block | Exchange::Cluster => (&mut cluster, !leading.is_empty()),
            };
            if is_a_way {
                found.leading.push(leading);
            } else {
                found.is_certain = true;
            }
        }
        Some(Self { lines, graph, order, end, closed, cluster, grid })
    }

    /// The ways that there are, and their paths.
    pub(super) fn ways(&self) -> Vec<(Exchange, Paths)> {
        // Closed are the first lines that lead to other exchanges and not to this one.
        let way = |exchange, own: Option<&Shown>, others: &[&Shown]| {
            let spared: BTreeSet<usize> = own.iter().flat_map(|own| &own.leading).flatten().copied().collect();
            let leading = others.iter().flat_map(|other| &other.leading);
            let first = |leading: &Vec<usize>| leading.iter().rfind(|line| !spared.contains(line)).copied();
            let closed: BTreeSet<usize> = leading.filter_map(first).chain(self.closed.iter().copied()).collect();
            let is_open = others.iter().all(|other| !other.is_certain);
            is_open.then(|| self.paths(exchange, &closed)).flatten().map(|paths| (exchange, paths))
        };
        let Self { cluster, grid, .. } = self;
        let all = [
            way(Exchange::Block, None, &[cluster, grid]),
            way(Exchange::Cluster, Some(cluster), &[grid]),
            way(Exchange::Grid, Some(grid), &[cluster]),
        ];
        all.into_iter().flatten().collect()
    }

    /// The paths of a way, to the line before the end.
    fn paths(&self, exchange: Exchange, closed: &BTreeSet<usize>) -> Option<Paths> {
        // To each line, before it: before the exchange, and behind it.
        let mut before = BTreeMap::from([(START, [Some((Counts::default(), Counts::default())), None])]);
        for &line in &self.order {
            let Some(mut paths) = before.get(&line).copied() else { continue };
            if line == self.end {
                return paths[usize::from(exchange != Exchange::Block)];
            }
            if closed.contains(&line) {
                continue;
            }
            if line != START {
                for (least, most) in paths.iter_mut().flatten() {
                    least.add(&self.lines[line]);
                    most.add(&self.lines[line]);
                }
                if shown(&self.lines[line]) == Some(exchange) {
                    paths = [None, joined(paths[0], paths[1])];
                }
            }
            for next in self.graph.neighbors(line) {
                let known = before.entry(next).or_default();
                *known = [joined(known[0], paths[0]), joined(known[1], paths[1])];
            }
        }
        None
    }
}

/// The shorter and the longer of the paths to a line.
fn joined(one: Option<Paths>, other: Option<Paths>) -> Option<Paths> {
    let (Some(a), Some(b)) = (one, other) else { return one.or(other) };
    let length = |counts: &Counts| counts.instructions;
    Some((std::cmp::min_by_key(a.0, b.0, length), std::cmp::max_by_key(a.1, b.1, length)))
}

/// The exchange that a line shows, if any.
fn shown(line: &Line<'_>) -> Option<Exchange> {
    let Line::Instruction { opcode, .. } = line else { return None };
    match opcode.split('.').next().unwrap_or_default() {
        "UCGABAR_ARV" | "UCGABAR_WAIT" => Some(Exchange::Cluster),
        "SYNCS" if opcode.contains("PHASECHK") => Some(Exchange::Cluster),
        "LDG" | "LD" if opcode.contains("STRONG") => Some(Exchange::Grid),
        _ => None,
    }
}

fn is(line: &Line<'_>, name: &str) -> bool {
    matches!(line, Line::Instruction { opcode, .. } if opcode.split('.').next() == Some(name))
}

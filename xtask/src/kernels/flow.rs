//! The control flow of a kernel's machine code, and its loops.
//!
//! A backward branch alone is no loop: the compiler moves rare code behind the rest, from where it branches back. A loop
//! is a branch to an instruction that every path to the branch passes (a natural loop).

use std::collections::{BTreeMap, BTreeSet};

use petgraph::algo::dominators::simple_fast;
use petgraph::prelude::{Dfs, DfsPostOrder, DiGraphMap, Direction};

use super::sass::Line;

/// The control flow of a kernel's lines, by their numbers.
pub(super) struct Flow {
    /// An edge from a line to each that may follow it.
    pub(super) graph: DiGraphMap<usize, ()>,
    pub(super) loops: Vec<Loop>,
    /// The graph with one turn of each loop: a branch back goes to where the loop can end. It has no cycles, unless control
    /// enters a loop at several lines.
    pub(super) open: DiGraphMap<usize, ()>,
}

impl Flow {
    pub(super) fn of(lines: &[Line<'_>]) -> Self {
        let graph = graph(lines);
        let loops = natural(&graph);
        let open = cut_open(&graph, &loops);
        Self { graph, loops, open }
    }
}

/// A natural loop.
#[derive(Debug)]
pub(super) struct Loop {
    pub(super) head: usize,
    pub(super) body: BTreeSet<usize>,
}

impl Loop {
    /// The lines outside that a branch from inside leads to.
    pub(super) fn exits(&self, graph: &DiGraphMap<usize, ()>) -> BTreeSet<usize> {
        let targets = self.body.iter().flat_map(|&line| graph.neighbors(line));
        targets.filter(|target| !self.body.contains(target)).collect()
    }
}

/// The loops among some that have no other of them inside.
pub(super) fn innermost<'a>(loops: &[&'a Loop]) -> impl Iterator<Item = &'a Loop> {
    let is_inside = |inner: &Loop, outer: &Loop| inner.head != outer.head && inner.body.is_subset(&outer.body);
    loops.iter().copied().filter(move |outer| !loops.iter().any(|inner| is_inside(inner, outer)))
}

/// Every loop. Those that begin at the same line are one.
fn natural(graph: &DiGraphMap<usize, ()>) -> Vec<Loop> {
    if !graph.contains_node(0) {
        return Vec::new();
    }
    let dominators = simple_fast(graph, 0);
    let dominates =
        |head: usize, from: usize| dominators.dominators(from).is_some_and(|mut all| all.any(|it| it == head));
    // Whatever dominates a line is visited before it: only edges back in this order are asked for.
    let mut visits = DfsPostOrder::new(graph, 0);
    let from_the_end: Vec<usize> = std::iter::from_fn(|| visits.next(graph)).collect();
    let places: BTreeMap<usize, usize> =
        from_the_end.iter().rev().enumerate().map(|(place, &line)| (line, place)).collect();
    let is_back =
        |from: usize, head: usize| places.get(&head).zip(places.get(&from)).is_some_and(|(head, from)| head <= from);
    let back = graph.all_edges().filter(|&(from, head, ())| is_back(from, head) && dominates(head, from));
    let mut loops: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (from, head, ()) in back {
        // The body is what reaches the branch without passing the head.
        let body = loops.entry(head).or_insert_with(|| BTreeSet::from([head]));
        let mut waiting = vec![from];
        while let Some(line) = waiting.pop() {
            if body.insert(line) {
                waiting.extend(graph.neighbors_directed(line, Direction::Incoming));
            }
        }
    }
    loops.into_iter().map(|(head, body)| Loop { head, body }).collect()
}

/// Cuts each loop open. Those inside others come first, for where they end may be the head of those.
fn cut_open(graph: &DiGraphMap<usize, ()>, loops: &[Loop]) -> DiGraphMap<usize, ()> {
    let mut open = DiGraphMap::new();
    // Routines that are called are no part of it.
    let mut visits = Dfs::new(graph, 0);
    while let Some(line) = visits.next(graph) {
        open.extend(graph.edges(line));
    }
    let mut from_inside: Vec<&Loop> = loops.iter().collect();
    from_inside.sort_by_key(|found| found.body.len());
    for found in from_inside {
        let exits = found.exits(&open);
        let back: Vec<usize> = open.neighbors_directed(found.head, Direction::Incoming).collect();
        for from in back.into_iter().filter(|from| found.body.contains(from)) {
            open.remove_edge(from, found.head);
            for &exit in &exits {
                open.add_edge(from, exit, ());
            }
        }
    }
    open
}

/// Whether a line calls a routine, which comes back. To a label of the kernel's own code a call is a branch.
pub(super) fn is_call(line: &Line<'_>) -> bool {
    matches!(line, Line::Instruction { opcode, operands, .. }
        if opcode.split('.').next() == Some("CALL") && !operands.contains("(.L_"))
}

/// The control flow: an edge from a line to each that may follow it.
fn graph(lines: &[Line<'_>]) -> DiGraphMap<usize, ()> {
    let labels = lines.iter().enumerate().filter_map(|(index, line)| match line {
        Line::Label(label) => Some((*label, index)),
        Line::Instruction { .. } => None,
    });
    let labels: BTreeMap<&str, usize> = labels.collect();
    let mut graph = DiGraphMap::new();
    for (index, line) in lines.iter().enumerate() {
        let mut goes_on = true;
        if let Line::Instruction { guarded, opcode, operands } = line {
            let opcode = opcode.split('.').next().unwrap_or_default();
            let is_branch = ["BRA", "BRX", "BRXU", "JMP", "JMX"].contains(&opcode);
            if is_branch || (opcode == "CALL" && !is_call(line)) {
                // `(.L_x_5), or a table of them; a condition may stand before it.
                for name in operands.split(['(', ')', ',', ' ', '"']) {
                    if let Some(&target) = labels.get(name) {
                        graph.add_edge(index, target, ());
                    }
                }
                goes_on = *guarded || (opcode == "BRA" && !operands.starts_with('`'));
            } else if ["EXIT", "RET"].contains(&opcode) {
                goes_on = *guarded;
            }
        }
        if goes_on && index + 1 < lines.len() {
            graph.add_edge(index, index + 1, ());
        }
    }
    graph
}

//! The machine code of a cubin, as nvdisasm writes it.

use std::collections::BTreeMap;

use petgraph::algo::toposort;

use super::flow::{Flow, Loop};
use super::loops::{self, LoopPath};
use super::stretches::{self, Stretch};

/// A kernel's accesses of memory.
#[derive(Default)]
pub(super) struct Code {
    /// The threads of its launch bounds.
    pub(super) threads: Option<u32>,
    /// Instructions that read or write local memory.
    pub(super) local: usize,
    /// The widest access to global memory in the hot loop.
    pub(super) load: Option<Access>,
    pub(super) store: Option<Access>,
    /// The path around the loop that stores data, and of that which only loads it.
    pub(super) storing: Option<LoopPath>,
    pub(super) loading: Option<LoopPath>,
    /// Before and between these.
    pub(super) stretches: Vec<Stretch>,
    /// The atomic instructions, as they are written.
    pub(super) atomics: Vec<String>,
}

/// An access to global memory. Bulk copies are wider than any other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Access {
    bits: u32,
    opcode: &'static str,
}

/// The accesses of a kernel's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Data {
    /// Bits of each access.
    pub(super) bits: u32,
    /// Operations of f32 for each access of a walk that only loads, and of one that stores, at least; `None` where there is no
    /// such walk.
    pub(super) loading: Option<usize>,
    pub(super) storing: Option<usize>,
}

/// An instruction, or a label.
pub(super) enum Line<'a> {
    Label(&'a str),
    Instruction { guarded: bool, opcode: &'a str, operands: &'a str },
}

impl Access {
    /// Whether it moves at least a vector.
    pub(super) fn is_vector(self) -> bool {
        self.bits >= VECTOR
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bits, opcode } = self;
        if *bits == BULK { f.pad(opcode) } else { f.pad(&format!("{opcode}.{bits}")) }
    }
}

const BULK: u32 = u32::MAX;
/// Bits of a vector.
const VECTOR: u32 = 128;
/// Generic accesses (LD, ST) may be to global memory too.
const LOADS: [&str; 4] = ["LDG", "LD", "LDGSTS", "UBLKCP.S.G"];
const STORES: [&str; 3] = ["STG", "ST", "UBLKCP.G.S"];
/// The accesses of what a walk that loads keeps in shared memory, and those by which one that stores comes by its data.
const KEPT: [&str; 1] = ["STS"];
const SOURCES: [&str; 3] = ["LDS", "LDG", "LD"];

/// The code of every kernel by its symbol, which `data` knows the data of.
pub(super) fn read(text: &str, data: impl Fn(&str) -> Option<Data>) -> BTreeMap<String, Code> {
    let mut kernels: BTreeMap<String, Code> = BTreeMap::new();
    // Sections begin with a line of their own: //------ .text._Z1kPf ------
    for section in text.split("//---------------------").skip(1) {
        let Some((name, body)) = section.trim_start().split_once(' ') else { continue };
        if let Some(symbol) = name.strip_prefix(".text.") {
            let code = kernels.entry(symbol.to_string()).or_default();
            let lines: Vec<Line<'_>> = body.lines().filter_map(parse).collect();
            code.local = lines.iter().filter(|line| matches!(opcode(line), "LDL" | "STL")).count();
            let flow = Flow::of(&lines);
            code.load = loops::widest(&lines, &flow, |line| access(line, &LOADS));
            code.store = loops::widest(&lines, &flow, |line| access(line, &STORES));
            code.atomics = lines.iter().filter_map(atomic).collect();
            if let Some(data) = data(symbol) {
                walks(code, &lines, &flow, data);
            }
        } else if let Some(symbol) = name.strip_prefix(".nv.info.") {
            kernels.entry(symbol.to_string()).or_default().threads = threads(body);
        }
    }
    kernels
}

/// Finds the walks over data, and what is before and between them.
fn walks<'a>(code: &mut Code, lines: &[Line<'_>], flow: &'a Flow, data: Data) {
    let is_of = |line: &Line<'_>, opcodes| access(line, opcodes).is_some_and(|access| access.bits == data.bits);
    let (stores, loads) = (|line: &Line<'_>| is_of(line, &STORES), |line: &Line<'_>| is_of(line, &LOADS));
    let sources = |line: &Line<'_>| is_of(line, &SOURCES);
    let kept = |line: &Line<'_>| is_of(line, &KEPT);
    let storing = data.storing.map_or_else(Vec::new, |arithmetic| {
        let no_other = |_: &Line<'_>| false;
        loops::paths(lines, flow, &loops::Wanted { access: stores, beside: sources, other: no_other, arithmetic })
    });
    let loading = data.loading.map_or_else(Vec::new, |arithmetic| {
        loops::paths(lines, flow, &loops::Wanted { access: loads, beside: kept, other: stores, arithmetic })
    });

    // Those with most accesses: the compiler may have made copies for the last few, and merges of partials load one at a time.
    // The last of several, which what is stored comes from.
    let order = toposort(&flow.open, None).unwrap_or_default();
    let place = |walk: &Loop| order.iter().position(|&line| line == walk.head);
    let chosen =
        |found: &[(&'a Loop, LoopPath)]| found.iter().max_by_key(|(walk, path)| (path.accesses, place(walk))).copied();
    let (load, store) = (chosen(&loading), chosen(&storing));
    let is_other = |(walk, path): &&(&Loop, LoopPath)| {
        let mut all = [load, store].into_iter().flatten();
        all.clone().all(|(chosen, _)| walk.head != chosen.head)
            && all.any(|(_, most)| 2 * path.accesses >= most.accesses)
    };
    let others: Vec<_> = loading.iter().chain(&storing).filter(is_other).map(|(walk, _)| *walk).collect();
    code.stretches = stretches::between(lines, flow, load.map(|it| it.0), store.map(|it| it.0), &others);
    (code.storing, code.loading) = (store.map(|it| it.1), load.map(|it| it.1));
}

/// Three words, the threads of a CTA in x, y and z.
fn threads(info: &str) -> Option<u32> {
    let (_, attribute) = info.split_once("EIATTR_MAX_THREADS")?;
    let words = attribute.lines().filter_map(|line| line.split_once(".word")).take(3);
    words.map(|(_, word)| u32::from_str_radix(word.trim().trim_start_matches("0x"), 16).ok()).product()
}

/// A line such as `/*0ba0*/  @P0 LDG.E.128 R12, desc[UR6][R14.64] ;`, or a label.
fn parse(line: &str) -> Option<Line<'_>> {
    if let Some(label) = line.strip_suffix(':').filter(|label| label.starts_with(['.', '$', '_'])) {
        return Some(Line::Label(label));
    }
    let (_, instruction) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
    let instruction = instruction.trim_start().split(';').next()?;
    let (guarded, rest) = match instruction.strip_prefix('@') {
        Some(guarded) => (true, guarded.split_once(' ')?.1.trim_start()),
        None => (false, instruction),
    };
    let (opcode, operands) = rest.split_once(' ').unwrap_or((rest, ""));
    opcode.starts_with(|first: char| first.is_ascii_uppercase()).then_some(Line::Instruction {
        guarded,
        opcode,
        operands: operands.trim(),
    })
}

/// An instruction's opcode without its modifiers.
fn opcode<'a>(line: &Line<'a>) -> &'a str {
    match line {
        Line::Label(_) => "",
        Line::Instruction { opcode, .. } => opcode.split('.').next().unwrap_or_default(),
    }
}

/// An atomic operation on global memory, with all of its modifiers.
fn atomic(line: &Line<'_>) -> Option<String> {
    let Line::Instruction { opcode: full, .. } = line else { return None };
    ["ATOM", "ATOMG", "RED"].contains(&opcode(line)).then(|| (*full).to_string())
}

/// An access by one of these. Strong ones are of partials that CTAs exchange, not of data.
fn access(line: &Line<'_>, opcodes: &[&'static str]) -> Option<Access> {
    let Line::Instruction { opcode: full, .. } = line else { return None };
    if full.contains(".STRONG.") {
        return None;
    }
    let found = opcodes.iter().find(|name| match name.split_once('.') {
        Some(_) => full.starts_with(*name),
        None => opcode(line) == **name,
    })?;
    let bits = full.split('.').skip(1).find_map(|modifier| match modifier {
        "U8" | "S8" => Some(8),
        "U16" | "S16" => Some(16),
        "64" => Some(64),
        "128" => Some(128),
        "256" => Some(256),
        _ => None,
    });
    let bits = if found.contains('.') { BULK } else { bits.unwrap_or(32) };
    Some(Access { bits, opcode: found })
}

//! The machine code of a cubin, as nvdisasm writes it.

use std::collections::BTreeMap;

use super::loops;

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
    /// The paths around the loops that store vectors of 16 bytes to global memory, by their stores; and of those that only
    /// load such, by their loads.
    pub(super) storing: Vec<loops::LoopPath>,
    pub(super) loading: Vec<loops::LoopPath>,
    /// The atomic instructions, as they are written.
    pub(super) atomics: Vec<String>,
}

/// An access to global memory. Bulk copies are wider than any other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Access {
    bits: u32,
    opcode: &'static str,
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

/// The code of every kernel by its symbol. `arithmetic` says how many operations of f32 there are at least for each vector
/// that the loops of a kernel of this symbol load, and for each that they store.
pub(super) fn read(text: &str, arithmetic: impl Fn(&str) -> [usize; 2]) -> BTreeMap<String, Code> {
    let mut kernels: BTreeMap<String, Code> = BTreeMap::new();
    // Sections begin with a line of their own: //------ .text._Z1kPf ------
    for section in text.split("//---------------------").skip(1) {
        let Some((name, body)) = section.trim_start().split_once(' ') else { continue };
        if let Some(symbol) = name.strip_prefix(".text.") {
            let code = kernels.entry(symbol.to_string()).or_default();
            let lines: Vec<Line<'_>> = body.lines().filter_map(parse).collect();
            code.local = lines.iter().filter(|line| matches!(opcode(line), "LDL" | "STL")).count();
            code.load = loops::widest(&lines, |line| access(line, &LOADS));
            code.store = loops::widest(&lines, |line| access(line, &STORES));
            let is_wide = |line: &Line<'_>, opcodes| access(line, opcodes).is_some_and(|access| access.bits == VECTOR);
            let (stores, loads) = (|line: &Line<'_>| is_wide(line, &STORES), |line: &Line<'_>| is_wide(line, &LOADS));
            let [loaded, stored] = arithmetic(symbol);
            let storing = loops::Wanted { access: stores, other: |_: &Line<'_>| false, arithmetic: stored };
            code.storing = loops::paths(&lines, &storing);
            code.loading = loops::paths(&lines, &loops::Wanted { access: loads, other: stores, arithmetic: loaded });
            code.atomics = lines.iter().filter_map(atomic).collect();
        } else if let Some(symbol) = name.strip_prefix(".nv.info.") {
            kernels.entry(symbol.to_string()).or_default().threads = threads(body);
        }
    }
    kernels
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

fn access(line: &Line<'_>, opcodes: &[&'static str]) -> Option<Access> {
    let Line::Instruction { opcode: full, .. } = line else { return None };
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

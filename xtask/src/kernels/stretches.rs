//! The stretches of a kernel in which none of its data moves: from its entry to its first walk over data, and from the end of the
//! walk that loads to the head of the walk that stores. What waits there is not hidden by loads or stores of the same CTA.
//!
//! A stretch is a part of the control flow. For each way through it, by which CTAs exchange (block: not at all; cluster; grid),
//! two paths are counted:
//!
//! - *least*, the shortest path. Each thread passes as much: what only some threads do, and loops that may have no turn, are not
//!   in it, but for the exchange itself.
//! - *most*, the longest path with one turn of each loop. No thread passes more, but for further turns: what one thread does for
//!   its CTA (a channel's statistics, a ticket), and the CTA waits for, is in it. So are options, values that are not finite, and
//!   both an unrolled loop and its remainder.
//!
//! 1. A loop is cut open for that: where it would turn back it goes on to where it can end.
//! 2. Calls are left out, but for those that every path has: they are the slow ways of divisions and square roots, for values
//!    that are rare. The other way of a division counts: of f32, or of 64-bit numbers below 2^32, it is a MUFU.RCP and the
//!    instructions around it. What a call does is not counted.
//! 3. A cluster is recognised by its barrier or the wait for its mbarriers, a grid by the loads of tagged partials (atomics are
//!    no exchange). Some threads load them, and the CTA goes the same way: so a way without an exchange must not pass the
//!    first line that leads to such a load alone.
//! 4. Other walks over data (of another derivative, or for the mean's residual) are left out, with what leads to them alone.
//!
//! Counts are those of instructions on the path, also of predicated ones. They do not say which of them wait for each other.

use std::collections::BTreeSet;
use std::fmt;

use super::flow::{Flow, Loop, is_call};
use super::sass::Line;
use search::Search;

mod search;

/// A stretch, and what lies on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) from: Place,
    pub(super) to: Place,
    pub(super) exchange: Exchange,
    pub(super) least: Counts,
    pub(super) most: Counts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Entry,
    LoadWalk,
    StoreWalk,
}

/// The exchange between CTAs on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchange {
    /// None: a team of one CTA, or a kernel whose CTAs exchange nothing.
    Block,
    Cluster,
    Grid,
}

/// Instructions, by what they may wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) instructions: usize,
    pub(super) global_loads: usize,
    pub(super) shared_loads: usize,
    /// Barriers of CTAs and clusters, and waits for an mbarrier.
    pub(super) barriers: usize,
    pub(super) fences: usize,
    pub(super) atomics: usize,
    pub(super) divisions: usize,
    pub(super) calls: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Entry => "entry",
            Self::LoadWalk => "load walk",
            Self::StoreWalk => "store walk",
        })
    }
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Block => "block",
            Self::Cluster => "cluster",
            Self::Grid => "grid",
        })
    }
}

impl Counts {
    /// The names and the numbers, in the order of a table.
    pub(super) fn named(&self) -> [(&'static str, usize); 8] {
        [
            ("instructions", self.instructions),
            ("global loads", self.global_loads),
            ("shared loads", self.shared_loads),
            ("barriers", self.barriers),
            ("fences", self.fences),
            ("atomics", self.atomics),
            ("divisions", self.divisions),
            ("calls", self.calls),
        ]
    }

    fn add(&mut self, line: &Line<'_>) {
        let Line::Instruction { opcode, .. } = line else { return };
        self.instructions += 1;
        let counter = match opcode.split('.').next().unwrap_or_default() {
            "LDG" | "LD" => &mut self.global_loads,
            "LDS" => &mut self.shared_loads,
            "BAR" => &mut self.barriers,
            "UCGABAR_WAIT" => &mut self.barriers,
            "SYNCS" if opcode.contains("PHASECHK") => &mut self.barriers,
            "CCTL" if opcode.contains(".PF") => return, // a prefetch
            "MEMBAR" | "CCTL" | "FENCE" => &mut self.fences,
            "ATOM" | "ATOMG" | "ATOMS" | "RED" => &mut self.atomics,
            "MUFU" if opcode.contains("RCP") => &mut self.divisions,
            "CALL" if is_call(line) => &mut self.calls,
            _ => return,
        };
        *counter += 1;
    }
}

/// The stretches before and between two walks, `others` of which are left out.
pub(super) fn between(
    lines: &[Line<'_>],
    flow: &Flow,
    load: Option<&Loop>,
    store: Option<&Loop>,
    others: &[&Loop],
) -> Vec<Stretch> {
    let ways = |(from, starts): (Place, BTreeSet<usize>), (to, end): (Place, usize)| {
        let search = Search::new(lines, flow.open.clone(), &starts, end, others);
        let ways = search.map(|search| search.ways()).unwrap_or_default().into_iter();
        ways.map(|(exchange, (least, most))| Stretch { from, to, exchange, least, most }).collect::<Vec<_>>()
    };
    let entry = || (Place::Entry, BTreeSet::from([0]));
    match (load, store) {
        (None, None) => Vec::new(),
        (None, Some(store)) => ways(entry(), (Place::StoreWalk, store.head)),
        (Some(load), None) => ways(entry(), (Place::LoadWalk, load.head)),
        (Some(load), Some(store)) => {
            let mut found = ways(entry(), (Place::LoadWalk, load.head));
            found.extend(ways((Place::LoadWalk, load.exits(&flow.graph)), (Place::StoreWalk, store.head)));
            found
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sass;
    use super::{Counts, Exchange, Place, Stretch};

    /// Instructions, global loads, shared loads, barriers, fences, atomics, divisions and calls.
    fn counts(of: [usize; 8]) -> Counts {
        let [instructions, global_loads, shared_loads, barriers, fences, atomics, divisions, calls] = of;
        Counts { instructions, global_loads, shared_loads, barriers, fences, atomics, divisions, calls }
    }

    fn stretches(instructions: &[&str]) -> Result<Vec<Stretch>, &'static str> {
        let line = |text: &&str| if text.ends_with(':') { format!("{text}\n") } else { format!("/*0010*/ {text} ;\n") };
        let code: String = instructions.iter().map(line).collect();
        let text = format!("//--------------------- .text._Z1kPf ----\n.text._Z1kPf:\n{code}");
        let data = sass::Data { bits: 128, loading: Some(1), storing: Some(0) };
        sass::read(&text, |_| Some(data)).remove("_Z1kPf").map(|code| code.stretches).ok_or("no kernel")
    }

    const LOAD: [&str; 4] = [".L_load:", "LDG.E.128 R4, desc[UR4][R2.64]", "FADD R5, R5, R4", "@P0 BRA `(.L_load)"];
    const STORE: [&str; 5] =
        [".L_store:", "LDS.128 R4, [R2]", "STG.E.128 desc[UR4][R2.64], R4", "@P0 BRA `(.L_store)", "EXIT"];
    /// Some threads wait for the partials of a grid.
    const GRID: [&str; 9] = [
        "BAR.SYNC.DEFER_BLOCKING 0x0",
        "@P5 BRA `(.L_joined)",
        "STG.E.128.STRONG.GPU desc[UR4][R2.64], R8",
        ".L_poll:",
        "LDG.E.128.STRONG.GPU R8, desc[UR4][R2.64]",
        "@P6 BRA `(.L_poll)",
        "FADD R5, R5, R8",
        ".L_joined:",
        "BAR.SYNC.DEFER_BLOCKING 0x0",
    ];

    #[test]
    fn each_way_has_its_paths() -> Result<(), &'static str> {
        let entry = ["LDG.E R1, desc[UR4][R2.64]", "@P1 STS [R2], R1", "BAR.SYNC.DEFER_BLOCKING 0x0"];
        let division = ["MUFU.RCP R3, R3", "@P1 BRA `(.L_divided)", "CALL.REL.NOINC `($div)", ".L_divided:"];
        let cluster = [
            "@P2 BRA `(.L_reduced)",
            "@P3 BRA `(.L_grid)",
            "@P4 SYNCS.ARRIVE.TRANS64 RZ, [UR4], R3",
            ".L_wait:",
            "SYNCS.PHASECHK.TRANS64.TRYWAIT P4, [UR4], R3",
            "@!P4 BRA `(.L_wait)",
            "BRA `(.L_reduced)",
            ".L_grid:",
        ];
        let statistics = [".L_reduced:", "@P7 BRA `(.L_store)", "LDG.E R1, desc[UR4][R2.64]", "STS [R2], R1"];
        let code = [&entry[..], &LOAD, &division, &cluster, &GRID, &statistics, &STORE].concat();
        let start = counts([3, 1, 0, 1, 0, 0, 0, 0]);
        let turn = |exchange, least, most| {
            let (least, most) = (counts(least), counts(most));
            Stretch { from: Place::LoadWalk, to: Place::StoreWalk, exchange, least, most }
        };
        let expected = [
            Stretch { from: Place::Entry, to: Place::LoadWalk, exchange: Exchange::Block, least: start, most: start },
            turn(Exchange::Block, [4, 0, 0, 0, 0, 0, 1, 0], [6, 1, 0, 0, 0, 0, 1, 0]),
            turn(Exchange::Cluster, [9, 0, 0, 1, 0, 0, 1, 0], [11, 1, 0, 1, 0, 0, 1, 0]),
            turn(Exchange::Grid, [12, 1, 0, 2, 0, 0, 1, 0], [14, 2, 0, 2, 0, 0, 1, 0]),
        ];
        assert_eq!(stretches(&code)?, expected);
        Ok(())
    }

    /// Threads that do not load partials are no way without an exchange, where the CTA has no other way.
    #[test]
    fn a_kernel_of_one_strategy_has_one_way() -> Result<(), &'static str> {
        let found = stretches(&[&LOAD[..], &GRID, &STORE].concat())?;
        let ways: Vec<_> = found.iter().map(|it| (it.from, it.exchange)).collect();
        assert_eq!(ways, [(Place::Entry, Exchange::Block), (Place::LoadWalk, Exchange::Grid)]);
        Ok(())
    }

    /// An exchange behind a walk, to which a loop of tiles turns back, is none before it.
    #[test]
    fn what_comes_behind_is_not_before() -> Result<(), &'static str> {
        let poll =
            ["STG.E.128.STRONG.GPU desc[UR4][R2.64], R8", ".L_poll:", "LDG.E.128.STRONG.GPU R8, desc[UR4][R2.64]"];
        let wait = ["@P6 BRA `(.L_poll)"];
        let next = ["@P1 BRA `(.L_tile)", "EXIT"];
        let code = [&[".L_tile:"][..], &LOAD, &poll, &wait, &STORE[..4], &next].concat();
        let ways: Vec<_> = stretches(&code)?.iter().map(|it| (it.from, it.exchange, it.least.fences)).collect();
        assert_eq!(ways, [(Place::Entry, Exchange::Block, 0), (Place::LoadWalk, Exchange::Grid, 0)]);
        Ok(())
    }

    /// A call on every path counts; a walk of which there is another choice, and what follows it alone, does not. Loops on
    /// the way are passed once at most, those inside others too.
    #[test]
    fn rare_code_is_left_out_and_loops_turn_once() -> Result<(), &'static str> {
        let residual = [
            "@P3 BRA `(.L_known)",
            ".L_residual:",
            "LDG.E.128 R4, desc[UR4][R2.64]",
            "FADD R5, R5, R4",
            "@P0 BRA `(.L_residual)",
            "MEMBAR.ALL.GPU",
            ".L_known:",
        ];
        let loops = [
            "CALL.REL.NOINC `($div)",
            "@P4 BRA `(.L_outer)",
            "CALL.REL.NOINC `($div)",
            ".L_outer:",
            "@P1 BRA `(.L_store)",
            ".L_inner:",
            "LDS R4, [R2]",
            "@P2 BRA `(.L_inner)",
            "BRA `(.L_outer)",
        ];
        let found = stretches(&[&residual[..], &LOAD, &loops, &STORE].concat())?;
        let paths: Vec<_> = found.iter().map(|it| (it.least, it.most)).collect();
        let start = counts([1, 0, 0, 0, 0, 0, 0, 0]);
        let turn = (counts([3, 0, 0, 0, 0, 0, 0, 1]), counts([6, 0, 1, 0, 0, 0, 0, 1]));
        assert_eq!(paths, [(start, start), turn]);
        Ok(())
    }

    /// The later of two walks that load as much counts: what is stored comes from it.
    #[test]
    fn the_last_walk_before_the_store_counts() -> Result<(), &'static str> {
        let residual = [
            "@P3 BRA `(.L_load)",
            ".L_residual:",
            "LDG.E.128 R4, desc[UR4][R2.64]",
            "FADD R5, R5, R4",
            "@P0 BRA `(.L_residual)",
            "BAR.SYNC.DEFER_BLOCKING 0x0",
            "BRA `(.L_load)",
        ];
        // Either may stand first in the code. A call of the kernel's own code does not come back.
        let behind = [&["CALL.REL.NOINC `(.L_entry)"][..], &LOAD, &STORE, &[".L_entry:"], &residual].concat();
        for code in [[&residual[..], &LOAD, &STORE].concat(), behind] {
            let found = stretches(&code)?;
            let barriers: Vec<_> = found.iter().map(|it| (it.from, it.most.barriers)).collect();
            assert_eq!(barriers, [(Place::Entry, 0), (Place::LoadWalk, 0)]);
        }
        Ok(())
    }

    /// A kernel with one walk has what is before its first byte.
    #[test]
    fn a_walk_alone_has_its_start() -> Result<(), &'static str> {
        let entry = ["LDG.E R1, desc[UR4][R2.64]", "@P1 BRA `(.L_store)", "BAR.SYNC.DEFER_BLOCKING 0x0"];
        let found = stretches(&[&entry[..], &STORE].concat())?;
        let (least, most) = (counts([2, 1, 0, 0, 0, 0, 0, 0]), counts([3, 1, 0, 1, 0, 0, 0, 0]));
        let start = Stretch { from: Place::Entry, to: Place::StoreWalk, exchange: Exchange::Block, least, most };
        assert_eq!(found, [start]);
        Ok(())
    }
}

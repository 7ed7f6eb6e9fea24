//! The instructions of the loops over a kernel's data.
//!
//! An element's instructions are counted along one path around a loop: the shortest of those with most of its accesses
//! of data, with most of the accesses beside them (what is kept in shared memory, and read from there) and with the
//! arithmetic of the elements that they move. So branches that a plain operation skips do not count, those that it takes do,
//! and the path out, which loads a last batch and adds nothing of it, does not.

use std::collections::BTreeMap;

use petgraph::algo::toposort;
use petgraph::prelude::{DiGraphMap, Direction};

use super::flow::{Flow, Loop, innermost};
use super::sass::Line;

/// A path around a loop: the number of its instructions, of the accesses that were asked for and of those beside them, and
/// of operations of f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LoopPath {
    pub(super) instructions: usize,
    pub(super) accesses: usize,
    pub(super) beside: usize,
    pub(super) arithmetic: usize,
}

impl LoopPath {
    /// Whether it is worth keeping in addition to another: has more of something, or takes fewer instructions.
    fn adds_to(&self, other: &Self) -> bool {
        self.accesses > other.accesses
            || self.beside > other.beside
            || self.arithmetic > other.arithmetic
            || self.instructions < other.instructions
    }
}

/// The instructions that are looked for in a loop.
pub(super) struct Wanted<A, B, O> {
    pub(super) access: A,
    /// Accesses that belong to these: a path with more of them is preferred.
    pub(super) beside: B,
    /// Loops with any such line are left out.
    pub(super) other: O,
    /// Operations of f32 for each access, at least.
    pub(super) arithmetic: usize,
}

/// Every innermost loop with such accesses and no `other`, and a path around it: the one that has most of them, among those
/// with their arithmetic, then most of those beside them, and is the shortest of these.
pub(super) fn paths<'a, A, B, O>(
    lines: &[Line<'_>],
    flow: &'a Flow,
    wanted: &Wanted<A, B, O>,
) -> Vec<(&'a Loop, LoopPath)>
where
    A: Fn(&Line<'_>) -> bool,
    B: Fn(&Line<'_>) -> bool,
    O: Fn(&Line<'_>) -> bool,
{
    let all: Vec<&Loop> = flow.loops.iter().collect();
    let innermost = innermost(&all).filter(|found| !found.body.iter().any(|&line| (wanted.other)(&lines[line])));
    innermost.filter_map(|found| path(lines, &flow.graph, found, wanted).map(|path| (found, path))).collect()
}

/// The path around one loop: over its lines from the head, in an order in which none comes before what leads to it.
fn path<A, B, O>(
    lines: &[Line<'_>],
    graph: &DiGraphMap<usize, ()>,
    found: &Loop,
    wanted: &Wanted<A, B, O>,
) -> Option<LoopPath>
where
    A: Fn(&Line<'_>) -> bool,
    B: Fn(&Line<'_>) -> bool,
{
    let Loop { head, body } = found;
    let mut inside = DiGraphMap::<usize, ()>::new();
    for &line in body {
        inside.add_node(line);
    }
    let within = |(from, to, ()): &(usize, usize, &())| body.contains(from) && body.contains(to) && to != head;
    for (from, to, ()) in graph.all_edges().filter(within) {
        inside.add_edge(from, to, ());
    }
    let order = toposort(&inside, None).ok()?;
    // More arithmetic than any path can need makes no difference between paths.
    let enough = wanted.arithmetic * body.iter().filter(|&&line| (wanted.access)(&lines[line])).count();
    let mut best = BTreeMap::<usize, Vec<LoopPath>>::new();
    for line in order {
        let mut kept: Vec<LoopPath> = Vec::new();
        if line == *head {
            kept.push(LoopPath { instructions: 0, accesses: 0, beside: 0, arithmetic: 0 });
        }
        for path in inside.neighbors_directed(line, Direction::Incoming).filter_map(|from| best.get(&from)).flatten() {
            if kept.iter().all(|known| path.adds_to(known)) {
                kept.retain(|known| known.adds_to(path));
                kept.push(*path);
            }
        }
        for path in &mut kept {
            path.instructions += usize::from(matches!(lines[line], Line::Instruction { .. }));
            path.accesses += usize::from((wanted.access)(&lines[line]));
            path.beside += usize::from((wanted.beside)(&lines[line]));
            path.arithmetic = enough.min(path.arithmetic + arithmetic(&lines[line]));
        }
        best.insert(line, kept);
    }
    let ends = graph.neighbors_directed(*head, Direction::Incoming).filter_map(|line| best.get(&line)).flatten();
    let ends = ends.filter(|path| path.accesses > 0 && path.arithmetic >= wanted.arithmetic * path.accesses);
    ends.max_by_key(|path| (path.accesses, path.beside, usize::MAX - path.instructions)).copied()
}

/// Operations of f32 that an instruction does for each thread. Conversions are none.
fn arithmetic(line: &Line<'_>) -> usize {
    let Line::Instruction { opcode, .. } = line else { return 0 };
    match opcode.split('.').next().unwrap_or_default() {
        "FADD" | "FMUL" | "FFMA" => 1,
        "FADD2" | "FMUL2" | "FFMA2" => 2,
        _ => 0,
    }
}

/// The widest access of the hot loop: of the innermost loops with such accesses, the one with most of them, since the
/// loop over the data is the one that is unrolled. Of the whole code where no loop has one.
pub(super) fn widest<'a, A: Ord>(
    lines: &[Line<'a>],
    flow: &Flow,
    access: impl Fn(&Line<'a>) -> Option<A>,
) -> Option<A> {
    let accesses = |index: &usize| lines.get(*index).and_then(&access);
    let has_any = |found: &&Loop| found.body.iter().any(|index| accesses(index).is_some());
    let with_any: Vec<&Loop> = flow.loops.iter().filter(has_any).collect();
    let found = innermost(&with_any).filter_map(|found| {
        let all: Vec<A> = found.body.iter().filter_map(accesses).collect();
        Some((all.len(), all.into_iter().max()?))
    });
    found.max().map(|(_, widest)| widest).or_else(|| lines.iter().filter_map(&access).max())
}

#[cfg(test)]
mod tests {
    use super::super::sass;

    fn data(arithmetic: usize) -> Option<sass::Data> {
        Some(sass::Data { bits: 128, loading: Some(arithmetic), storing: Some(0) })
    }

    /// Two loops and rare code behind the end, which branches back over both: not a loop. The loop with two loads is the
    /// hot one, and the one around it does not count.
    const CODE: &str = "\
//--------------------- .text._Z1kPf --------------------------
.text._Z1kPf:
        /*0000*/                   @P0 BRA `(.L_x_3) ;
.L_x_0:
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
.L_x_1:
        /*0020*/                   LDG.E.U16 R4, desc[UR4][R2.64] ;
        /*0030*/                   LDG.E R5, desc[UR4][R2.64+0x4] ;
        /*0040*/              @!P1 BRA `(.L_x_1) ;
        /*0050*/                   BRA.U UP0, `(.L_x_0) ;
.L_x_2:
        /*0060*/                   LDG.E.64 R4, desc[UR4][R2.64] ;
        /*0070*/              @!P1 BRA `(.L_x_2) ;
        /*0080*/                   STL [R1], R4 ;
        /*0090*/                   EXIT ;
.L_x_3:
        /*00a0*/                   STG.E.128 desc[UR4][R2.64], R4 ;
        /*00b0*/                   BRA `(.L_x_0) ;
.L_x_4:
        /*00c0*/                   BRA `(.L_x_4);
//--------------------- .nv.info._Z1kPf --------------------------
	//----- nvinfo : EIATTR_MAX_THREADS
        /*004c*/ 	.word	0x00000040
        /*0050*/ 	.word	0x00000002
        /*0054*/ 	.word	0x00000001
        /*0058*/ 	.word	0x00000005
";

    /// Loads of two vectors and their arithmetic, and a path out of it that loads as many, adds nothing and is shorter: the
    /// flag that it sets ends the loop at its top.
    const EARLY_EXIT: &str = "\
//--------------------- .text._Z1kPf --------------------------
.text._Z1kPf:
.L_x_0:
        /*0010*/               @P0 BRA `(.L_x_3) ;
        /*0020*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0030*/                   LDG.E.128 R8, desc[UR4][R2.64+0x10] ;
        /*0040*/              @!P1 BRA `(.L_x_2) ;
        /*0050*/                   HADD2.F32 R4, -RZ, R4.H0_H0 ;
        /*0060*/                   FADD.FTZ R12, R12, R4 ;
        /*0070*/                   FMUL R5, R5, R5 ;
        /*0080*/                   FFMA R13, R5, R8, R13 ;
        /*0090*/                   FFMA2 R14, R5, R8, R14 ;
        /*00a0*/                   BRA `(.L_x_0) ;
.L_x_2:
        /*00b0*/                   PLOP3.LUT P0, PT, PT, PT, PT, 0x80, 0x8 ;
        /*00c0*/                   BRA `(.L_x_0) ;
.L_x_3:
        /*00d0*/                   EXIT ;
";

    #[test]
    fn a_way_without_the_arithmetic_of_its_elements_does_not_count() -> Result<(), &'static str> {
        let paths = |least: usize| {
            let kernels = sass::read(EARLY_EXIT, |_| data(least));
            kernels.get("_Z1kPf").map(|code| code.loading).ok_or("no kernel")
        };
        let short = super::LoopPath { instructions: 6, accesses: 2, beside: 0, arithmetic: 0 };
        let whole = super::LoopPath { instructions: 10, accesses: 2, beside: 0, arithmetic: 4 };
        assert_eq!((paths(0)?, paths(2)?), (Some(short), Some(whole)));
        // Two vectors with five operations: there is none.
        assert_eq!(paths(3)?, None);
        Ok(())
    }

    /// A store whose data come from shared or from global memory, or are zero where there are none: the shortest way stores
    /// what it has not loaded.
    const SOURCES: &str = "\
//--------------------- .text._Z1kPf --------------------------
.text._Z1kPf:
.L_x_0:
        /*0010*/              @!P1 BRA `(.L_x_3) ;
        /*0020*/               @P2 BRA `(.L_x_2) ;
        /*0030*/                   IADD3 R2, R2, R3, RZ ;
        /*0040*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0050*/                   BRA `(.L_x_3) ;
.L_x_2:
        /*0060*/                   LDS.128 R4, [R8] ;
.L_x_3:
        /*0070*/                   FADD R4, R4, R5 ;
        /*0080*/               @P3 STG.E.128 desc[UR4][R2.64], R4 ;
        /*0090*/               @P0 BRA `(.L_x_0) ;
        /*00a0*/                   EXIT ;
";

    #[test]
    fn what_is_stored_comes_from_somewhere() -> Result<(), &'static str> {
        let kernels = sass::read(SOURCES, |_| data(0));
        let code = kernels.get("_Z1kPf").ok_or("no kernel")?;
        let path = super::LoopPath { instructions: 6, accesses: 1, beside: 1, arithmetic: 0 };
        assert_eq!(code.storing, Some(path));
        Ok(())
    }

    /// Stores to shared memory in a loop that loads are on its path, though a branch passes them by.
    #[test]
    fn what_is_kept_is_stored() -> Result<(), &'static str> {
        let keeps = EARLY_EXIT.replace(
            "        /*0080*/",
            "        /*0071*/ @P4 BRA `(.L_x_1) ;\n        /*0072*/ STS.128 [R8], R4 ;\n.L_x_1:\n        /*0080*/",
        );
        let kernels = sass::read(&keeps, |_| data(2));
        let code = kernels.get("_Z1kPf").ok_or("no kernel")?;
        let path = super::LoopPath { instructions: 12, accesses: 2, beside: 1, arithmetic: 4 };
        assert_eq!(code.loading, Some(path));
        Ok(())
    }

    /// A loop around rare code and a choice: the path with the store counts, without the rare code.
    const BRANCHES: &str = "\
//--------------------- .text._Z1kPf --------------------------
.text._Z1kPf:
.L_x_0:
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/              @!P1 BRA `(.L_x_2) ;
        /*0030*/                   FADD R4, R4, R5 ;
        /*0040*/                   STG.E.128 desc[UR4][R2.64], R4 ;
.L_x_2:
        /*0050*/               @P2 BRA `(.L_x_4) ;
.L_x_3:
        /*0060*/               @P0 BRA `(.L_x_0) ;
        /*0070*/                   EXIT ;
.L_x_4:
        /*0080*/                   FADD R4, R4, R5 ;
        /*0090*/                   BRA `(.L_x_3) ;
";

    #[test]
    fn the_way_with_most_accesses_counts() -> Result<(), &'static str> {
        let kernels = sass::read(BRANCHES, |_| data(0));
        let code = kernels.get("_Z1kPf").ok_or("no kernel")?;
        let path = super::LoopPath { instructions: 6, accesses: 1, beside: 1, arithmetic: 0 };
        assert_eq!((code.storing, code.loading), (Some(path), None));
        Ok(())
    }

    #[test]
    fn the_hot_loop_is_found() -> Result<(), &'static str> {
        let kernels = sass::read(CODE, |_| data(0));
        let code = kernels.get("_Z1kPf").ok_or("no kernel")?;
        assert_eq!(code.load.map(|access| access.to_string()).as_deref(), Some("LDG.32"));
        assert_eq!(code.store.map(|access| access.to_string()).as_deref(), Some("STG.128")); // outside loops
        assert_eq!((code.threads, code.local), (Some(128), 1));
        Ok(())
    }
}

//! The loops of a kernel's machine code.
//!
//! A backward branch alone is no loop: the compiler moves rare code behind the rest, from where it branches back. A loop
//! is a branch to an instruction that every way to the branch passes (a natural loop).

use std::collections::{BTreeMap, BTreeSet};

use petgraph::algo::dominators::simple_fast;
use petgraph::prelude::{DiGraphMap, Direction};

use super::sass::Line;

/// The widest access of the hot loop: of the innermost loops with such accesses, the one with most of them, since the
/// loop over the data is the one that is unrolled. Of the whole code where no loop has one.
pub(super) fn widest<'a, A: Ord>(lines: &[Line<'a>], access: impl Fn(&Line<'a>) -> Option<A>) -> Option<A> {
    let mut loops = natural(lines);
    let accesses = |index: &usize| lines.get(*index).and_then(&access);
    loops.retain(|body| body.iter().any(|index| accesses(index).is_some()));
    let innermost = loops.iter().filter(|body| !loops.iter().any(|other| other != *body && other.is_subset(body)));
    let found = innermost.filter_map(|body| {
        let all: Vec<A> = body.iter().filter_map(accesses).collect();
        Some((all.len(), all.into_iter().max()?))
    });
    found.max().map(|(_, widest)| widest).or_else(|| lines.iter().filter_map(&access).max())
}

/// The lines of every loop. Loops that begin at the same line are one.
fn natural(lines: &[Line<'_>]) -> Vec<BTreeSet<usize>> {
    let graph = flow(lines);
    if !graph.contains_node(0) {
        return Vec::new();
    }
    let dominators = simple_fast(&graph, 0);
    let dominates =
        |head: usize, from: usize| dominators.dominators(from).is_some_and(|mut all| all.any(|it| it == head));
    let mut loops: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (from, head, ()) in graph.all_edges().filter(|&(from, head, ())| head <= from && dominates(head, from)) {
        // Whatever reaches the branch without passing the head.
        let body = loops.entry(head).or_insert_with(|| BTreeSet::from([head]));
        let mut waiting = vec![from];
        while let Some(line) = waiting.pop() {
            if body.insert(line) {
                waiting.extend(graph.neighbors_directed(line, Direction::Incoming));
            }
        }
    }
    loops.into_values().collect()
}

/// Which line may follow which. Calls come back, so they are no branches.
fn flow(lines: &[Line<'_>]) -> DiGraphMap<usize, ()> {
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
            if ["BRA", "BRX", "BRXU", "JMP", "JMX"].contains(&opcode) {
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

#[cfg(test)]
mod tests {
    use super::super::sass;

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

    #[test]
    fn the_hot_loop_is_found() -> Result<(), &'static str> {
        let kernels = sass::read(CODE);
        let code = kernels.get("_Z1kPf").ok_or("no kernel")?;
        assert_eq!(code.load.map(|access| access.to_string()).as_deref(), Some("LDG.32"));
        assert_eq!(code.store.map(|access| access.to_string()).as_deref(), Some("STG.128")); // outside loops
        assert_eq!((code.threads, code.local), (Some(128), 1));
        Ok(())
    }
}

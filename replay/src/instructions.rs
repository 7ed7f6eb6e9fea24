//! Instructions, by group. Each group's file decodes its opcodes and executes them.
//!
//! | file | opcodes |
//! |---|---|
//! | [`integer`] | add sub mul mad div rem min max neg abs, logic, shifts, bits |
//! | [`float`] | f32 arithmetic |
//! | [`convert`] | cvt |
//! | [`compare`] | setp, selp, mov, predicates |
//! | [`registers`] | mov of parts, of special registers |
//! | [`access`] | ld, st, cp.async, cvta |
//! | [`atom`] | atom, fence |
//! | [`control`] | bra, ret, exit, trap, prefetch, griddepcontrol |
//! | [`collective`] | bar.sync, bar.red, shfl.sync, vote.sync |
//! | [`cluster`] | barrier.cluster, mapa, mbarrier, st.async |

pub(crate) mod access;
pub(crate) mod atom;
pub(crate) mod cluster;
pub(crate) mod collective;
mod compare;
mod compute;
pub(crate) mod control;
mod convert;
mod float;
mod integer;
pub(crate) mod order;
pub(crate) mod registers;

use crate::ptx::{Names, Statement};
use crate::trap::Result;

pub(crate) use compute::Compute;

/// A decoded instruction.
#[derive(Debug)]
pub(crate) struct Instruction {
    pub(crate) guard: Option<Guard>,
    pub(crate) op: Op,
    pub(crate) line: u32,
}

/// `@%p1` or `@!%p1`: the instruction does nothing where the register has the other value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    pub(crate) register: u32,
    pub(crate) negated: bool,
}

/// The operation of an instruction.
#[derive(Debug)]
pub(crate) enum Op {
    /// A function of registers, into one.
    Compute(Compute),
    /// A function whose second operand must not be 0.
    Divide(Compute),
    Registers(registers::Op),
    Access(access::Op),
    Atom(atom::Op),
    /// A branch to an instruction.
    Branch(usize),
    Exit,
    Trap,
    /// A hint, which does nothing that can be seen.
    Hint,
    WaitForLaunches,
    Collective(collective::Op),
    Cluster(cluster::Op),
}

/// Decodes by the group that knows the opcode.
pub(crate) fn decode(statement: &Statement<'_>, names: &mut Names) -> Result<Op> {
    let groups = [
        registers::decode,
        compute::decode,
        access::decode,
        atom::decode,
        control::decode,
        collective::decode,
        cluster::decode,
    ];
    for decode in groups {
        if let Some(op) = decode(statement, names)? {
            return Ok(op);
        }
    }
    statement.unknown()
}

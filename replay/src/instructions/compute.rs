//! Opcodes that are a function of registers: one table, filled by four groups.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::{Op, compare, convert, float, integer};
use crate::ptx::{Destination, Names, Source, Statement};
use crate::trap::Result;

/// Values in the low bits of 64; what lies above the operand's width may be anything.
pub(crate) type Function = fn(u64, u64, u64, u64) -> u64;

/// A function, with where its operands are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compute {
    pub(crate) function: Function,
    pub(crate) to: Destination,
    pub(crate) from: [Source; 4],
}

/// Functions by opcode, with how many operands they take.
#[derive(Default)]
pub(super) struct Table(HashMap<String, (Function, usize)>);

impl Table {
    pub(super) fn unary(&mut self, opcode: &str, function: Function) {
        self.0.insert(opcode.into(), (function, 1));
    }

    pub(super) fn binary(&mut self, opcode: &str, function: Function) {
        self.0.insert(opcode.into(), (function, 2));
    }

    pub(super) fn ternary(&mut self, opcode: &str, function: Function) {
        self.0.insert(opcode.into(), (function, 3));
    }

    pub(super) fn quaternary(&mut self, opcode: &str, function: Function) {
        self.0.insert(opcode.into(), (function, 4));
    }
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut table = Table::default();
    integer::define(&mut table);
    float::define(&mut table);
    convert::define(&mut table);
    compare::define(&mut table);
    table
});

pub(super) fn decode(statement: &Statement<'_>, names: &mut Names) -> Result<Option<Op>> {
    let Some(&(function, count)) = TABLE.0.get(statement.opcode) else { return Ok(None) };
    let operands = match (count, &statement.operands[..]) {
        (1, [_, _]) | (2, [_, _, _]) | (3, [_, _, _, _]) | (4, [_, _, _, _, _]) => &statement.operands,
        _ => return statement.unknown(),
    };
    let mut from = [names.constant(0); 4];
    for (from, operand) in from.iter_mut().zip(&operands[1..]) {
        *from = names.source(operand)?;
    }
    let compute = Compute { function, to: names.destination(operands[0])?, from };
    let divides = matches!(statement.name(), "div" | "rem") && !statement.opcode.ends_with(".f32");
    // Whether a divisor is 0 is seen by the width of the result, which is the type's.
    if divides && !statement.opcode.ends_with(&compute.to.mask.count_ones().to_string()) {
        return statement.unknown();
    }
    Ok(Some(if divides { Op::Divide(compute) } else { Op::Compute(compute) }))
}

//! Names in an entry, and what they stand for: registers, in nested scopes, parameters and shared memory.

use std::collections::HashMap;

use super::statement::parts;
use super::types;
use crate::trap::{Result, trap};

/// Registers of an entry, less than so many.
const MOST: usize = 1 << 20;

/// The source of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The thread's register of this number.
    Register(u32),
    /// The entry's constant of this number.
    Constant(u32),
}

/// The destination of a value: a register and its width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) register: u32,
    pub(crate) mask: u64,
}

/// `[base + offset]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) base: Source,
    pub(crate) offset: i64,
}

/// The names that are known at a place of an entry.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Scopes from the outermost to the innermost.
    scopes: Vec<HashMap<String, Declared>>,
    symbols: HashMap<String, u64>,
    /// The bits of each register.
    pub(crate) masks: Vec<u64>,
    pub(crate) constants: Vec<u64>,
    known_constants: HashMap<u64, u32>,
}

/// A register, or with `%r<8>` a row of them. One of 128 bits is two of 64, the lower half first.
#[derive(Debug)]
struct Declared {
    first: u32,
    count: Option<u32>,
    mask: u64,
    /// Registers of 64 bits at most that each is made of.
    halves: u32,
}

impl Names {
    pub(crate) fn enter(&mut self) {
        self.scopes.push(HashMap::new());
    }

    /// Leaves the innermost scope. Returns whether there is another around it.
    pub(crate) fn leave(&mut self) -> bool {
        self.scopes.pop();
        !self.scopes.is_empty()
    }

    /// A name for an address.
    pub(crate) fn symbol(&mut self, name: &str, address: u64) {
        self.symbols.insert(name.into(), address);
    }

    /// `.reg .b32 %r<8>` or `.reg .pred p, q`, without the first word.
    pub(crate) fn declare(&mut self, text: &str) -> Result<()> {
        let (ty, names) = text.trim().split_once(char::is_whitespace).unwrap_or((text, ""));
        let width = ty.strip_prefix('.').and_then(types::bits).filter(|&bits| bits != 8);
        let Some(width) = width else { trap!("not known: registers of type {ty}") };
        let halves = width.div_ceil(64);
        let mask = u64::MAX >> (64 - width / halves);
        for name in parts(names) {
            let (name, count) = match name.split_once('<') {
                Some((name, count)) => match count.trim_end_matches('>').parse::<u32>() {
                    Ok(count) if self.masks.len() + (halves as usize) * (count as usize) < MOST => (name, Some(count)),
                    _ => trap!("not known: registers {name}<{count}"),
                },
                None => (name, None),
            };
            let first = self.masks.len() as u32;
            self.masks.extend(std::iter::repeat_n(mask, (halves * count.unwrap_or(1)) as usize));
            if let Some(scope) = self.scopes.last_mut() {
                scope.insert(name.into(), Declared { first, count, mask, halves });
            }
        }
        Ok(())
    }

    /// The register of 64 bits or less.
    fn register(&self, name: &str) -> Option<Destination> {
        let (register, halves) = self.declared(name)?;
        (halves == 1).then_some(register)
    }

    /// The halves of a register of 128 bits, the lower one first.
    pub(crate) fn wide(&self, name: &str) -> Result<[Destination; 2]> {
        match self.declared(name) {
            Some((low, 2)) => Ok([low, Destination { register: low.register + 1, ..low }]),
            _ => trap!("expected a register of 128 bits, got {name}"),
        }
    }

    /// A register, or the first of what it is made of, and how many these are.
    fn declared(&self, name: &str) -> Option<(Destination, u32)> {
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = name[prefix.len()..].parse::<u32>().ok();
        self.scopes.iter().rev().find_map(|scope| {
            if let Some(Declared { first, count: None, mask, halves }) = scope.get(name) {
                return Some((Destination { register: *first, mask: *mask }, *halves));
            }
            let Declared { first, count, mask, halves } = scope.get(prefix)?;
            let number = number.filter(|&number| count.is_some_and(|count| number < count))?;
            Some((Destination { register: first + halves * number, mask: *mask }, *halves))
        })
    }

    /// A register to write; `None` for `_`, which takes anything.
    pub(crate) fn optional(&self, name: &str) -> Result<Option<Destination>> {
        if name == "_" { Ok(None) } else { self.destination(name).map(Some) }
    }

    /// A register to write.
    pub(crate) fn destination(&self, name: &str) -> Result<Destination> {
        match self.register(name) {
            Some(register) => Ok(register),
            None => trap!("expected a register, got {name}"),
        }
    }

    /// A value of the entry's own.
    pub(crate) fn constant(&mut self, value: u64) -> Source {
        let constants = &mut self.constants;
        let number = *self.known_constants.entry(value).or_insert_with(|| {
            constants.push(value);
            constants.len() as u32 - 1
        });
        Source::Constant(number)
    }

    /// A register, an address by its name, or a number: `-7`, `0x1F`, `0f3F800000`.
    pub(crate) fn source(&mut self, name: &str) -> Result<Source> {
        if let Some(Destination { register, .. }) = self.register(name) {
            return Ok(Source::Register(register));
        }
        if let Some(&address) = self.symbols.get(name) {
            return Ok(self.constant(address));
        }
        match number(name) {
            Some(value) => Ok(self.constant(value)),
            None => trap!("expected a register or a number, got {name}"),
        }
    }

    /// `[base]` or `[base+offset]`.
    pub(crate) fn address(&mut self, text: &str) -> Result<Address> {
        let Some(inside) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) else {
            trap!("expected an address in brackets, got {text}");
        };
        let (base, offset) = inside.split_once('+').unwrap_or((inside, "0"));
        let Some(offset) = number(offset.trim()) else { trap!("expected a number, got {offset}") };
        Ok(Address { base: self.source(base.trim())?, offset: offset as i64 })
    }
}

/// A literal in the low bits of 64.
fn number(text: &str) -> Option<u64> {
    if let Some(bits) = text.strip_prefix("0f").or_else(|| text.strip_prefix("0F")) {
        return u32::from_str_radix(bits, 16).ok().filter(|_| bits.len() == 8).map(u64::from);
    }
    let (magnitude, is_negative) = text.strip_prefix('-').map_or((text, false), |text| (text, true));
    let magnitude = magnitude.strip_suffix('U').unwrap_or(magnitude);
    let magnitude = match magnitude.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => magnitude.parse(),
    };
    magnitude.ok().map(|magnitude| if is_negative { magnitude.wrapping_neg() } else { magnitude })
}

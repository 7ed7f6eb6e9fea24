//! Memory: ld, st, cp.async, and addresses between spaces.
//!
//! Sections of the PTX ISA 9.0: "Data Movement and Conversion Instructions: ld", "ld.global.nc", "st", "cvta", "cp.async" (9.7.9).
//! A cp.async reads global memory when it is executed and writes shared memory at the thread's next cp.async.wait_all, the latest
//! moment that there is.

use super::Op as Any;
use super::order::{Order, order};
use crate::machine::{GENERIC_SHARED, Machine, Next, ThreadIndex};
use crate::ptx::{Address, Destination, Modifiers, Names, Source, Statement, members, types};
use crate::trap::Result;

#[derive(Debug)]
pub(crate) enum Op {
    Load {
        access: Access,
        to: [Option<Destination>; 4],
    },
    Store {
        access: Access,
        from: [Source; 4],
    },
    /// cp.async of so many bytes.
    Copy {
        to: Address,
        from: Address,
        bytes: usize,
    },
    /// cp.async.wait_all.
    WaitForCopies,
    /// cvta between the generic space and a window that begins at `start` of it.
    ToGeneric {
        to: Destination,
        from: Source,
        start: u64,
    },
    FromGeneric {
        to: Destination,
        from: Source,
        start: u64,
    },
}

/// The memory that an instruction touches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) space: Space,
    pub(crate) address: Address,
    /// Elements, one behind the other, and bytes of each.
    pub(crate) count: usize,
    pub(crate) bytes: usize,
    pub(crate) is_signed: bool,
    pub(crate) order: Order,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Parameters,
}

const CACHES: [&str; 7] = ["ca", "cg", "cs", "lu", "cv", "wb", "wt"];

pub(super) fn decode(statement: &Statement<'_>, names: &mut Names) -> Result<Option<Any>> {
    let op = match statement.name() {
        "ld" => load(statement, names)?,
        "cp" => match statement.opcode {
            "cp.async.ca.shared.global" => {
                let [to, from, bytes] = statement.operands()?;
                let Ok(bytes @ (4 | 8 | 16)) = bytes.parse() else { return statement.unknown() };
                Op::Copy { to: names.address(to)?, from: names.address(from)?, bytes }
            }
            "cp.async.wait_all" => {
                let [] = statement.operands()?;
                Op::WaitForCopies
            }
            _ => return statement.unknown(),
        },
        "st" if !statement.opcode.starts_with("st.async") => store(statement, names)?,
        "cvta" => {
            let [to, from] = statement.operands()?;
            let (to, from) = (names.destination(to)?, names.source(from)?);
            match statement.opcode {
                "cvta.shared.u64" => Op::ToGeneric { to, from, start: GENERIC_SHARED },
                "cvta.global.u64" => Op::ToGeneric { to, from, start: 0 },
                "cvta.to.shared.u64" => Op::FromGeneric { to, from, start: GENERIC_SHARED },
                "cvta.to.global.u64" => Op::FromGeneric { to, from, start: 0 },
                _ => return statement.unknown(),
            }
        }
        _ => return Ok(None),
    };
    Ok(Some(Any::Access(op)))
}

fn load(statement: &Statement<'_>, names: &mut Names) -> Result<Op> {
    let [to, address] = statement.operands()?;
    let access = access(statement, address, names)?;
    let mut registers = [None; 4];
    if is_wide(statement) {
        [registers[0], registers[1]] = names.wide(to)?.map(Some);
        return if access.order.releases { statement.unknown() } else { Ok(Op::Load { access, to: registers }) };
    }
    let members = members(to);
    if members.len() != access.count || access.order.releases {
        return statement.unknown();
    }
    for (register, name) in registers.iter_mut().zip(members) {
        *register = names.optional(name)?;
    }
    Ok(Op::Load { access, to: registers })
}

fn store(statement: &Statement<'_>, names: &mut Names) -> Result<Op> {
    let [address, from] = statement.operands()?;
    let access = access(statement, address, names)?;
    let members = members(from);
    let is_load = access.order.acquires || access.order.is_constant;
    let count = if is_wide(statement) { 1 } else { access.count };
    if members.len() != count || access.space == Space::Parameters || is_load {
        return statement.unknown();
    }
    let mut sources = [names.constant(0); 4];
    if is_wide(statement) {
        [sources[0], sources[1]] = names.wide(from)?.map(|half| Source::Register(half.register));
        return Ok(Op::Store { access, from: sources });
    }
    for (source, name) in sources.iter_mut().zip(members) {
        *source = names.source(name)?;
    }
    Ok(Op::Store { access, from: sources })
}

/// Whether ld or st moves a register of 128 bits: two elements of 64 to the machine, at once ("Single-Copy Atomicity").
fn is_wide(statement: &Statement<'_>) -> bool {
    statement.opcode.ends_with(".b128")
}

/// The memory that ld or st touches.
fn access(statement: &Statement<'_>, address: &str, names: &mut Names) -> Result<Access> {
    let mut words = statement.modifiers();
    let is_weak = words.take("weak");
    let is_volatile = words.take("volatile");
    let mut order = order(&mut words);
    order.is_strong |= is_volatile;
    let space = space(&mut words);
    words.one_of(&CACHES);
    order.is_constant = words.take("nc");
    let count = match words.one_of(&["v2", "v4"]) {
        Some("v2") => 2,
        Some(_) => 4,
        None => 1,
    };
    let Some((bytes, is_signed)) = words.last().and_then(memory_type).filter(|_| !(is_weak && order.is_strong)) else {
        return statement.unknown();
    };
    let is_wide = bytes == 16;
    let (bytes, count) = if is_wide { (bytes / 2, 2 * count) } else { (bytes, count) };
    // The elements of a vector are accesses of their own, in any order ("Vector Data-types"): others may come between strong ones.
    if !is_wide && count > 1 && order.is_strong {
        return statement.unknown();
    }
    if bytes * count > 16 || (order.is_constant && (order.is_strong || space != Space::Global)) {
        return statement.unknown();
    }
    Ok(Access { space, address: names.address(address)?, count, bytes, is_signed, order })
}

pub(super) fn space(words: &mut Modifiers<'_>) -> Space {
    match words.one_of(&["global", "shared", "shared::cta", "param"]) {
        Some("global") => Space::Global,
        Some("param") => Space::Parameters,
        Some(_) => Space::Shared,
        None => Space::Generic,
    }
}

/// Bytes of a type, and whether it is signed. An f16 is moved as b16.
fn memory_type(name: &str) -> Option<(usize, bool)> {
    let bytes = types::bytes(name).filter(|_| name != "f16")?;
    Some((bytes, name.starts_with('s')))
}

impl Access {
    fn len(&self) -> usize {
        self.bytes * self.count
    }
}

impl Machine<'_> {
    pub(crate) fn access(&mut self, place: ThreadIndex, op: &Op) -> Result<Next> {
        match op {
            Op::Load { access, to } => self.load(place, access, to),
            Op::Store { access, from } => self.store(place, access, from),
            Op::Copy { to, from, bytes } => {
                let (to, from) = (self.address(place, *to), self.address(place, *from));
                let mut data = [0; 16];
                let data = &mut data[..*bytes];
                self.read(place, Space::Global, from, data, Order::WEAK)?;
                let copy = (to, data.to_vec());
                self.cta_mut(place).threads[place.thread].copies.push(copy);
                Ok(Next::Following)
            }
            Op::WaitForCopies => {
                for (to, data) in std::mem::take(&mut self.cta_mut(place).threads[place.thread].copies) {
                    self.write(place, Space::Shared, to, &data, Order::WEAK)?;
                }
                self.progress += 1;
                Ok(Next::Following)
            }
            Op::ToGeneric { to, from, start } => {
                let address = self.value(place, *from).wrapping_add(*start);
                self.set(place, *to, address);
                Ok(Next::Following)
            }
            Op::FromGeneric { to, from, start } => {
                let address = self.value(place, *from).wrapping_sub(*start);
                self.set(place, *to, address);
                Ok(Next::Following)
            }
        }
    }

    fn load(&mut self, place: ThreadIndex, access: &Access, to: &[Option<Destination>; 4]) -> Result<Next> {
        let address = self.address(place, access.address);
        let mut data = [0; 16];
        let data = &mut data[..access.len()];
        self.read(place, access.space, address, data, access.order)?;
        for (element, to) in data.chunks(access.bytes).zip(to) {
            let mut word = [0; 8];
            word[..access.bytes].copy_from_slice(element);
            let unused = 64 - 8 * access.bytes as u32;
            let value = u64::from_le_bytes(word) << unused;
            let value = if access.is_signed { ((value as i64) >> unused) as u64 } else { value >> unused };
            self.set_if(place, *to, value);
        }
        if access.order.acquires {
            self.acquire(place, access.order.scope);
        }
        // Others have their turn: this may be a loop that waits for them.
        Ok(if access.order.is_strong { Next::Pause } else { Next::Following })
    }

    fn store(&mut self, place: ThreadIndex, access: &Access, from: &[Source; 4]) -> Result<Next> {
        let address = self.address(place, access.address);
        let mut data = [0; 16];
        let data = &mut data[..access.len()];
        for (element, from) in data.chunks_mut(access.bytes).zip(from) {
            element.copy_from_slice(&self.value(place, *from).to_le_bytes()[..access.bytes]);
        }
        if access.order.releases {
            self.release(place, access.order.scope);
        }
        self.write(place, access.space, address, data, access.order)?;
        self.progress += 1;
        Ok(Next::Following)
    }
}

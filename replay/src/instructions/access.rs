//! Memory: ld, st, atom, fences, and addresses between spaces.
//!
//! Sections of the PTX ISA 9.0: "Data Movement and Conversion Instructions: ld", "ld.global.nc", "st", "cvta" (9.7.9), "Parallel
//! Synchronization and Communication Instructions: membar / fence" (9.7.13.4) and "atom" (9.7.13.5), and "Memory Consistency
//! Model" (8) for what release, acquire and scopes mean. membar.gl is fence.sc.gpu there, and here no more than
//! fence.acq_rel.gpu: strong accesses are sequentially consistent anyway.

use super::Op as Any;
use crate::machine::{GENERIC_SHARED, Machine, Next, Place};
use crate::ptx::{Address, Destination, Modifiers, Names, Source, Statement, members};
use crate::trap::{Result, trap};

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
    Atom {
        access: Access,
        kind: AtomKind,
        to: Option<Destination>,
        operand: Source,
    },
    /// Of a scope, or of mbarriers alone.
    Fence(Option<Scope>),
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

/// What an access is to other CTAs ("Memory Consistency Model: Operation types"): a weak one may be late, a strong one not, for
/// those of its scope.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) is_strong: bool,
    pub(crate) acquires: bool,
    pub(crate) releases: bool,
    pub(crate) scope: Scope,
    /// ld.nc: of memory that nobody writes while the launch runs.
    pub(crate) is_constant: bool,
}

/// Whom a strong access or a fence orders ("Memory Consistency Model: Scope").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Cta,
    Cluster,
    /// The grid, and whoever else there is.
    Device,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum AtomKind {
    Add,
    /// 0 where the old value is the operand or more, else one more.
    Inc,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
}

const CACHES: [&str; 7] = ["ca", "cg", "cs", "lu", "cv", "wb", "wt"];

pub(super) fn decode(statement: &Statement<'_>, names: &mut Names) -> Result<Option<Any>> {
    let op = match statement.name() {
        "ld" => load(statement, names)?,
        "st" if !statement.opcode.starts_with("st.async") => store(statement, names)?,
        "atom" => atom(statement, names)?,
        "fence" | "membar" => {
            let [] = statement.operands()?;
            match statement.opcode {
                "membar.cta" | "fence.acq_rel.cta" => Op::Fence(Some(Scope::Cta)),
                "fence.acq_rel.cluster" => Op::Fence(Some(Scope::Cluster)),
                "membar.gl" | "fence.acq_rel.gpu" => Op::Fence(Some(Scope::Device)),
                // Orders nothing but the mbarrier.init of the thread before it. A barrier.cluster.arrive.release does too, and
                // .relaxed is not known, so that a missing one is no error.
                "fence.mbarrier_init.release.cluster" => Op::Fence(None),
                _ => return statement.unknown(),
            }
        }
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
    if members.len() != access.count || access.space == Space::Parameters || is_load {
        return statement.unknown();
    }
    let mut sources = [names.constant(0); 4];
    for (source, name) in sources.iter_mut().zip(members) {
        *source = names.source(name)?;
    }
    Ok(Op::Store { access, from: sources })
}

/// What ld and st have in common.
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
    if bytes * count > 16 || (order.is_constant && (order.is_strong || space != Space::Global)) {
        return statement.unknown();
    }
    Ok(Access { space, address: names.address(address)?, count, bytes, is_signed, order })
}

fn atom(statement: &Statement<'_>, names: &mut Names) -> Result<Op> {
    let [to, address, operand] = statement.operands()?;
    let mut words = statement.modifiers();
    let mut order = order(&mut words);
    order.is_strong = true;
    let space = space(&mut words);
    let kind = match words.one_of(&["add", "inc", "min", "max", "and", "or", "xor", "exch"]) {
        Some("add") => AtomKind::Add,
        Some("inc") => AtomKind::Inc,
        Some("min") => AtomKind::Min,
        Some("max") => AtomKind::Max,
        Some("and") => AtomKind::And,
        Some("or") => AtomKind::Or,
        Some("xor") => AtomKind::Xor,
        Some("exch") => AtomKind::Exchange,
        _ => return statement.unknown(),
    };
    let bytes = match words.last() {
        Some("u32" | "b32") => 4,
        Some("u64" | "b64") => 8,
        _ => return statement.unknown(),
    };
    let access = Access { space, address: names.address(address)?, count: 1, bytes, is_signed: false, order };
    Ok(Op::Atom { access, kind, to: names.optional(to)?, operand: names.source(operand)? })
}

/// The order and its scope, which is the device's where none is named ("atom": .gpu; "ld": .volatile is of .sys).
fn order(words: &mut Modifiers<'_>) -> Order {
    let order = words.one_of(&["relaxed", "acquire", "release", "acq_rel"]);
    let scope = match words.one_of(&["cta", "cluster", "gpu", "sys"]) {
        Some("cta") => Scope::Cta,
        Some("cluster") => Scope::Cluster,
        _ => Scope::Device,
    };
    Order {
        is_strong: order.is_some(),
        acquires: matches!(order, Some("acquire" | "acq_rel")),
        releases: matches!(order, Some("release" | "acq_rel")),
        scope,
        is_constant: false,
    }
}

fn space(words: &mut Modifiers<'_>) -> Space {
    match words.one_of(&["global", "shared", "shared::cta", "param"]) {
        Some("global") => Space::Global,
        Some("param") => Space::Parameters,
        Some(_) => Space::Shared,
        None => Space::Generic,
    }
}

/// Bytes of a type, and whether it is signed.
fn memory_type(name: &str) -> Option<(usize, bool)> {
    let bytes = match name {
        "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" => 2,
        "b32" | "u32" | "s32" | "f32" => 4,
        "b64" | "u64" | "s64" => 8,
        _ => return None,
    };
    Some((bytes, name.starts_with('s')))
}

impl Access {
    fn len(&self) -> usize {
        self.bytes * self.count
    }
}

impl Machine<'_> {
    pub(crate) fn access(&mut self, place: Place, op: &Op) -> Result<Next> {
        match op {
            Op::Load { access, to } => self.load(place, access, to),
            Op::Store { access, from } => self.store(place, access, from),
            Op::Atom { access, kind, to, operand } => self.atom(place, access, *kind, *to, *operand),
            Op::Fence(scope) => {
                if let Some(scope) = *scope {
                    self.release(place, scope);
                    self.acquire(place, scope);
                }
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

    fn load(&mut self, place: Place, access: &Access, to: &[Option<Destination>; 4]) -> Result<Next> {
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
        // What is read so may be waited for: others have their turn.
        Ok(if access.order.is_strong { Next::Pause } else { Next::Following })
    }

    fn store(&mut self, place: Place, access: &Access, from: &[Source; 4]) -> Result<Next> {
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

    fn atom(
        &mut self,
        place: Place,
        access: &Access,
        kind: AtomKind,
        to: Option<Destination>,
        operand: Source,
    ) -> Result<Next> {
        if access.space == Space::Parameters {
            trap!("an atom on parameters");
        }
        let address = self.address(place, access.address);
        if access.order.releases {
            self.release(place, access.order.scope);
        }
        let mut word = [0; 8];
        self.read(place, access.space, address, &mut word[..access.bytes], access.order)?;
        let old = u64::from_le_bytes(word);
        let operand = self.value(place, operand) & (u64::MAX >> (64 - 8 * access.bytes));
        let new = match kind {
            AtomKind::Add => old.wrapping_add(operand),
            AtomKind::Inc => {
                if old >= operand {
                    0
                } else {
                    old + 1
                }
            }
            AtomKind::Min => old.min(operand),
            AtomKind::Max => old.max(operand),
            AtomKind::And => old & operand,
            AtomKind::Or => old | operand,
            AtomKind::Xor => old ^ operand,
            AtomKind::Exchange => operand,
        };
        self.write(place, access.space, address, &new.to_le_bytes()[..access.bytes], access.order)?;
        self.set_if(place, to, old);
        if access.order.acquires {
            self.acquire(place, access.order.scope);
        }
        self.progress += 1;
        Ok(Next::Pause)
    }
}

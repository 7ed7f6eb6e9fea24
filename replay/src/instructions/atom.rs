//! atom and fences.
//!
//! Sections of the PTX ISA 9.0: "Parallel Synchronization and Communication Instructions: membar / fence" (9.7.13.4) and "atom"
//! (9.7.13.5), and "Memory Consistency Model" (8) for what release, acquire and scopes mean. membar.gl is fence.sc.gpu there, and
//! here no more than fence.acq_rel.gpu: strong accesses are sequentially consistent anyway.

use super::Op as Any;
use super::access::{Access, Space, space};
use super::order::{Scope, order};
use crate::machine::{Machine, Next, ThreadIndex};
use crate::ptx::{Destination, Names, Source, Statement};
use crate::trap::{Result, trap};

#[derive(Debug)]
pub(crate) enum Op {
    Atom {
        access: Access,
        kind: Kind,
        to: Option<Destination>,
        operand: Source,
    },
    /// A fence of a scope, or of mbarriers alone.
    Fence(Option<Scope>),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
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

pub(super) fn decode(statement: &Statement<'_>, names: &mut Names) -> Result<Option<Any>> {
    let op = match statement.name() {
        "atom" => atom(statement, names)?,
        "fence" | "membar" => fence(statement)?,
        _ => return Ok(None),
    };
    Ok(Some(Any::Atom(op)))
}

fn fence(statement: &Statement<'_>) -> Result<Op> {
    let [] = statement.operands()?;
    Ok(Op::Fence(match statement.opcode {
        "membar.cta" | "fence.acq_rel.cta" => Some(Scope::Cta),
        "fence.acq_rel.cluster" => Some(Scope::Cluster),
        "membar.gl" | "fence.acq_rel.gpu" => Some(Scope::Device),
        // Orders nothing but the mbarrier.init of the thread before it. A barrier.cluster.arrive.release does too, and .relaxed is
        // not known, so that a missing one is no error.
        "fence.mbarrier_init.release.cluster" => None,
        _ => return statement.unknown(),
    }))
}

fn atom(statement: &Statement<'_>, names: &mut Names) -> Result<Op> {
    let [to, address, operand] = statement.operands()?;
    let mut words = statement.modifiers();
    let mut order = order(&mut words);
    order.is_strong = true;
    let space = space(&mut words);
    let kind = match words.one_of(&["add", "inc", "min", "max", "and", "or", "xor", "exch"]) {
        Some("add") => Kind::Add,
        Some("inc") => Kind::Inc,
        Some("min") => Kind::Min,
        Some("max") => Kind::Max,
        Some("and") => Kind::And,
        Some("or") => Kind::Or,
        Some("xor") => Kind::Xor,
        Some("exch") => Kind::Exchange,
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

impl Machine<'_> {
    pub(crate) fn atom_or_fence(&mut self, place: ThreadIndex, op: &Op) -> Result<Next> {
        match op {
            Op::Atom { access, kind, to, operand } => self.atom(place, access, *kind, *to, *operand),
            Op::Fence(scope) => {
                if let Some(scope) = *scope {
                    self.release(place, scope);
                    self.acquire(place, scope);
                }
                Ok(Next::Following)
            }
        }
    }

    fn atom(
        &mut self,
        place: ThreadIndex,
        access: &Access,
        kind: Kind,
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
            Kind::Add => old.wrapping_add(operand),
            Kind::Inc => {
                if old >= operand {
                    0
                } else {
                    old + 1
                }
            }
            Kind::Min => old.min(operand),
            Kind::Max => old.max(operand),
            Kind::And => old & operand,
            Kind::Or => old | operand,
            Kind::Xor => old ^ operand,
            Kind::Exchange => operand,
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

//! mov of two halves, of 128 bits too, and of special registers (PTX ISA, "Data Movement and Conversion Instructions: mov", "Special Registers").
//!
//! %warpid is not known: the ISA does not promise that it is the thread's number over 32.

use super::Op as Any;
use crate::machine::{Machine, Next, ThreadIndex};
use crate::ptx::{Destination, Names, Source, Statement};
use crate::trap::Result;

#[derive(Debug)]
pub(crate) enum Op {
    /// Two values of so many bits, the first one the lower.
    Pack {
        to: Destination,
        from: [Source; 2],
        bits: u32,
    },
    Unpack {
        to: [Option<Destination>; 2],
        from: Source,
        bits: u32,
    },
    /// The halves of 128 bits.
    Both {
        to: [Option<Destination>; 2],
        from: [Source; 2],
    },
    Special {
        to: Destination,
        which: Special,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Special {
    ThreadId(usize),
    BlockSize(usize),
    CtaId(usize),
    GridSize(usize),
    Lane,
    ClusterRank,
    ClusterSize,
}

impl Special {
    fn named(name: &str) -> Option<Self> {
        if let Some((name, dimension)) = name.split_once('.') {
            let dimension = ["x", "y", "z"].iter().position(|&d| d == dimension)?;
            return Some(match name {
                "%tid" => Self::ThreadId(dimension),
                "%ntid" => Self::BlockSize(dimension),
                "%ctaid" => Self::CtaId(dimension),
                "%nctaid" => Self::GridSize(dimension),
                _ => return None,
            });
        }
        Some(match name {
            "%laneid" => Self::Lane,
            "%cluster_ctarank" => Self::ClusterRank,
            "%cluster_nctarank" => Self::ClusterSize,
            _ => return None,
        })
    }
}

pub(super) fn decode(statement: &Statement<'_>, names: &mut Names) -> Result<Option<Any>> {
    if statement.name() != "mov" {
        return Ok(None);
    }
    let [to, from] = statement.operands()?;
    let op = if let Some(which) = Special::named(from) {
        Op::Special { to: names.destination(to)?, which }
    } else if from.starts_with('{') || to.starts_with('{') {
        let bits = match statement.opcode {
            "mov.b32" => 16,
            "mov.b64" => 32,
            "mov.b128" => return Ok(Some(Any::Registers(halves(statement, names)?))),
            _ => return statement.unknown(),
        };
        match (&crate::ptx::members(to)[..], &crate::ptx::members(from)[..]) {
            (&[to], &[low, high]) => {
                Op::Pack { to: names.destination(to)?, from: [names.source(low)?, names.source(high)?], bits }
            }
            (&[low, high], &[from]) => {
                Op::Unpack { to: [names.optional(low)?, names.optional(high)?], from: names.source(from)?, bits }
            }
            _ => return statement.unknown(),
        }
    } else {
        return Ok(None);
    };
    Ok(Some(Any::Registers(op)))
}

/// mov.b128 from two halves, or to them.
fn halves(statement: &Statement<'_>, names: &mut Names) -> Result<Op> {
    let [to, from] = statement.operands()?;
    match (&crate::ptx::members(to)[..], &crate::ptx::members(from)[..]) {
        (&[to], &[low, high]) => {
            let [to_low, to_high] = names.wide(to)?.map(Some);
            Ok(Op::Both { to: [to_low, to_high], from: [names.source(low)?, names.source(high)?] })
        }
        (&[low, high], &[from]) => {
            let to = [names.optional(low)?, names.optional(high)?];
            Ok(Op::Both { to, from: names.wide(from)?.map(|half| Source::Register(half.register)) })
        }
        _ => statement.unknown(),
    }
}

impl Machine<'_> {
    pub(crate) fn move_registers(&mut self, place: ThreadIndex, op: &Op) -> Result<Next> {
        match *op {
            Op::Pack { to, from: [low, high], bits } => {
                let mask = (1 << bits) - 1;
                let value = (self.value(place, low) & mask) | (self.value(place, high) & mask) << bits;
                self.set(place, to, value);
            }
            Op::Unpack { to: [low, high], from, bits } => {
                let value = self.value(place, from);
                self.set_if(place, low, value & ((1 << bits) - 1));
                self.set_if(place, high, value >> bits);
            }
            Op::Both { to: [low, high], from } => {
                let [of_low, of_high] = from.map(|from| self.value(place, from));
                self.set_if(place, low, of_low);
                self.set_if(place, high, of_high);
            }
            Op::Special { to, which } => {
                let cta = self.cta(place);
                let value = match which {
                    Special::ThreadId(dimension) => cta.threads[place.thread].id[dimension],
                    Special::BlockSize(dimension) => self.launch.block[dimension],
                    Special::CtaId(dimension) => cta.id[dimension],
                    Special::GridSize(dimension) => self.launch.grid[dimension],
                    Special::Lane => place.thread as u32 % 32,
                    Special::ClusterRank => place.rank as u32,
                    Special::ClusterSize => self.launch.cluster,
                };
                self.set(place, to, u64::from(value));
            }
        }
        Ok(Next::Following)
    }
}

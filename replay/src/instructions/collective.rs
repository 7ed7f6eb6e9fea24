//! Instructions for the threads of a CTA or of a warp together: bar.sync, bar.red, shfl.sync, vote.sync.
//!
//! Sections of the PTX ISA 9.0:
//! - bar.sync, which is barrier.sync.aligned ("Parallel Synchronization and Communication Instructions: bar, barrier", 9.7.13.1):
//!   waits for all threads of the CTA that have not exited; it is aligned, so all of the CTA come to it by the same instruction.
//! - bar.red.or.pred (the same section): bar.sync that gives every thread whether any of them brought a true predicate.
//! - shfl.sync ("Data Movement and Conversion Instructions: shfl.sync", 9.7.9.6): a lane reads operand a of a lane j that b and c
//!   give; the predicate says whether j is in range, else the lane reads its own. It waits for all lanes of the mask that have
//!   not exited, which must execute a shfl.sync of the same kind with the same mask. Where reading from a lane that does not take
//!   part, or a mask without the lane itself, is undefined, it traps. It orders no memory.
//! - vote.sync ("Parallel Synchronization and Communication Instructions: vote.sync", 9.7.13.9): any, all, and ballot, over the
//!   lanes of the mask that have not exited; of the others ballot has 0.
//!
//! Lanes that a CTA of no multiple of 32 threads does not have count as exited.

use super::Op as Any;
use crate::machine::{Machine, Next, State, ThreadIndex};
use crate::ptx::{Destination, Names, Source, Statement};
use crate::trap::{Result, trap};

#[derive(Debug)]
pub(crate) enum Op {
    Barrier(Source),
    BarrierOr {
        to: Destination,
        number: Source,
        predicate: Source,
    },
    Shuffle {
        kind: Shuffle,
        to: Option<Destination>,
        in_segment: Option<Destination>,
        a: Source,
        b: Source,
        c: Source,
        mask: Source,
    },
    Vote {
        kind: Vote,
        to: Destination,
        predicate: Source,
        mask: Source,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Butterfly,
    Up,
    Down,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    Any,
    All,
    Ballot,
}

pub(super) fn decode(statement: &Statement<'_>, names: &mut Names) -> Result<Option<Any>> {
    let op = match statement.opcode {
        "bar.sync" | "barrier.sync.aligned" => {
            let [number] = statement.operands()?;
            Op::Barrier(names.source(number)?)
        }
        "bar.red.or.pred" | "barrier.red.or.pred.aligned" => {
            let [to, number, predicate] = statement.operands()?;
            Op::BarrierOr {
                to: names.destination(to)?,
                number: names.source(number)?,
                predicate: names.source(predicate)?,
            }
        }
        "shfl.sync.bfly.b32" => shuffle(Shuffle::Butterfly, statement, names)?,
        "shfl.sync.up.b32" => shuffle(Shuffle::Up, statement, names)?,
        "shfl.sync.down.b32" => shuffle(Shuffle::Down, statement, names)?,
        "shfl.sync.idx.b32" => shuffle(Shuffle::Index, statement, names)?,
        "vote.sync.any.pred" => vote(Vote::Any, statement, names)?,
        "vote.sync.all.pred" => vote(Vote::All, statement, names)?,
        "vote.sync.ballot.b32" => vote(Vote::Ballot, statement, names)?,
        _ => return Ok(None),
    };
    Ok(Some(Any::Collective(op)))
}

fn shuffle(kind: Shuffle, statement: &Statement<'_>, names: &mut Names) -> Result<Op> {
    let [to, a, b, c, mask] = statement.operands()?;
    let (to, in_segment) = to.split_once('|').map_or((to, None), |(to, predicate)| (to, Some(predicate)));
    Ok(Op::Shuffle {
        kind,
        to: names.optional(to)?,
        in_segment: in_segment.map(|name| names.destination(name)).transpose()?,
        a: names.source(a)?,
        b: names.source(b)?,
        c: names.source(c)?,
        mask: names.source(mask)?,
    })
}

fn vote(kind: Vote, statement: &Statement<'_>, names: &mut Names) -> Result<Op> {
    let [to, predicate, mask] = statement.operands()?;
    Ok(Op::Vote { kind, to: names.destination(to)?, predicate: names.source(predicate)?, mask: names.source(mask)? })
}

impl Op {
    /// The lanes that take part.
    fn mask(&self) -> Option<Source> {
        match self {
            Self::Barrier(_) | Self::BarrierOr { .. } => None,
            Self::Shuffle { mask, .. } | Self::Vote { mask, .. } => Some(*mask),
        }
    }

    /// Whether lanes that wait at these two instructions complete one collective.
    fn pairs_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Shuffle { kind, .. }, Self::Shuffle { kind: other, .. }) => kind == other,
            (Self::Vote { kind, .. }, Self::Vote { kind: other, .. }) => kind == other,
            _ => false,
        }
    }
}

impl<'a> Machine<'a> {
    pub(crate) fn collective(&mut self, place: ThreadIndex, op: &Op) -> Result<Next> {
        match op.mask() {
            None => {
                let (Op::Barrier(number) | Op::BarrierOr { number, .. }) = op else {
                    trap!("a collective without lanes")
                };
                if self.value(place, *number) != 0 {
                    trap!("not known: a barrier other than 0");
                }
                let cta = self.cta_mut(place);
                cta.threads[place.thread].state = State::AtBarrier;
                cta.at_barrier += 1;
                self.complete_barrier(place)?;
            }
            Some(mask) => {
                if self.value(place, mask) >> (place.thread % 32) & 1 == 0 {
                    trap!("a collective whose mask lacks the lane itself");
                }
                let cta = self.cta_mut(place);
                cta.threads[place.thread].state = State::InCollective;
                cta.warps[place.thread / 32].waiting += 1;
                self.complete_collective(place)?;
            }
        }
        Ok(Next::Wait)
    }

    /// Lets all go on that wait at bar.sync or bar.red, if nobody else is to come.
    pub(crate) fn complete_barrier(&mut self, place: ThreadIndex) -> Result<()> {
        let cta = self.cta(place);
        if cta.at_barrier == 0 || cta.at_barrier != cta.live {
            return Ok(());
        }
        self.check_aligned(place, usize::MAX, |thread| thread.pc)?;
        self.set_barrier_results(place);
        let cta = self.cta_mut(place);
        for thread in cta.threads.iter_mut().filter(|thread| thread.state == State::AtBarrier) {
            thread.state = State::Ready;
            thread.pc += 1;
        }
        cta.at_barrier = 0;
        cta.view.barriers += 1;
        self.progress += 1;
        Ok(())
    }

    /// The results of bar.red for the threads that wait there; all of them wait at one instruction.
    fn set_barrier_results(&mut self, place: ThreadIndex) {
        let entry = self.entry;
        let waiting: Vec<_> = (0..self.cta(place).threads.len())
            .map(|thread| ThreadIndex { thread, ..place })
            .filter_map(|place| {
                let thread = &self.cta(place).threads[place.thread];
                match &entry.code.get(thread.pc)?.op {
                    Any::Collective(Op::BarrierOr { to, predicate, .. }) if thread.state == State::AtBarrier => {
                        Some((place, *to, *predicate))
                    }
                    _ => None,
                }
            })
            .collect();
        let any = waiting.iter().any(|&(place, _, predicate)| self.value(place, predicate) & 1 == 1);
        for (place, to, _) in waiting {
            self.set(place, to, u64::from(any));
        }
    }

    /// [`Self::complete_collective`] for every lane of a thread's warp.
    pub(crate) fn complete_collectives(&mut self, place: ThreadIndex) -> Result<()> {
        let first = place.thread / 32 * 32;
        let end = (first + 32).min(self.cta(place).threads.len());
        (first..end).try_for_each(|thread| self.complete_collective(ThreadIndex { thread, ..place }))
    }

    /// Executes the collective that a thread waits in, if any, once all lanes of its mask have come.
    fn complete_collective(&mut self, place: ThreadIndex) -> Result<()> {
        let entry = self.entry;
        let Some((op, mask)) = self.waiting_in(place).and_then(|op| Some((op, op.mask()?))) else { return Ok(()) };
        let mask = self.value(place, mask) as u32;
        let warp = self.cta(place).warps[place.thread / 32];
        if warp.waiting + warp.exited < mask.count_ones() {
            return Ok(());
        }
        let first = place.thread / 32 * 32;
        let count = (self.cta(place).threads.len() - first).min(32);
        let at = |lane: usize| ThreadIndex { thread: first + lane, ..place };
        let mut lanes = Vec::with_capacity(32);
        for lane in (0..count).filter(|lane| mask >> lane & 1 == 1) {
            if self.cta(place).threads[first + lane].state == State::Exited {
                continue;
            }
            let same = self.waiting_in(at(lane)).filter(|its| op.pairs_with(its)).and_then(Op::mask);
            if same.is_none_or(|its| self.value(at(lane), its) as u32 != mask) {
                return Ok(());
            }
            lanes.push(lane);
        }
        let results = self.results(place, first, &lanes)?;
        for (&lane, [first, second]) in lanes.iter().zip(results) {
            let place = at(lane);
            let thread = &mut self.cta_mut(place).threads[place.thread];
            let op = &entry.code[thread.pc].op;
            thread.state = State::Ready;
            thread.pc += 1;
            match op {
                Any::Collective(Op::Shuffle { to, in_segment, .. }) => {
                    self.set_if(place, *to, first);
                    self.set_if(place, *in_segment, second);
                }
                Any::Collective(Op::Vote { to, .. }) => self.set(place, *to, first),
                _ => {}
            }
        }
        self.cta_mut(place).warps[place.thread / 32].waiting -= lanes.len() as u32;
        self.progress += 1;
        Ok(())
    }

    /// The collective that a thread waits in.
    fn waiting_in(&self, place: ThreadIndex) -> Option<&'a Op> {
        let thread = &self.cta(place).threads[place.thread];
        // A thread that has come to the end of the body stands at no instruction.
        match &self.entry.code.get(thread.pc)?.op {
            Any::Collective(op) if thread.state == State::InCollective => Some(op),
            _ => None,
        }
    }

    /// The results of each of these lanes.
    fn results(&self, place: ThreadIndex, first: usize, lanes: &[usize]) -> Result<Vec<[u64; 2]>> {
        let at = |lane: usize| ThreadIndex { thread: first + lane, ..place };
        let mut ballot = 0u64;
        for &lane in lanes {
            if let Some(Op::Vote { predicate, .. }) = self.waiting_in(at(lane)) {
                ballot |= (self.value(at(lane), *predicate) & 1) << lane;
            }
        }
        let all = lanes.iter().fold(0, |all, lane| all | 1 << lane);
        let mut results = Vec::with_capacity(lanes.len());
        for &lane in lanes {
            let result = match self.waiting_in(at(lane)) {
                Some(Op::Vote { kind: Vote::Any, .. }) => [u64::from(ballot != 0), 0],
                Some(Op::Vote { kind: Vote::All, .. }) => [u64::from(ballot == all), 0],
                Some(Op::Vote { kind: Vote::Ballot, .. }) => [ballot, 0],
                Some(Op::Shuffle { kind, b, c, .. }) => {
                    let (b, c) = (self.value(at(lane), *b) as u32, self.value(at(lane), *c) as u32);
                    let (from, in_segment) = kind.donor(lane as u32, b, c);
                    let donor = at(from as usize);
                    if !lanes.contains(&(from as usize)) {
                        trap!("a shuffle from lane {from}, which does not take part");
                    }
                    let Some(Op::Shuffle { a, .. }) = self.waiting_in(donor) else {
                        trap!("a shuffle without a donor")
                    };
                    [self.value(donor, *a), u64::from(in_segment)]
                }
                _ => trap!("a collective without lanes"),
            };
            results.push(result);
        }
        Ok(results)
    }
}

impl Shuffle {
    /// The lane that a lane reads from, and whether it lies in the segment; one that does not is the lane itself. `c` has the
    /// clamp in its bits 0 to 4 and the mask of the segment in bits 8 to 12.
    fn donor(self, lane: u32, b: u32, c: u32) -> (u32, bool) {
        let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
        let first = lane & segment;
        let most = first | (clamp & !segment);
        let (from, in_segment) = match self {
            Self::Up => {
                let from = lane.wrapping_sub(b);
                (from, from as i32 >= most as i32)
            }
            Self::Down => (lane + b, lane + b <= most),
            Self::Butterfly => (lane ^ b, lane ^ b <= most),
            Self::Index => {
                let from = first | (b & !segment);
                (from, from <= most)
            }
        };
        if in_segment { (from, true) } else { (lane, false) }
    }
}

//! A thread's turn.

use super::grid::Round;
use super::{Machine, State, ThreadIndex};
use crate::instructions::{Compute, Instruction, Op};
use crate::ptx::Source;
use crate::trap::{Result, Trap, trap};

/// The step behind an instruction.
pub(crate) enum Next {
    /// Goes on with the one that follows.
    Following,
    /// Stands before the one that follows until its next turn.
    Pause,
    /// Stands where it is, or where others have put it.
    Wait,
}

impl<'a> Machine<'a> {
    /// Lets a thread go on until it must wait or is interrupted.
    pub(super) fn turn(&mut self, place: ThreadIndex) -> Result<Round> {
        self.go_on(place).map_err(|trap| trap.at(&self.told(place)))
    }

    fn go_on(&mut self, place: ThreadIndex) -> Result<Round> {
        let mut left = self.schedule.slice();
        while let Some(instruction) = self.compute(place, &mut left)? {
            match self.execute(place, instruction)? {
                Next::Following => self.cta_mut(place).threads[place.thread].pc += 1,
                Next::Pause => {
                    self.cta_mut(place).threads[place.thread].pc += 1;
                    return Ok(Round::Waiting);
                }
                Next::Wait => return Ok(Round::Waiting),
            }
        }
        Ok(Round::Interrupted)
    }

    /// Executes what touches registers alone. Returns the instruction behind, or `None` where the slice is over.
    fn compute(&mut self, place: ThreadIndex, left: &mut u64) -> Result<Option<&'a Instruction>> {
        let entry = self.entry;
        let cta = &mut self.running[place.cluster].ctas[place.rank];
        let registers = &mut cta.registers[place.thread * entry.masks.len()..][..entry.masks.len()];
        let thread = &mut cta.threads[place.thread];
        loop {
            let Some(instruction) = entry.code.get(thread.pc) else { trap!("the end of the body") };
            if *left == 0 {
                return Ok(None);
            }
            *left -= 1;
            self.instructions += 1;
            if self.instructions > self.options.most_instructions {
                trap!("{} {} instructions", Trap::NO_END, self.options.most_instructions);
            }
            if instruction.guard.is_some_and(|guard| (registers[guard.register as usize] & 1 == 1) == guard.negated) {
                thread.pc += 1;
                continue;
            }
            self.hit[thread.pc] = true;
            let get = |source| match source {
                Source::Register(register) => registers[register as usize],
                Source::Constant(number) => entry.constants[number as usize],
            };
            match &instruction.op {
                Op::Compute(Compute { function, to, from: [a, b, c, d] }) => {
                    let value = function(get(*a), get(*b), get(*c), get(*d));
                    registers[to.register as usize] = value & to.mask;
                    thread.pc += 1;
                }
                Op::Branch(target) => thread.pc = *target,
                _ => return Ok(Some(instruction)),
            }
        }
    }

    fn execute(&mut self, place: ThreadIndex, instruction: &Instruction) -> Result<Next> {
        match &instruction.op {
            Op::Divide(Compute { function, to, from }) => {
                let [a, b, c, d] = from.map(|source| self.value(place, source));
                if b & to.mask == 0 {
                    trap!("an integer division by 0");
                }
                self.set(place, *to, function(a, b, c, d));
                Ok(Next::Following)
            }
            Op::Registers(op) => self.move_registers(place, op),
            Op::Access(op) => self.access(place, op),
            Op::Atom(op) => self.atom_or_fence(place, op),
            Op::Collective(op) => self.collective(place, op),
            Op::Cluster(op) => self.in_cluster(place, op),
            Op::Exit => self.exit(place).map(|()| Next::Wait),
            Op::Trap => Err(Trap::new("trap")),
            Op::WaitForLaunches => {
                self.cta_mut(place).threads[place.thread].has_waited = true;
                Ok(Next::Following)
            }
            Op::Compute(_) | Op::Branch(_) | Op::Hint => Ok(Next::Following),
        }
    }

    fn exit(&mut self, place: ThreadIndex) -> Result<()> {
        let cta = self.cta_mut(place);
        let thread = &mut cta.threads[place.thread];
        if thread.arrived.is_some() {
            trap!("an exit between the arrival at the cluster's barrier and the wait");
        }
        thread.state = State::Exited;
        cta.live -= 1;
        cta.warps[place.thread / 32].exited += 1;
        self.running[place.cluster].live -= 1;
        self.progress += 1;
        // Others may have waited for this one alone.
        self.complete_barrier(place)?;
        self.complete_cluster(place)?;
        self.complete_collectives(place)
    }
}

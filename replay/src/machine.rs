//! A grid in execution.
//!
//! Each PTX thread is interpreted by itself, from one place where it must wait to the next. Whose turn it is, where a thread is
//! interrupted, when an st.async arrives, how many CTAs are resident, and what uninitialised registers and memory hold, is drawn
//! from the seed ([`schedule`]).
//!
//! Addresses: parameters and shared memory have windows of their own; a global address is the emulated device's. A place in a
//! CTA of the cluster is its shared address, with one more than the rank above [`RANK_SHIFT`].

mod cta;
mod global;
mod grid;
mod schedule;
mod shared;
mod spaces;
mod thread;
mod view;

use crate::launch::{Contents, Launch};
use crate::ptx::{Address, Destination, Entry, Source};
use crate::trap::{Result, Trap, trap};

pub(crate) use cta::{AsyncStore, Cluster, Cta, State};
use global::Global;
use schedule::Schedule;
pub(crate) use thread::Next;
use view::Late;

/// The begin of the parameters in their window.
pub(crate) const PARAMETERS: u64 = 0x100;
/// The begin of a CTA's shared memory in its window: not 0, so that a null pointer points nowhere.
pub(crate) const SHARED: u64 = 1024;
/// The begin of the shared window in the generic space.
pub(crate) const GENERIC_SHARED: u64 = 0x1000 << 32;
/// An address in the cluster's window: the rank and 1 above these bits, and below the address in the CTA's own window.
pub(crate) const RANK_SHIFT: u32 = 24;

/// Bytes of the registers and the shared memory of all resident CTAs, at most.
const MOST_RESIDENT: u64 = 4 << 30;

/// Options of an execution.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The seed of what is drawn. 0 interrupts nobody and delivers at once.
    pub seed: u64,
    /// Whether a CTA sees others' global stores only as far as release and acquire say; else memory is sequentially consistent.
    pub weak: bool,
    /// The most instructions of a launch, after which it counts as one that does not end.
    pub most_instructions: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 1, weak: true, most_instructions: 2_000_000_000 }
    }
}

/// The state that a launch left.
#[derive(Debug)]
pub struct Ran {
    /// The contents of each allocation.
    pub memory: Vec<Contents>,
    /// Whether each instruction of the entry was executed.
    pub hit: Vec<bool>,
    /// The instructions that all threads executed.
    pub instructions: u64,
}

/// A thread: the index of its cluster among those that run, its CTA's rank there, and its number in the CTA.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThreadIndex {
    pub(crate) cluster: usize,
    pub(crate) rank: usize,
    pub(crate) thread: usize,
}

/// A launch in execution.
pub struct Machine<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) launch: &'a Launch,
    options: Options,
    schedule: Schedule,
    parameters: Vec<u8>,
    global: Global,
    pub(crate) running: Vec<Cluster>,
    /// The st.async that have not arrived.
    pub(crate) stores: Vec<AsyncStore>,
    /// Stores of CTAs that have ended, which nobody needed to see.
    late: Vec<Vec<Late>>,
    /// Moves with whatever a thread may wait for.
    pub(crate) progress: u64,
    instructions: u64,
    hit: Vec<bool>,
}

impl<'a> Machine<'a> {
    /// # Errors
    /// Parameters or threads other than the entry's: the launch and the PTX are of two builds.
    pub fn new(entry: &'a Entry, launch: &'a Launch, options: Options) -> std::result::Result<Self, String> {
        let mut schedule = Schedule::new(options.seed);
        let expected: Vec<usize> = entry.parameters.iter().map(|p| p.bytes).collect();
        let got: Vec<usize> = launch.parameters.iter().map(Vec::len).collect();
        if expected != got {
            return Err(format!(
                "{}: expected parameters of {expected:?} bytes as in the PTX, got {got:?}",
                entry.name
            ));
        }
        if entry.max_threads.is_some_and(|most| launch.threads() > most) {
            return Err(format!("{}: {} threads a CTA, more than .maxntid says", entry.name, launch.threads()));
        }
        if let Some(odd) = launch.allocations.iter().find(|a| !a.address.is_multiple_of(16)) {
            return Err(format!("an allocation at {:#x}, which is no multiple of 16", odd.address));
        }
        let registers = entry.masks.len() as u64 * u64::from(launch.threads()) * 8;
        let resident = u64::from(schedule::most_resident(launch)) * (registers + launch.shared_bytes);
        if resident > MOST_RESIDENT {
            return Err(format!(
                "{}: {resident} bytes of registers and shared memory, too many to execute",
                entry.name
            ));
        }
        let mut parameters = vec![0; entry.parameter_bytes()];
        for (parameter, bytes) in entry.parameters.iter().zip(&launch.parameters) {
            parameters[parameter.offset..][..parameter.bytes].copy_from_slice(bytes);
        }
        Ok(Self {
            entry,
            launch,
            options,
            parameters,
            global: Global::new(&launch.allocations, &mut schedule),
            schedule,
            running: Vec::new(),
            stores: Vec::new(),
            late: Vec::new(),
            progress: 1,
            instructions: 0,
            hit: vec![false; entry.code.len()],
        })
    }

    /// Executes all CTAs.
    ///
    /// # Errors
    /// A trap, and the instructions before it.
    pub fn run(mut self) -> std::result::Result<Ran, (Trap, u64)> {
        match self.grid() {
            Ok(()) => Ok(Ran { memory: self.global.contents(), hit: self.hit, instructions: self.instructions }),
            Err(trap) => Err((trap, self.instructions)),
        }
    }

    pub(crate) fn cta(&self, place: ThreadIndex) -> &Cta {
        &self.running[place.cluster].ctas[place.rank]
    }

    pub(crate) fn cta_mut(&mut self, place: ThreadIndex) -> &mut Cta {
        &mut self.running[place.cluster].ctas[place.rank]
    }

    #[inline]
    pub(crate) fn value(&self, place: ThreadIndex, source: Source) -> u64 {
        match source {
            Source::Register(register) => {
                self.cta(place).registers[place.thread * self.entry.masks.len() + register as usize]
            }
            Source::Constant(number) => self.entry.constants[number as usize],
        }
    }

    pub(crate) fn address(&self, place: ThreadIndex, address: Address) -> u64 {
        self.value(place, address.base).wrapping_add(address.offset as u64)
    }

    pub(crate) fn set(&mut self, place: ThreadIndex, to: Destination, value: u64) {
        let stride = self.entry.masks.len();
        self.cta_mut(place).registers[place.thread * stride + to.register as usize] = value & to.mask;
    }

    pub(crate) fn set_if(&mut self, place: ThreadIndex, to: Option<Destination>, value: u64) {
        if let Some(to) = to {
            self.set(place, to, value);
        }
    }

    /// A thread and where it stands, for messages.
    pub(crate) fn told(&self, place: ThreadIndex) -> String {
        let cta = self.cta(place);
        format!("CTA {} thread {}, {}", cta.number, place.thread, self.entry.place(cta.threads[place.thread].pc))
    }

    /// All of so many threads, a warp or a CTA, that have not exited stand at one instruction, as aligned barriers demand.
    pub(crate) fn check_aligned(
        &self,
        place: ThreadIndex,
        len: usize,
        at: impl Fn(&cta::Thread) -> usize,
    ) -> Result<()> {
        for warp in self.cta(place).threads.chunks(len) {
            let mut places = warp.iter().filter(|thread| thread.state != State::Exited).map(&at);
            let first = places.next();
            if let Some(other) = places.find(|&place| Some(place) != first) {
                let first = first.map_or_else(String::new, |first| self.entry.place(first));
                let all = if len == 32 { "warp" } else { "CTA" };
                trap!("an aligned barrier with threads of one {all} at {first} and at {}", self.entry.place(other));
            }
        }
        Ok(())
    }
}

//! CTAs and their clusters.

use super::schedule::Schedule;
use super::shared::Shared;
use super::view::View;
use crate::launch::Launch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// At bar.sync.
    AtBarrier,
    /// At a shuffle or vote.
    InCollective,
    /// At barrier.cluster.wait.
    AtCluster,
    Exited,
}

#[derive(Clone, Debug)]
pub(crate) struct Thread {
    pub(crate) pc: usize,
    pub(crate) state: State,
    pub(crate) id: [u32; 3],
    /// The phase of the cluster's barrier that it arrived in, and by which instruction, until it has waited.
    pub(crate) arrived: Option<(u64, usize)>,
    /// Whether it has passed griddepcontrol.wait.
    pub(crate) has_waited: bool,
    /// Copies to shared memory that are under way: the address and the bytes.
    pub(crate) copies: Vec<(u64, Vec<u8>)>,
}

/// Counts of a warp's threads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Warp {
    /// Threads that wait in a shuffle or vote.
    pub(crate) waiting: u32,
    /// Threads that have exited, and those that the last warp lacks where the CTA has no multiple of 32 threads.
    pub(crate) exited: u32,
    /// The phase of the cluster's barrier that one of its threads has waited for last, and by which instruction.
    pub(crate) waited: Option<(u64, usize)>,
}

pub(crate) struct Cta {
    /// Its number in the grid.
    pub(crate) number: u32,
    pub(crate) id: [u32; 3],
    pub(crate) threads: Vec<Thread>,
    pub(crate) warps: Vec<Warp>,
    /// The registers of one thread behind those of the other.
    pub(crate) registers: Vec<u64>,
    pub(crate) shared: Shared,
    pub(crate) view: View,
    /// Threads that have not exited, and those of them that wait at bar.sync.
    pub(crate) live: u32,
    pub(crate) at_barrier: u32,
    /// The order in which its threads run.
    pub(crate) order: Vec<usize>,
    /// The priority over other CTAs, in schedules that have one.
    pub(crate) priority: u64,
}

pub(crate) struct Cluster {
    /// Its number in the grid.
    pub(crate) number: u32,
    pub(crate) ctas: Vec<Cta>,
    /// Threads that have not exited, and those of them that have arrived at its barrier in this phase.
    pub(crate) live: u32,
    pub(crate) arrived: u32,
    pub(crate) phase: u64,
}

/// An st.async on its way.
#[derive(Debug)]
pub(crate) struct AsyncStore {
    /// The cluster's number in the grid.
    pub(crate) cluster: u32,
    pub(crate) rank: usize,
    /// Shared addresses in that CTA.
    pub(crate) slot: u64,
    pub(crate) barrier: u64,
    pub(crate) words: [u32; 4],
    /// The thread that sent it.
    pub(crate) from: String,
}

impl Cta {
    pub(super) fn new(number: u32, launch: &Launch, masks: &[u64], view: View, schedule: &mut Schedule) -> Self {
        let threads = launch.threads();
        let id = |number: u32, [x, y, _]: [u32; 3]| [number % x, number / x % y, number / x / y];
        let mut order: Vec<usize> = (0..threads as usize).collect();
        schedule.shuffle(&mut order);
        let mut warps = vec![Warp::default(); threads.div_ceil(32) as usize];
        if let Some(last) = warps.last_mut() {
            last.exited = threads.next_multiple_of(32) - threads;
        }
        Self {
            number,
            id: id(number, launch.grid),
            threads: (0..threads)
                .map(|thread| Thread {
                    pc: 0,
                    state: State::Ready,
                    id: id(thread, launch.block),
                    arrived: None,
                    has_waited: false,
                    copies: Vec::new(),
                })
                .collect(),
            warps,
            registers: schedule.registers(masks, threads),
            shared: Shared::new(launch.shared_bytes as usize, schedule),
            view,
            live: threads,
            at_barrier: 0,
            order,
            priority: 0,
        }
    }
}

//! Instructions for the CTAs of a cluster together: barrier.cluster, mapa, mbarrier, st.async.
//!
//! Sections of the PTX ISA 9.0, "Parallel Synchronization and Communication Instructions" (9.7.13) and "Data Movement and
//! Conversion Instructions" (9.7.9):
//! - barrier.cluster (9.7.13.3): arrive marks the arrival of the thread, and with .release publishes what it stored before, with
//!   .relaxed nothing; wait.acquire waits for all threads of the cluster that have not exited. With .aligned all threads of a warp execute the same instruction. A thread arrives once before the
//!   barrier completes, and again once it has waited. What the ISA leaves open traps: a wait without an arrival, and an exit
//!   between the two.
//! - mbarrier.init (9.7.13.15.9) begins phase 0 with count pending arrivals and a tx-count of 0. The count is 1 to 2^20 - 1, the
//!   tx-count between -(2^20 - 1) and 2^20 - 1 ("Contents of the mbarrier object", 9.7.13.15.2).
//! - mbarrier.arrive.expect_tx (9.7.13.15.13) adds to the tx-count, then takes an arrival away. A phase is over when pending
//!   arrivals and tx-count are both 0, and the next begins with the count of init ("Phase of the mbarrier object", 9.7.13.15.4).
//! - mbarrier.try_wait.parity (9.7.13.15.16) is true where the phase of that parity, the current or the one before, is over: the
//!   current one has the other parity. It may give up waiting, so it is called in a loop. Its acquire, of what threads of the
//!   CTA did before their arrivals, has nothing to do here: a CTA's threads see each other's stores at once.
//! - st.async (9.7.9.12): a weak store to the shared memory of a CTA of the cluster, then complete-tx of its bytes on an mbarrier
//!   there, some time later. Slot and mbarrier are of one CTA, and the cluster has more than one. The complete-tx releases what
//!   the st.async has stored; it is no release of the sender, whose stores to global memory it does not publish.
//! - mapa (9.7.9.23): the address in the cluster's window of a place in the CTA of a rank.

use super::Op as Any;
use super::order::Scope;
use crate::machine::{AsyncStore, Machine, Next, RANK_SHIFT, State, ThreadIndex};
use crate::ptx::{Address, Destination, Names, Source, Statement, members};
use crate::trap::{Result, trap};

#[derive(Debug)]
pub(crate) enum Op {
    Arrive { releases: bool },
    Wait,
    Map { to: Destination, address: Source, rank: Source },
    Init { barrier: Address, count: Source },
    ExpectBytes { barrier: Address, bytes: Source },
    TryWait { to: Destination, barrier: Address, parity: Source },
    Send { slot: Address, words: [Source; 4], barrier: Address },
}

/// The most arrivals, and the most bytes up and down, that an mbarrier counts.
const MOST_BYTES: i64 = (1 << 20) - 1;

pub(super) fn decode(statement: &Statement<'_>, names: &mut Names) -> Result<Option<Any>> {
    let op = match statement.opcode {
        "barrier.cluster.arrive.release.aligned" => {
            let [] = statement.operands()?;
            Op::Arrive { releases: true }
        }
        "barrier.cluster.arrive.relaxed.aligned" => {
            let [] = statement.operands()?;
            Op::Arrive { releases: false }
        }
        "barrier.cluster.wait.acquire.aligned" => {
            let [] = statement.operands()?;
            Op::Wait
        }
        "mapa.shared::cluster.u32" => {
            let [to, address, rank] = statement.operands()?;
            Op::Map { to: names.destination(to)?, address: names.source(address)?, rank: names.source(rank)? }
        }
        "mbarrier.init.shared::cta.b64" => {
            let [barrier, count] = statement.operands()?;
            Op::Init { barrier: names.address(barrier)?, count: names.source(count)? }
        }
        "mbarrier.arrive.expect_tx.release.cta.shared::cta.b64" => {
            let ["_", barrier, bytes] = statement.operands()? else { return statement.unknown() };
            Op::ExpectBytes { barrier: names.address(barrier)?, bytes: names.source(bytes)? }
        }
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64" => {
            let [to, barrier, parity] = statement.operands()?;
            Op::TryWait { to: names.destination(to)?, barrier: names.address(barrier)?, parity: names.source(parity)? }
        }
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32" => {
            let [slot, words, barrier] = statement.operands()?;
            let &[a, b, c, d] = &members(words)[..] else { return statement.unknown() };
            let words = [names.source(a)?, names.source(b)?, names.source(c)?, names.source(d)?];
            Op::Send { slot: names.address(slot)?, words, barrier: names.address(barrier)? }
        }
        _ => return Ok(None),
    };
    Ok(Some(Any::Cluster(op)))
}

/// An mbarrier object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mbarrier {
    /// Arrivals that a phase takes, and those that are to come in this one.
    count: u64,
    pending: u64,
    /// The tx-count.
    bytes: i64,
    phase: u64,
}

impl Mbarrier {
    /// Whether it is as between two phases.
    pub(crate) fn is_idle(&self) -> bool {
        self.bytes == 0 && self.pending == self.count
    }

    /// Begins the next phase, if this one is over.
    fn complete(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.phase += 1;
            self.pending = self.count;
        }
    }
}

impl Machine<'_> {
    pub(crate) fn in_cluster(&mut self, place: ThreadIndex, op: &Op) -> Result<Next> {
        match *op {
            Op::Arrive { releases } => return self.arrive(place, releases),
            Op::Wait => return self.wait(place),
            Op::Map { to, address, rank } => {
                let (address, rank) = (self.value(place, address), self.value(place, rank) & 0xffff_ffff);
                if address >> RANK_SHIFT != 0 {
                    trap!("mapa of {address:#x}, which is no shared address of this CTA");
                }
                if rank >= self.running[place.cluster].ctas.len() as u64 {
                    trap!("mapa to rank {rank} of {} CTAs", self.running[place.cluster].ctas.len());
                }
                self.set(place, to, (rank + 1) << RANK_SHIFT | address);
            }
            Op::Init { barrier, count } => {
                let (offset, count) = (self.address(place, barrier), self.value(place, count) & 0xffff_ffff);
                if count == 0 || count > MOST_BYTES as u64 {
                    trap!("an mbarrier of {count} arrivals");
                }
                let mbarrier = Mbarrier { count, pending: count, bytes: 0, phase: 0 };
                self.cta_mut(place).shared.init_mbarrier(offset, mbarrier)?;
            }
            Op::ExpectBytes { barrier, bytes } => {
                let (offset, bytes) = (self.address(place, barrier), self.value(place, bytes) & 0xffff_ffff);
                let mbarrier = self.cta_mut(place).shared.mbarrier(offset)?;
                if mbarrier.pending == 0 {
                    trap!("more arrivals than the {} that the mbarrier counts", mbarrier.count);
                }
                mbarrier.bytes += bytes as i64;
                if bytes as i64 > MOST_BYTES || mbarrier.bytes > MOST_BYTES {
                    trap!("{} bytes, more than an mbarrier counts", mbarrier.bytes.max(bytes as i64));
                }
                mbarrier.pending -= 1;
                mbarrier.complete();
                self.progress += 1;
                return Ok(Next::Pause);
            }
            Op::TryWait { to, barrier, parity } => {
                let (offset, parity) = (self.address(place, barrier), self.value(place, parity) & 0xffff_ffff);
                if parity > 1 {
                    trap!("a parity of {parity}");
                }
                let is_over = self.cta_mut(place).shared.mbarrier(offset)?.phase & 1 != parity;
                self.set(place, to, u64::from(is_over));
                return Ok(if is_over { Next::Following } else { Next::Pause });
            }
            Op::Send { slot, words, barrier } => {
                let (slot, barrier) = (self.address(place, slot), self.address(place, barrier));
                let words = words.map(|word| self.value(place, word) as u32);
                self.send(place, slot & 0xffff_ffff, words, barrier & 0xffff_ffff)?;
            }
        }
        Ok(Next::Following)
    }

    fn arrive(&mut self, place: ThreadIndex, releases: bool) -> Result<Next> {
        let phase = self.running[place.cluster].phase;
        let thread = &mut self.cta_mut(place).threads[place.thread];
        if thread.arrived.is_some() {
            trap!("two arrivals at the cluster's barrier without a wait between");
        }
        thread.arrived = Some((phase, thread.pc));
        if releases {
            self.release(place, Scope::Cluster);
        }
        self.running[place.cluster].arrived += 1;
        self.progress += 1;
        self.complete_cluster(place)?;
        Ok(Next::Pause)
    }

    fn wait(&mut self, place: ThreadIndex) -> Result<Next> {
        let phase = self.running[place.cluster].phase;
        let cta = &mut self.running[place.cluster].ctas[place.rank];
        let thread = &mut cta.threads[place.thread];
        let Some((arrived, _)) = thread.arrived else { trap!("a wait at the cluster's barrier without an arrival") };
        let waited = &mut cta.warps[place.thread / 32].waited;
        if let Some((_, other)) = waited.filter(|&(phase, pc)| phase == arrived && pc != thread.pc) {
            trap!("an aligned barrier with threads of one warp at {} and elsewhere", self.entry.place(other));
        }
        *waited = Some((arrived, thread.pc));
        if phase == arrived {
            thread.state = State::AtCluster;
            return Ok(Next::Wait);
        }
        thread.arrived = None;
        self.acquire(place, Scope::Cluster);
        Ok(Next::Following)
    }

    /// Ends the phase of the cluster's barrier, if all have arrived that have not exited.
    pub(crate) fn complete_cluster(&mut self, place: ThreadIndex) -> Result<()> {
        let cluster = &self.running[place.cluster];
        if cluster.arrived == 0 || cluster.arrived != cluster.live {
            return Ok(());
        }
        for rank in 0..cluster.ctas.len() {
            let place = ThreadIndex { rank, ..place };
            self.check_aligned(place, 32, |thread| thread.arrived.map_or(usize::MAX, |(_, pc)| pc))?;
        }
        let cluster = &mut self.running[place.cluster];
        cluster.arrived = 0;
        cluster.phase += 1;
        let phase = cluster.phase;
        for thread in cluster.ctas.iter_mut().flat_map(|cta| &mut cta.threads) {
            // It waits once more, and goes on.
            if thread.state == State::AtCluster && thread.arrived.is_some_and(|(arrived, _)| arrived < phase) {
                thread.state = State::Ready;
            }
        }
        self.progress += 1;
        Ok(())
    }

    fn send(&mut self, place: ThreadIndex, slot: u64, words: [u32; 4], barrier: u64) -> Result<()> {
        if self.launch.cluster == 1 {
            trap!("st.async in a cluster of one CTA");
        }
        let rank_of = |address: u64| match address >> RANK_SHIFT {
            0 => place.rank,
            rank => rank as usize - 1,
        };
        // A sender's own CTA is in the cluster's window too.
        let (rank, offset) = (rank_of(slot), (1 << RANK_SHIFT) - 1);
        if rank_of(barrier) != rank {
            trap!("st.async to rank {rank} whose mbarrier is in rank {}", rank_of(barrier));
        }
        let from = self.told(place);
        let cluster = &mut self.running[place.cluster];
        let Some(cta) = cluster.ctas.get_mut(rank) else { trap!("st.async to rank {rank}, which is not there") };
        if cta.live == 0 {
            trap!("st.async to rank {rank}, which has exited");
        }
        let store =
            AsyncStore { cluster: cluster.number, rank, slot: slot & offset, barrier: barrier & offset, words, from };
        cta.shared.check(store.slot, 16)?;
        cta.shared.mbarrier(store.barrier)?;
        self.stores.push(store);
        self.progress += 1;
        Ok(())
    }

    /// Lets an st.async arrive.
    pub(crate) fn deliver(&mut self, index: usize) -> Result<()> {
        let store = self.stores.swap_remove(index);
        let cluster = self.running.iter_mut().find(|cluster| cluster.number == store.cluster);
        let Some(cta) = cluster.and_then(|cluster| cluster.ctas.get_mut(store.rank)).filter(|cta| cta.live > 0) else {
            trap!("an st.async of {} arrives at rank {}, which has exited", store.from, store.rank);
        };
        let data: Vec<u8> = store.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        cta.shared.write(store.slot, &data)?;
        let mbarrier = cta.shared.mbarrier(store.barrier)?;
        mbarrier.bytes -= 16;
        if mbarrier.bytes < -MOST_BYTES {
            trap!("{} bytes, less than an mbarrier counts", mbarrier.bytes);
        }
        mbarrier.complete();
        self.progress += 1;
        Ok(())
    }
}

//! The scheduler: which CTAs are resident, and whose turn it is.

use std::collections::BTreeMap;

use super::{Cluster, Cta, Machine, State, ThreadIndex};
use crate::trap::{Result, trap};

/// The most that a thread did in a round.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Round {
    /// No thread was ready.
    Nobody,
    /// It went as far as it could.
    Waiting,
    /// It was interrupted.
    Interrupted,
}

impl Round {
    /// The number of such rounds after which nothing will happen any more, if nothing happened in them that others may wait
    /// for: threads that poll have only read, and those that are interrupted may compute for long.
    fn most_idle(self) -> u32 {
        match self {
            Self::Nobody => 1,
            Self::Waiting => 50,
            Self::Interrupted => 20_000,
        }
    }
}

impl Machine<'_> {
    /// Executes all clusters: rounds in which each thread of the resident ones has its turn.
    pub(super) fn grid(&mut self) -> Result<()> {
        let size = self.launch.cluster;
        let mut left: Vec<u32> = (0..self.launch.ctas() / size).collect();
        self.schedule.shuffle(&mut left);
        // A cooperative grid is resident as a whole; of another at least one cluster is.
        let resident = if self.launch.cooperative { left.len() } else { self.schedule.resident(size) };
        // Rounds without progress: all of them, and the last ones in which every thread had its turn.
        let (mut idle_rounds, mut whole_idle_rounds) = (0, 0);
        while !left.is_empty() || !self.running.is_empty() {
            while self.running.len() < resident
                && let Some(number) = left.pop()
            {
                let cluster = self.begin(number);
                self.running.push(cluster);
            }
            let before = self.progress;
            let round = self.round()?;
            if self.progress == before && !self.stores.is_empty() {
                let index = self.schedule.below(self.stores.len());
                self.deliver(index)?;
            }
            self.end_clusters()?;
            idle_rounds = if self.progress == before { idle_rounds + 1 } else { 0 };
            let is_whole = idle_rounds > 0 && round != Round::Interrupted;
            whole_idle_rounds = if is_whole { whole_idle_rounds + 1 } else { 0 };
            if whole_idle_rounds > round.most_idle() || idle_rounds > Round::Interrupted.most_idle() {
                trap!("deadlock: {}", self.who_waits());
            }
        }
        self.publish_late()
    }

    /// A turn for each thread that is ready.
    fn round(&mut self) -> Result<Round> {
        let before = self.progress;
        let mut round = Round::Nobody;
        for (cluster, rank) in self.turns() {
            let shuffles = if self.schedule.is_unfair { self.schedule.once_in(64) } else { true };
            let cta = &mut self.running[cluster].ctas[rank];
            if shuffles {
                self.schedule.shuffle(&mut cta.order);
            }
            let order = std::mem::take(&mut cta.order);
            for &thread in &order {
                let place = ThreadIndex { cluster, rank, thread };
                if self.cta(place).threads[thread].state != State::Ready {
                    continue;
                }
                round = round.max(self.turn(place)?);
                if !self.schedule.is_late && !self.stores.is_empty() && self.schedule.once_in(4) {
                    let index = self.schedule.below(self.stores.len());
                    self.deliver(index)?;
                }
            }
            self.running[cluster].ctas[rank].order = order;
            // The first that moves goes on, as long as it can.
            if self.schedule.is_unfair && (self.progress != before || round == Round::Interrupted) {
                break;
            }
        }
        Ok(round)
    }

    /// The resident CTAs, cluster and rank, in the order of their turns.
    fn turns(&mut self) -> Vec<(usize, usize)> {
        let mut turns = Vec::new();
        for (number, cluster) in self.running.iter_mut().enumerate() {
            for (rank, cta) in cluster.ctas.iter_mut().enumerate() {
                if self.schedule.is_unfair && (cta.priority == 0 || self.schedule.once_in(256)) {
                    cta.priority = self.schedule.priority();
                }
                turns.push((number, rank));
            }
        }
        if self.schedule.is_unfair {
            turns.sort_by_key(|&(cluster, rank)| self.running[cluster].ctas[rank].priority);
        } else {
            self.schedule.shuffle(&mut turns);
        }
        turns
    }

    fn begin(&mut self, number: u32) -> Cluster {
        let size = self.launch.cluster;
        let ctas: Vec<Cta> = (0..size)
            .map(|rank| {
                let view = self.first_view();
                Cta::new(number * size + rank, self.launch, &self.entry.masks, view, &mut self.schedule)
            })
            .collect();
        Cluster { number, ctas, live: size * self.launch.threads(), arrived: 0, phase: 0 }
    }

    /// Takes away the clusters whose threads have all exited.
    fn end_clusters(&mut self) -> Result<()> {
        let mut index = 0;
        while index < self.running.len() {
            if self.running[index].live > 0 {
                index += 1;
                continue;
            }
            let cluster = self.running.swap_remove(index);
            if let Some(store) = self.stores.iter().find(|store| store.cluster == cluster.number) {
                trap!("the cluster ended before the st.async of {} arrived", store.from);
            }
            for cta in &cluster.ctas {
                if let Some(at) = cta.shared.busy_mbarrier() {
                    trap!("CTA {} ended in the middle of a phase of its mbarrier at {at}", cta.number);
                }
                let late = cta.view.late();
                if !late.is_empty() {
                    self.late.push(late);
                }
            }
            self.progress += 1;
        }
        Ok(())
    }

    /// The instructions of the threads that have not exited, for a deadlock's report.
    fn who_waits(&self) -> String {
        let threads = self.running.iter().flat_map(|cluster| &cluster.ctas).flat_map(|cta| &cta.threads);
        let mut places = BTreeMap::new();
        for thread in threads.filter(|thread| thread.state != State::Exited) {
            *places.entry(thread.pc).or_insert(0) += 1;
        }
        let told = places.into_iter().map(|(pc, count)| format!("{count} threads at {}", self.entry.place(pc)));
        told.collect::<Vec<_>>().join(", ")
    }
}

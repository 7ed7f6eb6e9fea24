//! Weak memory order: a CTA's view of global memory.
//!
//! Global memory is as stale as PTX lets a CTA see it (PTX ISA 9.0, "Memory Consistency Model", 8):
//!
//! - A CTA's weak stores stay with it. A release publishes those of the thread that makes it, and those of any thread before the
//!   last bar.sync of the CTA, which that thread has synchronised with (causality order goes through barriers).
//! - Others' stores are seen from an acquire on. Before the first, memory is as it was when the CTA began.
//! - What nobody has published is seen when the grid ends. Two CTAs that left different bytes there raced.
//! - Strong accesses (relaxed, acquire, release, volatile, atomics) are of memory itself, and come behind the CTA's weak stores
//!   to the same place ("Coherence order": program order to one place holds).
//! - Strong accesses and fences of the CTA's scope order nothing between CTAs ("Scope", "Morally strong operations"); those of
//!   the cluster's do where there are clusters.
//!
//! Coarser than the model: within a CTA all threads see each other's stores at once, and an acquire counts for the whole CTA; one
//! shows whatever was published, not only by the releases that it synchronises with; and the scope of a cluster of several CTAs
//! counts as the device's. Stricter: of synchronisation within a CTA only bar.sync and barrier.cluster make other threads' stores
//! part of a release, mbarriers and shared atomics do not.

use super::global::{At, Image};
use super::{Machine, ThreadIndex};
use crate::instructions::order::Scope;
use crate::trap::{Result, trap};

/// A CTA's view of global memory: an image of its own, or without one memory itself.
#[derive(Default)]
pub(crate) struct View {
    image: Option<Image>,
    /// The version of memory that the image is of.
    seen: u64,
    unpublished: Vec<Unpublished>,
    /// The number of these at which those that are there twice are taken out next.
    most: usize,
    /// The bar.sync that the CTA has had.
    pub(crate) barriers: u64,
}

/// A weak store: its bytes are in the image.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Unpublished {
    at: At,
    len: usize,
    thread: usize,
    barriers: u64,
}

/// A store that nobody published, of a CTA that has ended.
pub(super) struct Late {
    at: At,
    len: usize,
    data: [u8; 16],
}

impl View {
    pub(super) fn read(&self, memory: &Image, at: At, data: &mut [u8]) {
        self.image.as_ref().unwrap_or(memory).read(at, data);
    }

    fn data(&self, at: At, len: usize) -> [u8; 16] {
        let mut data = [0; 16];
        if let Some(image) = &self.image {
            image.read(at, &mut data[..len]);
        }
        data
    }

    /// The stores that it leaves when its CTA ends.
    pub(super) fn late(&self) -> Vec<Late> {
        self.unpublished.iter().map(|&Unpublished { at, len, .. }| Late { at, len, data: self.data(at, len) }).collect()
    }
}

impl Machine<'_> {
    /// The view of a CTA that begins.
    pub(super) fn first_view(&self) -> View {
        let image = self.options.weak.then(|| self.global.now.clone());
        View { image, seen: self.global.version, ..View::default() }
    }

    /// A weak store of a thread.
    pub(super) fn store_weakly(&mut self, place: ThreadIndex, at: At, data: &[u8]) {
        let View { image, unpublished, most, barriers, .. } = &mut self.running[place.cluster].ctas[place.rank].view;
        match image {
            Some(image) => {
                image.write(at, data);
                unpublished.push(Unpublished { at, len: data.len(), thread: place.thread, barriers: *barriers });
                // The image has their bytes, so that neither their order nor their number matters.
                if unpublished.len() > *most {
                    unpublished.sort_unstable();
                    unpublished.dedup();
                    *most = (2 * unpublished.len()).max(1 << 16);
                }
            }
            None => self.global.now.write(at, data),
        }
    }

    /// A strong store: to memory, where the CTA itself sees it too.
    pub(super) fn store_strongly(&mut self, place: ThreadIndex, at: At, data: &[u8]) {
        self.global.now.write(at, data);
        self.global.version += 1;
        if let Some(image) = &mut self.cta_mut(place).view.image {
            image.write(at, data);
        }
    }

    /// Whether a scope has other CTAs in it.
    pub(super) fn reaches_others(&self, scope: Scope) -> bool {
        match scope {
            Scope::Cta => false,
            Scope::Cluster => self.launch.cluster > 1,
            Scope::Device => true,
        }
    }

    /// Publishes the CTA's weak stores to a place, before a strong access there.
    pub(super) fn publish_at(&mut self, place: ThreadIndex, at: At, len: usize) {
        self.publish(place, |store, _| {
            store.at.allocation == at.allocation
                && store.at.offset < at.offset + len
                && at.offset < store.at.offset + store.len
        });
    }

    /// Publishes what a release of this thread publishes.
    pub(crate) fn release(&mut self, place: ThreadIndex, scope: Scope) {
        if self.reaches_others(scope) {
            self.publish(place, |store, barriers| store.thread == place.thread || store.barriers < barriers);
        }
    }

    /// Publishes some of a CTA's weak stores, by the stores and how many bar.sync the CTA has had.
    fn publish(&mut self, place: ThreadIndex, is_published: impl Fn(&Unpublished, u64) -> bool) {
        let view = &mut self.running[place.cluster].ctas[place.rank].view;
        if !view.unpublished.iter().any(|store| is_published(store, view.barriers)) {
            return;
        }
        let mut kept = Vec::new();
        for store in std::mem::take(&mut view.unpublished) {
            if is_published(&store, view.barriers) {
                let data = view.data(store.at, store.len);
                self.global.now.write(store.at, &data[..store.len]);
                self.global.version += 1;
            } else {
                kept.push(store);
            }
        }
        view.unpublished = kept;
    }

    /// Shows the CTA what others have published.
    pub(crate) fn acquire(&mut self, place: ThreadIndex, scope: Scope) {
        if !self.reaches_others(scope) {
            return;
        }
        let Self { running, global, .. } = self;
        let view = &mut running[place.cluster].ctas[place.rank].view;
        if view.image.is_none() || view.seen == global.version {
            return;
        }
        let mut fresh = global.now.clone();
        for &Unpublished { at, len, .. } in &view.unpublished {
            fresh.write(at, &view.data(at, len)[..len]);
        }
        view.image = Some(fresh);
        view.seen = global.version;
    }

    /// The grid's end: what CTAs left unpublished, in any order.
    pub(super) fn publish_late(&mut self) -> Result<()> {
        let mut late = std::mem::take(&mut self.late);
        self.schedule.shuffle(&mut late);
        // The CTA that stored each byte last, by a number from 1 on.
        let mut writers: Vec<Vec<u32>> = self.launch.allocations.iter().map(|_| Vec::new()).collect();
        for (cta, stores) in (1..).zip(&late) {
            for store in stores {
                let mut now = [0; 16];
                self.global.now.read(store.at, &mut now[..store.len]);
                let writers = &mut writers[store.at.allocation];
                writers.resize(self.launch.allocations[store.at.allocation].before.bytes.len(), 0);
                let writers = &mut writers[store.at.offset..][..store.len];
                for (i, ((now, stored), writer)) in now.iter().zip(&store.data).zip(writers).enumerate() {
                    if *writer != 0 && *writer != cta && now != stored {
                        trap!(
                            "two CTAs store different values to byte {} of allocation {}, and nothing orders them",
                            store.at.offset + i,
                            store.at.allocation
                        );
                    }
                    *writer = cta;
                }
                self.global.now.write(store.at, &store.data[..store.len]);
            }
        }
        Ok(())
    }
}

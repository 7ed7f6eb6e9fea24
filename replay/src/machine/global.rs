//! Global memory: the launch's allocations, in pages that CTAs' views share until someone writes.

use std::rc::Rc;

use super::schedule::Schedule;
use crate::launch::{Allocation, Contents};
use crate::trap::{Result, trap};

/// Bytes of a page. Accesses are aligned, so that none lies on two.
const PAGE: usize = 4096;

const NOT_WRITTEN: u8 = 0;
const WRITTEN: u8 = 1;
const WRITTEN_HERE: u8 = 2;

/// The bytes of all allocations, as someone sees them.
#[derive(Clone)]
pub(super) struct Image(Vec<Vec<Rc<[u8; PAGE]>>>);

/// A place in an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub(super) allocation: usize,
    pub(super) offset: usize,
}

pub(super) struct Global {
    /// Address and bytes of each allocation, in order.
    ranges: Vec<(u64, usize)>,
    /// Memory as the whole grid sees it.
    pub(super) now: Image,
    /// The state of each byte: [`NOT_WRITTEN`], [`WRITTEN`] before the launch, or [`WRITTEN_HERE`].
    written: Vec<Vec<u8>>,
    /// Moves when there is more to see.
    pub(super) version: u64,
    /// The range of the last access: the next is likely in it.
    last: usize,
}

impl Image {
    pub(super) fn read(&self, at: At, data: &mut [u8]) {
        let page = &self.0[at.allocation][at.offset / PAGE];
        data.copy_from_slice(&page[at.offset % PAGE..][..data.len()]);
    }

    pub(super) fn write(&mut self, at: At, data: &[u8]) {
        let page = Rc::make_mut(&mut self.0[at.allocation][at.offset / PAGE]);
        page[at.offset % PAGE..][..data.len()].copy_from_slice(data);
    }
}

impl Global {
    pub(super) fn new(allocations: &[Allocation], schedule: &mut Schedule) -> Self {
        let image = allocations.iter().map(|allocation| {
            let Contents { bytes, written } = &allocation.before;
            bytes
                .chunks(PAGE)
                .zip(written.chunks(PAGE))
                .map(|(bytes, written)| {
                    let mut page = [0; PAGE];
                    schedule.fill(&mut page);
                    for ((to, &from), &written) in page.iter_mut().zip(bytes).zip(written) {
                        if written != 0 {
                            *to = from;
                        }
                    }
                    Rc::new(page)
                })
                .collect()
        });
        Self {
            now: Image(image.collect()),
            ranges: allocations.iter().map(|a| (a.address, a.before.bytes.len())).collect(),
            written: allocations
                .iter()
                .map(|a| a.before.written.iter().map(|&written| written.min(WRITTEN)).collect())
                .collect(),
            version: 0,
            last: 0,
        }
    }

    /// The position of an access of `len` bytes.
    pub(super) fn find(&mut self, address: u64, len: usize) -> Result<At> {
        let holds = |&(begin, bytes): &(u64, usize)| address >= begin && address - begin < bytes as u64;
        if !self.ranges.get(self.last).is_some_and(holds) {
            let following = self.ranges.partition_point(|&(begin, _)| begin <= address);
            match self.ranges[..following].last() {
                Some(range) if holds(range) => self.last = following - 1,
                Some(&(begin, bytes)) => {
                    let past = address - begin - bytes as u64;
                    trap!("out of bounds: {len} bytes at {address:#x}, {past} past an allocation of {bytes} bytes")
                }
                None => trap!("out of bounds: {len} bytes at {address:#x}, below every allocation"),
            }
        }
        let (begin, bytes) = self.ranges[self.last];
        let offset = (address - begin) as usize;
        if offset + len > bytes {
            trap!("out of bounds: {len} bytes at {offset} of an allocation of {bytes} bytes");
        }
        if !address.is_multiple_of(len as u64) {
            trap!("misaligned: {len} bytes at {address:#x}");
        }
        Ok(At { allocation: self.last, offset })
    }

    /// Whoever wrote these bytes, they were written.
    pub(super) fn check_written(&self, at: At, len: usize) -> Result<()> {
        if self.written[at.allocation][at.offset..][..len].contains(&NOT_WRITTEN) {
            trap!("uninitialised: {len} bytes at {} of allocation {}", at.offset, at.allocation);
        }
        Ok(())
    }

    /// Nobody writes these bytes while the launch runs, as ld.nc demands ("ld.global.nc": read-only data).
    pub(super) fn check_constant(&self, at: At, len: usize) -> Result<()> {
        if self.written[at.allocation][at.offset..][..len].contains(&WRITTEN_HERE) {
            let At { allocation, offset } = at;
            trap!("ld.nc of {len} bytes at {offset} of allocation {allocation}, which this launch has written");
        }
        Ok(())
    }

    pub(super) fn mark_written(&mut self, at: At, len: usize) {
        self.written[at.allocation][at.offset..][..len].fill(WRITTEN_HERE);
    }

    /// Memory at the end.
    pub(super) fn contents(self) -> Vec<Contents> {
        let images = self.now.0.into_iter().zip(self.written);
        let contents = images.map(|(pages, written)| {
            let mut bytes: Vec<u8> = pages.iter().flat_map(|page| page.iter().copied()).collect();
            bytes.truncate(written.len());
            let written = written.into_iter().map(|written| if written == NOT_WRITTEN { 0 } else { WRITTEN }).collect();
            Contents { bytes, written }
        });
        contents.collect()
    }
}

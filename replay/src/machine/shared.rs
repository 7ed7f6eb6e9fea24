//! A CTA's shared memory, with the mbarriers in it. Sequentially consistent.

use super::SHARED;
use super::schedule::Schedule;
use crate::instructions::cluster::Mbarrier;
use crate::trap::{Result, trap};

pub(crate) struct Shared {
    bytes: Vec<u8>,
    written: Vec<bool>,
    /// The mbarriers by address. A CTA has a few.
    mbarriers: Vec<(u64, Mbarrier)>,
}

impl Shared {
    pub(super) fn new(len: usize, schedule: &mut Schedule) -> Self {
        let mut bytes = vec![0; len];
        schedule.fill(&mut bytes);
        Self { bytes, written: vec![false; len], mbarriers: Vec::new() }
    }

    /// The position of an access, which must not touch an mbarrier.
    pub(crate) fn check(&self, address: u64, len: usize) -> Result<usize> {
        let at = self.inside(address, len)?;
        let end = address + len as u64;
        if let Some((barrier, _)) = self.mbarriers.iter().find(|(barrier, _)| *barrier < end && address < barrier + 8) {
            trap!("a plain access to the mbarrier at {}", barrier - SHARED);
        }
        Ok(at)
    }

    fn inside(&self, address: u64, len: usize) -> Result<usize> {
        let at = address.wrapping_sub(SHARED);
        if at.checked_add(len as u64).is_none_or(|end| end > self.bytes.len() as u64) {
            trap!("out of bounds: {len} bytes at {} of {} of shared memory", at as i64, self.bytes.len());
        }
        if !address.is_multiple_of(len as u64) {
            trap!("misaligned: {len} bytes at {at} of shared memory");
        }
        Ok(at as usize)
    }

    pub(super) fn read(&self, address: u64, data: &mut [u8]) -> Result<()> {
        let at = self.check(address, data.len())?;
        if self.written[at..][..data.len()].contains(&false) {
            trap!("uninitialised: {} bytes at {at} of shared memory", data.len());
        }
        data.copy_from_slice(&self.bytes[at..][..data.len()]);
        Ok(())
    }

    pub(crate) fn write(&mut self, address: u64, data: &[u8]) -> Result<()> {
        let at = self.check(address, data.len())?;
        self.bytes[at..][..data.len()].copy_from_slice(data);
        self.written[at..][..data.len()].fill(true);
        Ok(())
    }

    /// mbarrier.init, where none is yet: on "a valid mbarrier object" it is undefined (PTX ISA 9.0, 9.7.13.15.9). An mbarrier has 8
    /// bytes, aligned to 8 ("Size and alignment of mbarrier object", 9.7.13.15.1).
    pub(crate) fn init_mbarrier(&mut self, address: u64, mbarrier: Mbarrier) -> Result<()> {
        self.check(address, 8)?;
        self.mbarriers.push((address, mbarrier));
        Ok(())
    }

    pub(crate) fn mbarrier(&mut self, address: u64) -> Result<&mut Mbarrier> {
        match self.mbarriers.iter_mut().find(|(at, _)| *at == address) {
            Some((_, mbarrier)) => Ok(mbarrier),
            None => trap!("no mbarrier was initialised at {} of shared memory", address.wrapping_sub(SHARED) as i64),
        }
    }

    /// An mbarrier that is in the middle of a phase, by its place in shared memory.
    pub(super) fn busy_mbarrier(&self) -> Option<u64> {
        self.mbarriers.iter().find(|(_, mbarrier)| !mbarrier.is_idle()).map(|(address, _)| address - SHARED)
    }
}

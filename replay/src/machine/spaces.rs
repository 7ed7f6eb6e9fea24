//! Reads and writes by address space.

use super::{GENERIC_SHARED, Machine, PARAMETERS, ThreadIndex};
use crate::instructions::access::Space;
use crate::instructions::order::Order;
use crate::trap::{Result, trap};

/// The memory that an address points to.
enum Target {
    Parameters(usize),
    Shared(u64),
    Global,
}

impl Machine<'_> {
    fn target(&self, space: Space, address: u64, len: usize) -> Result<Target> {
        Ok(match space {
            Space::Parameters => {
                let at = address.wrapping_sub(PARAMETERS);
                if at.checked_add(len as u64).is_none_or(|end| end > self.parameters.len() as u64) {
                    trap!("out of bounds: {len} bytes at {} of {} of parameters", at as i64, self.parameters.len());
                }
                if !at.is_multiple_of(len as u64) {
                    trap!("misaligned: {len} bytes at {at} of parameters");
                }
                Target::Parameters(at as usize)
            }
            Space::Shared => Target::Shared(address),
            Space::Generic if address.wrapping_sub(GENERIC_SHARED) < 1 << 32 => {
                Target::Shared(address - GENERIC_SHARED)
            }
            Space::Generic | Space::Global => Target::Global,
        })
    }

    /// Traps before griddepcontrol.wait, where the kernel has it: launches before this one may run until then.
    fn expect_waited(&self, place: ThreadIndex) -> Result<()> {
        if self.entry.waits_for_launches && !self.cta(place).threads[place.thread].has_waited {
            trap!("an access to global memory before griddepcontrol.wait");
        }
        Ok(())
    }

    /// Whether an access is strong to other CTAs.
    fn is_strong(&self, order: Order) -> bool {
        order.is_strong && self.reaches_others(order.scope)
    }

    pub(crate) fn read(
        &mut self,
        place: ThreadIndex,
        space: Space,
        address: u64,
        data: &mut [u8],
        order: Order,
    ) -> Result<()> {
        match self.target(space, address, data.len())? {
            Target::Parameters(at) => data.copy_from_slice(&self.parameters[at..][..data.len()]),
            Target::Shared(address) => self.cta(place).shared.read(address, data)?,
            Target::Global => {
                self.expect_waited(place)?;
                let at = self.global.find(address, data.len())?;
                self.global.check_written(at, data.len())?;
                if order.is_constant {
                    self.global.check_constant(at, data.len())?;
                }
                if self.is_strong(order) {
                    self.publish_at(place, at, data.len());
                    self.global.now.read(at, data);
                } else {
                    self.cta(place).view.read(&self.global.now, at, data);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn write(
        &mut self,
        place: ThreadIndex,
        space: Space,
        address: u64,
        data: &[u8],
        order: Order,
    ) -> Result<()> {
        match self.target(space, address, data.len())? {
            Target::Parameters(_) => trap!("a store to parameters"),
            Target::Shared(address) => self.cta_mut(place).shared.write(address, data)?,
            Target::Global => {
                self.expect_waited(place)?;
                let at = self.global.find(address, data.len())?;
                self.global.mark_written(at, data.len());
                if self.is_strong(order) {
                    self.publish_at(place, at, data.len());
                    self.store_strongly(place, at, data);
                } else {
                    self.store_weakly(place, at, data);
                }
            }
        }
        Ok(())
    }
}

//! Memory here and on the emulated device.

use crate::launch::{Contents, Launch};

/// The values in memory other than f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halves {
    /// No others.
    None,
    /// f16.
    F16,
    /// bf16.
    Bf16,
}

/// The differences of two memories.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Bytes of all allocations.
    pub bytes: u64,
    /// Bytes that the launch changed here.
    pub changed: u64,
    /// Bytes that differ, but for those of the next field.
    pub different: u64,
    /// Bytes that differ in values that are NaN on both sides, and canonical here: a GPU's arithmetic makes the canonical NaN, a
    /// CPU's does not.
    pub in_nans: u64,
    /// The first difference.
    pub first: Option<String>,
}

/// Compares every byte of every allocation, and whether it was written.
pub fn compare(launch: &Launch, memory: &[Contents], halves: Halves) -> Comparison {
    let mut result = Comparison::default();
    for (number, (allocation, here)) in launch.allocations.iter().zip(memory).enumerate() {
        let (before, after) = (&allocation.before, &allocation.after);
        result.bytes += here.bytes.len() as u64;
        for i in 0..here.bytes.len() {
            let is_written = here.written[i] != 0;
            result.changed += u64::from(is_written && (before.written[i] == 0 || before.bytes[i] != here.bytes[i]));
            let is_written_there = after.written[i] != 0;
            if is_written == is_written_there && (!is_written || here.bytes[i] == after.bytes[i]) {
                continue;
            }
            if is_written && is_written_there && is_in_nans(&here.bytes, &after.bytes, i, halves) {
                result.in_nans += 1;
                continue;
            }
            result.different += 1;
            result.first.get_or_insert_with(|| told(number, i, here, after));
        }
    }
    result
}

/// Whether a byte belongs to a value that is NaN on both sides, and here the canonical one that arithmetic makes, of either sign:
/// no other NaN is made here, and one that is only moved is the same on both sides.
fn is_in_nans(here: &[u8], there: &[u8], at: usize, halves: Halves) -> bool {
    let word = |bytes: &[u8]| bytes.get(at & !3..)?.first_chunk().map(|&word| u32::from_le_bytes(word));
    let half = |bytes: &[u8]| bytes.get(at & !1..)?.first_chunk().map(|&half| u16::from_le_bytes(half));
    let is_word = word(here).is_some_and(|word| word | 1 << 31 == u32::MAX)
        && word(there).is_some_and(|word| f32::from_bits(word).is_nan());
    let is_half = half(here).is_some_and(|half| half | 1 << 15 == u16::MAX)
        && half(there).is_some_and(|half| match halves {
            Halves::None => false,
            Halves::F16 => half::f16::from_bits(half).is_nan(),
            Halves::Bf16 => half::bf16::from_bits(half).is_nan(),
        });
    is_word || is_half
}

fn told(number: usize, at: usize, here: &Contents, after: &Contents) -> String {
    let word = |contents: &Contents| {
        let begin = at & !3;
        let end = (begin + 4).min(contents.bytes.len());
        let mut word = [0; 4];
        word[..end - begin].copy_from_slice(&contents.bytes[begin..end]);
        let written = if contents.written[at] != 0 { "" } else { ", never written" };
        format!("{:08x} ({}{written})", u32::from_le_bytes(word), f32::from_le_bytes(word))
    };
    let len = here.bytes.len();
    format!(
        "allocation {number} of {len} bytes, byte {at}: {} here, {} on the emulated device",
        word(here),
        word(after)
    )
}

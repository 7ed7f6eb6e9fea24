//! The relu mask: one bit an element of whether relu let it pass.

use core::sync::atomic::{AtomicU32, Ordering};

use fearless_simd::Simd;

use super::convert::{Convert, SimdElement};
use super::level::by_level;
use super::output::Output;
use super::stream::{AHEAD, ahead, ahead_of_stores};
use super::threads;
use super::vector::{LANES, Vector};

/// Elements of a word.
const WORD: usize = 32;
/// Elements of a task.
const TASK_ELEMS: usize = 16 * 1024;
/// Bytes of memory that come at a time.
const LINE: usize = 64;

/// A mask that several threads write, each the bits of its own elements.
pub(super) struct Mask<'a> {
    words: &'a [AtomicU32],
}

impl<'a> Mask<'a> {
    /// The mask in these words. Bits behind that of the last element are to be 0.
    pub(super) fn new(words: &'a mut [u32]) -> Self {
        if let Some(last) = words.last_mut() {
            *last = 0;
        }
        // SAFETY: the two types have the same size and alignment, and nobody else has the words for 'a.
        #[allow(unsafe_code)]
        let words = unsafe { &*(core::ptr::from_mut(words) as *const [AtomicU32]) };
        Self { words }
    }

    /// Writes the bits of some elements, of which the first is at this place of `y`: while they are in a cache.
    pub(super) fn pack<T: SimdElement>(&self, start: usize, y: &[T]) {
        by_level!(simd => self.pack_in(simd, start, y));
    }

    #[inline(always)]
    fn pack_in<S: Simd, T: SimdElement>(&self, simd: S, start: usize, y: &[T]) {
        let head = (start.next_multiple_of(WORD) - start).min(y.len());
        let (first, rest) = y.split_at(head);
        let (whole, last) = rest.as_chunks();
        self.merge(simd, start, first);
        for (word, y) in self.words[(start + head) / WORD..].iter().zip(whole) {
            word.store(passing(simd, y), Ordering::Relaxed);
        }
        self.merge(simd, start + y.len() - last.len(), last);
    }

    /// Writes bits of a word whose others belong to someone else.
    #[inline(always)]
    fn merge<S: Simd, T: SimdElement>(&self, simd: S, start: usize, y: &[T]) {
        if y.is_empty() {
            return;
        }
        let mut elements = [T::default(); WORD];
        elements[..y.len()].copy_from_slice(y);
        let shift = start % WORD;
        let bits = passing(simd, &elements) << shift;
        let own = u32::MAX >> (WORD - y.len()) << shift;
        let merged = |word| Some(word & !own | bits);
        let _ = self.words[start / WORD].fetch_update(Ordering::Relaxed, Ordering::Relaxed, merged);
    }
}

/// A bit an element of whether relu let it pass: where it is above 0, or NaN.
#[inline(always)]
fn passing<S: Simd, T: SimdElement>(simd: S, y: &[T; WORD]) -> u32 {
    let mut bits = 0;
    for (i, y) in y.as_chunks::<LANES>().0.iter().enumerate() {
        let y = <T as Convert<T::Usual>>::load(simd, y);
        let is_at_most_zero = y.bits_at_most(Vector::splat(simd, 0.0));
        bits |= u32::from(!is_at_most_zero) << (i * LANES);
    }
    bits
}

/// Writes the residual's gradient `dz = g`: with a mask `dy` where its bit is set.
pub(super) fn residual_gradient<T: SimdElement>(dy: &[T], relu_mask: Option<&[u32]>, dz: &mut [T]) {
    let output = Output::new(dz);
    let len = dy.len();
    threads::for_each(len.div_ceil(TASK_ELEMS), 1, &|i| {
        let range = i * TASK_ELEMS..((i + 1) * TASK_ELEMS).min(len);
        // SAFETY: tasks have elements of their own.
        #[allow(unsafe_code)]
        let dz = unsafe { output.piece(range.clone()) };
        let dy = &dy[range.clone()];
        match relu_mask {
            None => dz.copy_from_slice(dy),
            Some(words) => by_level!(_simd => select(dy, &words[range.start / WORD..], dz)),
        }
    });
}

#[inline(always)]
fn select<T: SimdElement>(dy: &[T], words: &[u32], dz: &mut [T]) {
    let (whole, rest) = dy.as_chunks::<WORD>();
    let (results, rest_of_results) = dz.as_chunks_mut::<WORD>();
    for ((dz, dy), word) in results.iter_mut().zip(whole).zip(words) {
        for line in (0..WORD).step_by(LINE / size_of::<T>()) {
            ahead(&dy[line], AHEAD);
            ahead_of_stores(&dz[line]);
        }
        for bit in 0..WORD {
            dz[bit] = if word >> bit & 1 == 1 { dy[bit] } else { T::default() };
        }
    }
    for (bit, (dz, dy)) in rest_of_results.iter_mut().zip(rest).enumerate() {
        *dz = if words[whole.len()] >> bit & 1 == 1 { *dy } else { T::default() };
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::super::level::forced::at_each_level;
    use super::*;

    fn passes(y: f64) -> bool {
        y > 0.0 || y.is_nan()
    }

    /// Holds the bits of elements of some type against the definition, at every level.
    fn check<T: SimdElement>(y: &[T]) {
        for words in at_each_level(|| {
            let mut words = vec![0xAAAA_AAAA; y.len().div_ceil(WORD)];
            Mask::new(&mut words).pack(0, y);
            words
        }) {
            for (i, y) in y.iter().enumerate() {
                assert_eq!(words[i / WORD] >> (i % WORD) & 1 == 1, passes(y.to_f64()), "{y:?}");
            }
        }
    }

    #[test]
    fn values_above_zero_pass_and_nan_does() {
        check::<f16>(&(0..=u16::MAX).map(f16::from_bits).collect::<Vec<_>>());
        check::<bf16>(&(0..=u16::MAX).map(bf16::from_bits).collect::<Vec<_>>());
        let single: Vec<f32> = (0..=u16::MAX).map(|bits| f32::from_bits(u32::from(bits) << 16 | 1)).collect();
        check(&single);
        check(&[0.0f32, -0.0].repeat(32));
        let double: Vec<f64> = (0..=u16::MAX).map(|bits| f64::from_bits(u64::from(bits) << 48 | 1)).collect();
        check(&double);
        check(&[0.0f64, -0.0].repeat(32));
    }

    #[test]
    fn a_part_writes_its_own_bits_alone() {
        let y: Vec<f32> = (0..200).map(|i| if i * 7 % 5 < 2 { 1.0 } else { -1.0 }).collect();
        let bit = |words: &[u32], i: usize| words[i / WORD] >> (i % WORD) & 1 == 1;
        for start in 0..70 {
            for end in start..=y.len() {
                for before in [0, u32::MAX] {
                    let mut words = vec![before; y.len().div_ceil(WORD)];
                    Mask::new(&mut words).pack(start, &y[start..end]);
                    let last = y.len() / WORD * WORD;
                    let want = |i: usize| {
                        if (start..end).contains(&i) { passes(y[i].into()) } else { i < last && before != 0 }
                    };
                    assert!(
                        (0..words.len() * WORD).all(|i| bit(&words, i) == (i < 224 && i < y.len() && want(i))),
                        "{start}..{end}: {words:x?}"
                    );
                }
            }
        }
    }

    #[test]
    fn gradients_pass_where_their_bits_are_set() {
        let words: Vec<u32> = (1..1100).map(|i: u32| i.wrapping_mul(2_654_435_761)).collect();
        for len in (0..100).chain([TASK_ELEMS, 2 * TASK_ELEMS + 33]) {
            let dy: Vec<f32> = (0..len).map(|i| i as f32 + 1.0).collect();
            let mut dz = vec![-1.0; len];
            residual_gradient(&dy, Some(&words), &mut dz);
            let want = |i: usize| if words[i / WORD] >> (i % WORD) & 1 == 1 { dy[i] } else { 0.0 };
            assert!((0..len).all(|i| dz[i] == want(i)), "{len}");
        }
    }
}

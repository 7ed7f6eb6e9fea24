//! The relu mask: one bit an element of whether relu let it pass.

use core::ops::Range;

use super::convert::SimdElement;
use super::level::by_level;
use super::output::Output;
use super::threads;

/// Elements of a task.
const TASK_ELEMS: usize = 16 * 1024;
/// Elements of a word.
const WORD: usize = 32;

/// One bit an element of whether relu let it pass.
pub(super) fn pack<T: SimdElement>(y: &[T], relu_mask: &mut [u32]) {
    let words = Output::new(relu_mask);
    for_each_task(y.len(), |range| {
        // SAFETY: tasks have words of their own.
        #[allow(unsafe_code)]
        let words = unsafe { words.piece(range.start / WORD..range.end.div_ceil(WORD)) };
        by_level!(_simd => pack_words(&y[range.clone()], words));
    });
}

/// `of_range` on ranges of whole words, but for the last.
fn for_each_task(len: usize, of_range: impl Fn(Range<usize>) + Sync) {
    let task = |i: usize| i * TASK_ELEMS..((i + 1) * TASK_ELEMS).min(len);
    threads::for_each(len.div_ceil(TASK_ELEMS), 1, &|i| of_range(task(i)));
}

#[inline(always)]
fn pack_words<T: SimdElement>(y: &[T], words: &mut [u32]) {
    let (whole, rest) = y.as_chunks::<WORD>();
    for (word, values) in words.iter_mut().zip(whole) {
        let mut bits = 0;
        for (bit, y) in values.iter().enumerate() {
            bits |= u32::from(y.passes()) << bit;
        }
        *word = bits;
    }
    if let Some(word) = words.get_mut(whole.len()) {
        *word = rest.iter().enumerate().fold(0, |bits, (bit, y)| bits | u32::from(y.passes()) << bit);
    }
}

/// Writes the residual's gradient `dz = g`: with a mask `dy` where its bit is set.
pub(super) fn residual_gradient<T: SimdElement>(dy: &[T], relu_mask: Option<&[u32]>, dz: &mut [T]) {
    let dz = Output::new(dz);
    for_each_task(dy.len(), |range| {
        // SAFETY: tasks have elements of their own.
        #[allow(unsafe_code)]
        let dz = unsafe { dz.piece(range.clone()) };
        let dy = &dy[range.clone()];
        match relu_mask {
            None => dz.copy_from_slice(dy),
            Some(words) => by_level!(_simd => select(dy, &words[range.start / WORD..], dz)),
        }
    });
}

#[inline(always)]
fn select<T: SimdElement>(dy: &[T], words: &[u32], dz: &mut [T]) {
    for ((dz, dy), word) in dz.chunks_mut(WORD).zip(dy.chunks(WORD)).zip(words) {
        for (bit, (dz, dy)) in dz.iter_mut().zip(dy).enumerate() {
            *dz = if word >> bit & 1 == 1 { *dy } else { T::default() };
        }
    }
}

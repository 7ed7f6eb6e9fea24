//! Functions of one value of each array, in f64, over all channels: the work that is done once a channel.
//!
//! Where channels have few values it is most of all. So each is one loop, compiled for every level, and without a branch, so that it
//! becomes vector code.
#![allow(unsafe_code)]

use super::level::by_level;
use crate::element::Element;

/// Calls a function for each channel.
#[inline]
fn for_each(len: usize, of_channel: impl FnMut(usize)) {
    by_level!(simd => {
        let _ = simd;
        // By value: of what is behind a reference nothing is known to stay as it is while results are written.
        let of_channel = of_channel;
        (0..len).for_each(of_channel);
    });
}

/// Replaces the values of each channel by a function of them and others.
#[inline]
pub(super) fn update<const K: usize, const N: usize>(
    values: [&mut [f64]; K],
    others: [&[f64]; N],
    f: impl Fn([f64; K], [f64; N]) -> [f64; K],
) {
    let len = values[0].len();
    assert!(values.iter().all(|values| values.len() == len) && others.iter().all(|others| others.len() == len));
    let (values, others) = (values.map(<[f64]>::as_mut_ptr), others.map(<[f64]>::as_ptr));
    // SAFETY: each array has `len` values, and those that are written are borrowed exclusively.
    for_each(len, move |ch| unsafe {
        let results = f(values.map(|values| *values.add(ch)), others.map(|others| *others.add(ch)));
        for k in 0..K {
            *values[k].add(ch) = results[k];
        }
    });
}

/// The results of a function of the values of each channel.
#[inline]
pub(super) fn map<const K: usize, const N: usize>(
    values: [&[f64]; N],
    f: impl Fn([f64; N]) -> [f64; K],
) -> [Vec<f64>; K] {
    let len = values[0].len();
    assert!(values.iter().all(|values| values.len() == len));
    let mut results: [Vec<f64>; K] = core::array::from_fn(|_| Vec::with_capacity(len));
    let (values, pointers) = (values.map(<[f64]>::as_ptr), results.each_mut().map(Vec::as_mut_ptr));
    // SAFETY: each array has `len` values, or room for them.
    for_each(len, move |ch| unsafe {
        let of_channel = f(values.map(|values| *values.add(ch)));
        for k in 0..K {
            pointers[k].add(ch).write(of_channel[k]);
        }
    });
    for results in &mut results {
        // SAFETY: all of these values have been written.
        unsafe { results.set_len(len) };
    }
    results
}

/// Whether any channel's values are such.
#[inline]
pub(super) fn any<const N: usize>(values: [&[f64]; N], is_such: impl Fn([f64; N]) -> bool) -> bool {
    let len = values[0].len();
    assert!(values.iter().all(|values| values.len() == len));
    let values = values.map(<[f64]>::as_ptr);
    by_level!(simd => {
        let _ = simd;
        let is_such = is_such;
        // As wide as the values. SAFETY: each array has `len` of them.
        (0..len).fold(0, |any, ch| any | u64::from(is_such(values.map(|values| unsafe { *values.add(ch) })))) != 0
    })
}

/// Values in f64.
pub(super) fn to_f64<T: Element>(values: &[T]) -> Vec<f64> {
    let mut results = Vec::with_capacity(values.len());
    by_level!(simd => {
        let _ = simd;
        results.extend(values.iter().map(|value| value.to_f64()));
    });
    results
}

/// Writes the values of blocks of channels, one after the other, each rounded once.
pub(super) fn write<'a, T: Element>(blocks: impl Iterator<Item = &'a [f64]>, mut output: &mut [T]) {
    for values in blocks {
        let (results, rest) = output.split_at_mut(values.len());
        by_level!(simd => {
            let _ = simd;
            results.iter_mut().zip(values).for_each(|(result, value)| *result = T::from_f64(*value));
        });
        output = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::super::level::forced;
    use super::*;

    #[test]
    fn every_channel_is_computed_once_at_every_level() {
        for len in (0..70).chain([1000]) {
            let a: Vec<f64> = (0..len).map(|ch| ch as f64 + 0.1).collect();
            let b: Vec<f64> = (0..len).map(|ch| (ch * 7919 % 1009) as f64).collect();
            let want: [Vec<f64>; 2] = [
                a.iter().zip(&b).map(|(a, b)| a - b * 0.3).collect(),
                a.iter().zip(&b).map(|(a, b)| if *b > 500.0 { a / b } else { *a }).collect(),
            ];
            let f = |[a, b]: [f64; 2]| [a - b * 0.3, if b > 500.0 { a / b } else { a }];
            for (mapped, updated, is_any, last) in forced::at_each_level(|| {
                let mut updated = [a.clone(), b.clone()];
                update(updated.each_mut().map(Vec::as_mut_slice), [], |values, []| f(values));
                let is_last = |[a]: [f64; 1]| a > len as f64 - 1.0;
                (map([&a, &b], f), updated, any([&a], |[a]| a > len as f64 + 0.2), any([&a], is_last))
            }) {
                assert_eq!(mapped, want);
                assert_eq!(updated, want);
                assert!(!is_any && last == (len > 0), "{len}");
            }
            let mut written = vec![0.0f32; len];
            let blocks = [0..len / 3, len / 3..len];
            write(blocks.into_iter().map(|block| &b[block]), &mut written);
            assert_eq!(to_f64(&written), b);
        }
    }
}

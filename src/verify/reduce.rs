//! Sums and largest values of the oracle and the comparison.

use core::array;
use core::ops::Range;

/// The sums of `f` by halves, so that the error grows with the logarithm of the length.
pub(super) fn sums<const K: usize>(values: Range<usize>, f: &impl Fn(usize) -> [f64; K]) -> [f64; K] {
    let plus = |a: [f64; K], b: [f64; K]| array::from_fn(|k| a[k] + b[k]);
    match values.len() {
        ..=8 => values.fold([0.0; K], |sums, i| plus(sums, f(i))),
        len => {
            let middle = values.start + len / 2;
            plus(sums(values.start..middle, f), sums(middle..values.end, f))
        }
    }
}

/// The largest of the values that `value` gives for an element of each input, all of one length, and 0; a NaN is taken for an
/// infinity. Lane by lane, which the compiler makes vectors of.
pub(super) fn largest<const N: usize>(inputs: [&[f64]; N], value: impl Fn([f64; N]) -> f64) -> f64 {
    const LANES: usize = 8;
    let larger = |a: f64, b: f64| {
        let b = if b.is_nan() { f64::INFINITY } else { b };
        if b > a { b } else { a }
    };
    let inputs = inputs.map(|input| input.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for i in 0..inputs.iter().map(|(chunks, _)| chunks.len()).min().unwrap_or(0) {
        let chunks = inputs.map(|(chunks, _)| &chunks[i]);
        for (lane, largest) in lanes.iter_mut().enumerate() {
            *largest = larger(*largest, value(chunks.map(|chunk| chunk[lane])));
        }
    }
    let rest = inputs.map(|(_, rest)| rest);
    let of_rest = (0..rest.iter().map(|rest| rest.len()).min().unwrap_or(0)).map(|i| value(rest.map(|rest| rest[i])));
    of_rest.chain(lanes).fold(0.0, larger)
}

/// The largest finite magnitude.
pub(super) fn largest_magnitude(values: &[f64]) -> f64 {
    largest([values], |[value]| finite_magnitude(value))
}

/// The magnitude of a value that is finite, or 0.
#[inline]
pub(super) fn finite_magnitude(value: f64) -> f64 {
    if value.abs() <= f64::MAX { value.abs() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_is_found_wherever_it_is() {
        for len in 0..40 {
            assert_eq!(largest([&vec![0.0; len]], |[value]| value), 0.0);
            for place in 0..len {
                let values = |special: f64| -> Vec<f64> {
                    (0..len).map(|i| if i == place { special } else { i as f64 / 64.0 }).collect()
                };
                let largest = |special: f64| largest([&values(special), &vec![2.0; len]], |[a, b]| a * b);
                assert_eq!(largest(7.0), 14.0);
                assert_eq!(largest(f64::INFINITY), f64::INFINITY);
                assert_eq!(largest(f64::NAN), f64::INFINITY, "and what comes behind it does not hide it");
                let finite = if place + 1 == len { len.saturating_sub(2) } else { len - 1 };
                for special in [f64::NAN, f64::NEG_INFINITY] {
                    assert_eq!(largest_magnitude(&values(special)), finite as f64 / 64.0);
                }
            }
        }
    }
}

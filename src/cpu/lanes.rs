//! Formulas over [`LANES`] values at a time, in f64.
//!
//! Plain loops over arrays of a known length, which the compiler turns into whatever vectors the processor has. The
//! lanes are the same everywhere, and so are the bits. Always inlined, into the vector code of `rows.rs`, which is
//! compiled for each of its targets.
#![expect(clippy::needless_range_loop, reason = "loops over lanes: what is indexed is several arrays side by side")]

use super::convert::{F16Converter, LANES, SimdElement};

/// One value a lane.
pub(super) type PerLane = [f64; LANES];

/// What is done to the values of a vector before they enter a formula, by the parameters of each lane: where that is too much code to
/// be compiled into every loop.
pub(super) trait Prepare<const Q: usize, const J: usize>: Sync {
    /// Changes the values in place.
    fn prepare(&self, values: &mut [PerLane; J], parameters: &[PerLane; Q]);
}

/// The values as they are.
pub(super) struct Unprepared;

impl<const Q: usize, const J: usize> Prepare<Q, J> for Unprepared {
    #[inline(always)]
    fn prepare(&self, _: &mut [PerLane; J], _: &[PerLane; Q]) {}
}

#[inline(always)]
fn terms<const Q: usize, const J: usize, const K: usize>(
    values: &[PerLane; J],
    parameters: impl Fn(usize) -> [f64; Q],
    term: &impl Fn([f64; Q], [f64; J]) -> [f64; K],
) -> [PerLane; K] {
    let mut terms = [[0.0; LANES]; K];
    for lane in 0..LANES {
        let term = term(parameters(lane), get(values, lane));
        for k in 0..K {
            terms[k][lane] = term[k];
        }
    }
    terms
}

/// Adds `term` in every lane.
#[inline(always)]
pub(super) fn add_terms<const Q: usize, const J: usize, const K: usize>(
    sums: &mut [PerLane; K],
    values: &[PerLane; J],
    parameters: impl Fn(usize) -> [f64; Q],
    term: &impl Fn([f64; Q], [f64; J]) -> [f64; K],
) {
    add(sums, &terms(values, parameters, term));
}

/// Adds `term` in the last `count` lanes.
#[inline(always)]
pub(super) fn add_last_terms<const Q: usize, const J: usize, const K: usize>(
    sums: &mut [PerLane; K],
    count: usize,
    values: &[PerLane; J],
    parameters: impl Fn(usize) -> [f64; Q],
    term: &impl Fn([f64; Q], [f64; J]) -> [f64; K],
) {
    /// No bits, then all.
    const MASKS: [u64; 2 * LANES] = {
        let mut masks = [0; 2 * LANES];
        let mut i = LANES;
        while i < 2 * LANES {
            masks[i] = u64::MAX;
            i += 1;
        }
        masks
    };
    let masks = &MASKS[count..count + LANES];
    let mut terms = terms(values, parameters, term);
    for k in 0..K {
        for lane in 0..LANES {
            terms[k][lane] = f64::from_bits(terms[k][lane].to_bits() & masks[lane]);
        }
    }
    add(sums, &terms);
}

/// The sum over the lanes.
pub(super) fn hsum(mut lanes: PerLane) -> f64 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

#[inline(always)]
pub(super) fn add<const K: usize>(sums: &mut [PerLane; K], more: &[PerLane; K]) {
    for k in 0..K {
        for lane in 0..LANES {
            sums[k][lane] += more[k][lane];
        }
    }
}

#[inline(always)]
pub(super) fn mapped<T: SimdElement, const Q: usize, const J: usize>(
    values: &[PerLane; J],
    parameters: impl Fn(usize) -> [f64; Q],
    f: &impl Fn([f64; Q], [f64; J]) -> f64,
    f16_converter: &impl F16Converter,
) -> [T; LANES] {
    let mut mapped = [0.0; LANES];
    for lane in 0..LANES {
        mapped[lane] = f(parameters(lane), get(values, lane));
    }
    T::narrow(mapped, f16_converter)
}

#[inline(always)]
pub(super) fn store_lanes<T: SimdElement>(output: &mut [T], offset: usize, values: [T; LANES]) {
    output[offset..offset + LANES].copy_from_slice(&values);
}

/// Stores the last `count` of them.
#[inline(always)]
pub(super) fn store_last<T: SimdElement>(output: &mut [T], offset: usize, count: usize, values: [T; LANES]) {
    output[offset..offset + count].copy_from_slice(&values[LANES - count..]);
}

/// [`LANES`] neighbours of each input, widened.
#[inline(always)]
pub(super) fn load_lanes<T: SimdElement, const J: usize>(
    inputs: [&[T]; J],
    offset: usize,
    f16_converter: &impl F16Converter,
) -> [PerLane; J] {
    let mut values = [[0.0; LANES]; J];
    for j in 0..J {
        let mut elements = [T::default(); LANES];
        elements.copy_from_slice(&inputs[j][offset..offset + LANES]);
        values[j] = T::widen(elements, f16_converter);
    }
    values
}

/// Fewer neighbours of each input, widened, behind zeros.
#[inline(always)]
pub(super) fn load_padded<T: SimdElement, const J: usize>(
    inputs: [&[T]; J],
    offset: usize,
    count: usize,
    f16_converter: &impl F16Converter,
) -> [PerLane; J] {
    let mut values = [[0.0; LANES]; J];
    for j in 0..J {
        let mut elements = [T::default(); LANES];
        elements[LANES - count..].copy_from_slice(&inputs[j][offset..offset + count]);
        values[j] = T::widen(elements, f16_converter);
    }
    values
}

/// One lane of each.
#[inline(always)]
pub(super) fn get<const N: usize>(lanes: &[PerLane; N], lane: usize) -> [f64; N] {
    let mut values = [0.0; N];
    for n in 0..N {
        values[n] = lanes[n][lane];
    }
    values
}

/// One channel's value of each.
#[inline(always)]
pub(super) fn of_channel<const Q: usize>(parameters: [&[f64]; Q], ch: usize) -> [f64; Q] {
    let mut values = [0.0; Q];
    for q in 0..Q {
        values[q] = parameters[q][ch];
    }
    values
}

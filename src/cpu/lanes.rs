//! The vector code: sums and maps over neighbours, [`LANES`] at a time, in f64.
//!
//! Plain loops over arrays of a known length, which the compiler turns into whatever vectors the processor has. The
//! lanes are the same everywhere, and so are the bits.
#![expect(clippy::needless_range_loop, reason = "loops over lanes: what is indexed is several arrays side by side")]

use core::ops::Range;

use multiversion::multiversion;

use crate::Element;

/// Neighbours taken at a time.
const LANES: usize = 16;
/// Groups of neighbours summed in a row before they join the rest: for so long sums stay in registers, memory is still
/// read in order where tiles alternate, and a rounding has but short sums to grow in.
const ROWS: usize = 16;

/// One value a lane.
type PerLane = [f64; LANES];

/// The parameters of neighbours, lane by lane.
#[derive(Clone, Copy)]
pub(super) struct Lanes<const Q: usize> {
    width: usize,
    parameters: [PerLane; Q],
}

impl<const Q: usize> Lanes<Q> {
    /// Neighbours of one channel.
    fn of_one(parameters: [f64; Q]) -> Self {
        Self { width: LANES, parameters: parameters.map(|parameter| [parameter; LANES]) }
    }

    /// Neighbours of as many channels: every channel once.
    pub(super) fn tiles(parameters: [&[f64]; Q], c: usize) -> Vec<Self> {
        let tile = |channels: Range<usize>| {
            let mut lanes = [[0.0; LANES]; Q];
            for (lanes, parameter) in lanes.iter_mut().zip(parameters) {
                lanes[..channels.len()].copy_from_slice(&parameter[channels.clone()]);
            }
            Self { width: channels.len(), parameters: lanes }
        };
        ranges(0..c, LANES).map(tile).collect()
    }

    /// The first so many of them.
    fn first(self, width: usize) -> Self {
        Self { width, ..self }
    }
}

/// A range in steps.
pub(super) fn ranges(range: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(step).map(move |start| start..(start + step).min(range.end))
}

/// The sums of `term` over strips of one channel.
pub(super) fn strip_sums<'a, T: Element, const Q: usize, const J: usize, const K: usize>(
    strips: impl Iterator<Item = [&'a [T]; J]>,
    parameters: [f64; Q],
    term: &impl Fn([f64; Q], [f64; J]) -> [f64; K],
) -> [f64; K] {
    let lanes = Lanes::of_one(parameters);
    let mut sums = [[[0.0; LANES]; K]];
    for strip in strips {
        let full = strip[0].len() / LANES * LANES;
        sum_lanes(strip.map(|values| &values[..full]), LANES, &[lanes], &mut sums, term);
        let rest = strip.map(|values| &values[full..]);
        sum_lanes(rest, LANES, &[lanes.first(rest[0].len())], &mut sums, term);
    }
    sums[0].map(|lanes| lanes.iter().sum())
}

/// The sums of `term` over rows of one value of each channel.
pub(super) fn row_sums<T: Element, const Q: usize, const J: usize, const K: usize>(
    rows: [&[T]; J],
    parameters: [&[f64]; Q],
    c: usize,
    term: &impl Fn([f64; Q], [f64; J]) -> [f64; K],
) -> Vec<[f64; K]> {
    let tiles = Lanes::tiles(parameters, c);
    let mut sums = vec![[[0.0; LANES]; K]; tiles.len()];
    sum_lanes(rows, c, &tiles, &mut sums, term);
    (0..c).map(|ch| sums[ch / LANES].map(|lanes| lanes[ch % LANES])).collect()
}

/// `output = f(parameters, values)` at values of one channel.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn map_strip<T: Element, const Q: usize, const J: usize>(
    strip: [&[T]; J],
    parameters: [f64; Q],
    output: &mut [T],
    f: &impl Fn([f64; Q], [f64; J]) -> f64,
) {
    let Lanes { parameters, .. } = Lanes::of_one(parameters);
    let len = output.len();
    let (full, rest) = output.as_chunks_mut::<LANES>();
    for (i, output) in full.iter_mut().enumerate() {
        map_width(strip, i * LANES, output, &parameters, f);
    }
    map_width(strip, len - rest.len(), rest, &parameters, f);
}

/// `output = f(parameters, values)` over rows of one value of each channel.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn map_rows<T: Element, const Q: usize, const J: usize>(
    rows: [&[T]; J],
    c: usize,
    tiles: &[Lanes<Q>],
    output: &mut [T],
    f: &impl Fn([f64; Q], [f64; J]) -> f64,
) {
    for row in ranges(0..output.len(), c) {
        for (i, Lanes { width, parameters }) in tiles.iter().enumerate() {
            let start = row.start + i * LANES;
            // The same code twice: the first with a width that the compiler knows.
            if *width == LANES {
                map_width(rows, start, &mut output[start..start + LANES], parameters, f);
            } else {
                map_width(rows, start, &mut output[start..start + width], parameters, f);
            }
        }
    }
}

/// Adds the sums of `term` in each lane of each tile, over the places 0, `step`, 2 `step`, …
#[multiversion(targets("x86_64+avx2"))]
fn sum_lanes<T: Element, const Q: usize, const J: usize, const K: usize>(
    inputs: [&[T]; J],
    step: usize,
    tiles: &[Lanes<Q>],
    sums: &mut [[PerLane; K]],
    term: &impl Fn([f64; Q], [f64; J]) -> [f64; K],
) {
    for rows in ranges(0..inputs[0].len(), ROWS * step) {
        for (i, (lanes, sums)) in tiles.iter().zip(sums.iter_mut()).enumerate() {
            let places = (rows.start + i * LANES..rows.end).step_by(step);
            let zero = [[0.0; LANES]; K];
            // The same code twice: the first with a width that the compiler knows.
            let of_rows = if lanes.width == LANES {
                places.fold(zero, |sums, start| sum_width(inputs, start, LANES, &lanes.parameters, sums, term))
            } else {
                places.fold(zero, |sums, start| sum_width(inputs, start, lanes.width, &lanes.parameters, sums, term))
            };
            for k in 0..K {
                for lane in 0..LANES {
                    sums[k][lane] += of_rows[k][lane];
                }
            }
        }
    }
}

// Always inlined, into the vector code of the functions above, which is compiled for each of their targets.

#[inline(always)]
fn sum_width<T: Element, const Q: usize, const J: usize, const K: usize>(
    inputs: [&[T]; J],
    start: usize,
    width: usize,
    parameters: &[PerLane; Q],
    mut sums: [PerLane; K],
    term: &impl Fn([f64; Q], [f64; J]) -> [f64; K],
) -> [PerLane; K] {
    let values = neighbours(inputs, start, width);
    let mut terms = [[0.0; LANES]; K];
    for lane in 0..width {
        let term = term(at(parameters, lane), at(&values, lane));
        for k in 0..K {
            terms[k][lane] = term[k];
        }
    }
    for k in 0..K {
        for lane in 0..LANES {
            sums[k][lane] += terms[k][lane];
        }
    }
    sums
}

#[inline(always)]
fn map_width<T: Element, const Q: usize, const J: usize>(
    inputs: [&[T]; J],
    start: usize,
    output: &mut [T],
    parameters: &[PerLane; Q],
    f: &impl Fn([f64; Q], [f64; J]) -> f64,
) {
    let values = neighbours(inputs, start, output.len());
    for (lane, out) in output.iter_mut().enumerate() {
        *out = T::from_f64(f(at(parameters, lane), at(&values, lane)));
    }
}

/// `width` neighbours of each input, widened.
#[inline(always)]
fn neighbours<T: Element, const J: usize>(inputs: [&[T]; J], start: usize, width: usize) -> [PerLane; J] {
    let mut values = [[0.0; LANES]; J];
    for (values, input) in values.iter_mut().zip(inputs) {
        for (value, element) in values.iter_mut().zip(&input[start..start + width]) {
            *value = element.to_f64();
        }
    }
    values
}

/// One lane of each.
#[inline(always)]
fn at<const N: usize>(lanes: &[PerLane; N], lane: usize) -> [f64; N] {
    let mut values = [0.0; N];
    for (value, lanes) in values.iter_mut().zip(lanes) {
        *value = lanes[lane];
    }
    values
}

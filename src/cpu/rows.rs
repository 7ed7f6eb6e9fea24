//! The vector code over rows: sums and maps in f64, for each channel with its parameters. In plain loops:
//!
//! ```text
//! for row in rows: for ch in 0..c: for i in 0..s:
//!     sums[ch] += term(parameters[ch], x[row + ch * s + i])       // or output[…] = f(parameters[ch], x[…])
//! ```
//!
//! 1. [`LANES`] values are taken at a time. With `s > 1` they are of one channel, plane by plane; with `s = 1` of neighbouring
//!    channels, which make a [`ChannelVector`] with the parameters of each lane.
//! 2. The last values of a plane, or the last vector of a row, reach back over those before them where there are too few.
//! 3. The values of a vector may be prepared as a whole, by a function that is not compiled into each loop ([`Prepare`]).
//! 4. Sums stay in registers for [`SUM_BLOCK`] values, or [`TILE_ROWS`] rows of a vector, before they join the rest.

use core::hint::black_box;
use core::iter::StepBy;
use core::ops::Range;

use multiversion::multiversion;

use super::convert::{LANES, SimdElement, f16_converter};
use super::lanes::{
    PerLane, Prepare, add, add_last_terms, add_terms, get, hsum, load_lanes, load_padded, mapped, of_channel,
    store_lanes, store_last,
};

/// Values of a plane that are summed before they are added to the others: so roundings grow in short sums.
const SUM_BLOCK: usize = 16 * LANES;
/// Rows of a channel vector that are summed before the next vector's: so long sums stay in registers. With more, rows at a
/// distance of a power of two evict each other from the cache before the neighbours on the same line are read.
const TILE_ROWS: usize = 8;

/// A range in steps.
pub(super) fn ranges(range: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(step).map(move |start| start..(start + step).min(range.end))
}

/// Neighbouring channels of a row, every lane one of them.
#[derive(Clone, Copy)]
struct ChannelVector<const Q: usize> {
    start: usize,
    parameters: [PerLane; Q],
}

/// The vectors of `c` channels; of less than [`LANES`], one that has lanes to spare.
fn channel_vectors<const Q: usize>(parameters: [&[f64]; Q], c: usize) -> Vec<ChannelVector<Q>> {
    let channel_vector = |i: usize| {
        let start = (i * LANES).min(c.saturating_sub(LANES));
        let mut lanes = [[0.0; LANES]; Q];
        for (lanes, parameter) in lanes.iter_mut().zip(parameters) {
            let here = &parameter[start..c.min(start + LANES)];
            lanes[LANES - here.len()..].copy_from_slice(here);
        }
        ChannelVector { start, parameters: lanes }
    };
    (0..c.div_ceil(LANES)).map(channel_vector).collect()
}

/// Rows of `c` planes of `s` values, with the parameters of their channels.
pub(super) struct Rows<'a, const Q: usize> {
    c: usize,
    s: usize,
    parameters: [&'a [f64]; Q],
    /// The channel vectors of a row where `s = 1`, else none.
    channel_vectors: Vec<ChannelVector<Q>>,
}

impl<'a, const Q: usize> Rows<'a, Q> {
    pub(super) fn new(c: usize, s: usize, parameters: [&'a [f64]; Q]) -> Self {
        Self { c, s, parameters, channel_vectors: if s == 1 { channel_vectors(parameters, c) } else { Vec::new() } }
    }

    /// The sum of `term(parameters, values)` for each channel, over rows that begin at `offsets`, and over these `values` of
    /// each plane.
    pub(super) fn sums<T: SimdElement, const J: usize, const K: usize>(
        &self,
        inputs: [&[T]; J],
        offsets: StepBy<Range<usize>>,
        values: Range<usize>,
        prepare: &impl Prepare<Q, J>,
        term: &impl Fn([f64; Q], [f64; J]) -> [f64; K],
    ) -> Vec<[f64; K]> {
        let zero = [[0.0; LANES]; K];
        if self.s > 1 {
            let mut sums = vec![zero; self.c];
            sum_planes(inputs, (offsets, values), self.s, self.parameters, &mut sums, prepare, term);
            return sums.into_iter().map(|of_channel| of_channel.map(hsum)).collect();
        }
        let mut sums = vec![zero; self.channel_vectors.len()];
        sum_channel_vectors(inputs, offsets, self.c, &self.channel_vectors, &mut sums, prepare, term);
        let mut of_channels = vec![[0.0; K]; self.c];
        for (channel_vector, sums) in self.channel_vectors.iter().zip(&sums) {
            let here = &mut of_channels[channel_vector.start..self.c.min(channel_vector.start + LANES)];
            let spare = LANES - here.len();
            for (lane, of_channel) in here.iter_mut().enumerate() {
                *of_channel = get(sums, spare + lane);
            }
        }
        of_channels
    }

    /// `output = f(parameters, values)` over rows with nothing between them.
    pub(super) fn map<T: SimdElement, const J: usize>(
        &self,
        inputs: [&[T]; J],
        output: &mut [T],
        prepare: &impl Prepare<Q, J>,
        f: &impl Fn([f64; Q], [f64; J]) -> f64,
    ) {
        if self.s > 1 {
            map_planes(inputs, [self.c, self.s], self.parameters, output, prepare, f);
        } else {
            map_channel_vectors(inputs, self.c, &self.channel_vectors, output, prepare, f);
        }
    }
}

#[multiversion(targets("x86_64+avx2+f16c"))]
fn sum_channel_vectors<T: SimdElement, const Q: usize, const J: usize, const K: usize>(
    inputs: [&[T]; J],
    offsets: StepBy<Range<usize>>,
    c: usize,
    channel_vectors: &[ChannelVector<Q>],
    sums: &mut [[PerLane; K]],
    prepare: &impl Prepare<Q, J>,
    term: &impl Fn([f64; Q], [f64; J]) -> [f64; K],
) {
    let f16_converter = f16_converter!();
    let mut offsets = offsets;
    while offsets.len() > 0 {
        let rows = offsets.clone().take(TILE_ROWS);
        for (channel_vector, sums) in channel_vectors.iter().zip(sums.iter_mut()) {
            let mut of_rows = [[0.0; LANES]; K];
            for row in rows.clone() {
                let parameters = |lane| get(&channel_vector.parameters, lane);
                if c >= LANES {
                    let mut values = load_lanes(inputs, row + channel_vector.start, &f16_converter);
                    prepare.prepare(&mut values, &channel_vector.parameters);
                    add_terms(&mut of_rows, &values, parameters, term);
                } else {
                    let mut values = load_padded(inputs, row, c, &f16_converter);
                    prepare.prepare(&mut values, &channel_vector.parameters);
                    add_terms(&mut of_rows, &values, parameters, term);
                }
            }
            add(sums, &of_rows);
        }
        offsets.nth(TILE_ROWS - 1);
    }
}

#[multiversion(targets("x86_64+avx2+f16c"))]
fn sum_planes<T: SimdElement, const Q: usize, const J: usize, const K: usize>(
    inputs: [&[T]; J],
    (offsets, values): (StepBy<Range<usize>>, Range<usize>),
    s: usize,
    parameters: [&[f64]; Q],
    sums: &mut [[PerLane; K]],
    prepare: &impl Prepare<Q, J>,
    term: &impl Fn([f64; Q], [f64; J]) -> [f64; K],
) {
    let f16_converter = f16_converter!();
    let len = values.len();
    for row in offsets {
        for (ch, sums) in sums.iter_mut().enumerate() {
            let of_channel = of_channel(parameters, ch);
            let (parameters, of_lanes) = (|_| of_channel, of_channel.map(|parameter| [parameter; LANES]));
            let plane = row + ch * s + values.start..row + ch * s + values.end;
            let full = plane.start + len / LANES * LANES;
            for offsets in ranges(plane.start..full, SUM_BLOCK) {
                let mut of_offsets = [[0.0; LANES]; K];
                for offset in offsets.step_by(LANES) {
                    let mut values = load_lanes(inputs, offset, &f16_converter);
                    prepare.prepare(&mut values, &of_lanes);
                    add_terms(&mut of_offsets, &values, parameters, term);
                }
                add(sums, &of_offsets);
            }
            let rest = plane.end - full;
            if rest > 0 && len >= LANES {
                let mut values = load_lanes(inputs, plane.end - LANES, &f16_converter);
                prepare.prepare(&mut values, &of_lanes);
                add_last_terms(sums, rest, &values, parameters, term);
            } else if rest > 0 {
                let mut values = load_padded(inputs, full, rest, &f16_converter);
                prepare.prepare(&mut values, &of_lanes);
                add_last_terms(sums, rest, &values, parameters, term);
            }
        }
    }
}

#[multiversion(targets("x86_64+avx2+f16c"))]
fn map_channel_vectors<T: SimdElement, const Q: usize, const J: usize>(
    inputs: [&[T]; J],
    c: usize,
    channel_vectors: &[ChannelVector<Q>],
    output: &mut [T],
    prepare: &impl Prepare<Q, J>,
    f: &impl Fn([f64; Q], [f64; J]) -> f64,
) {
    let f16_converter = f16_converter!();
    for row in (0..output.len()).step_by(c) {
        for channel_vector in channel_vectors {
            let parameters = |lane| get(&channel_vector.parameters, lane);
            if c >= LANES {
                let offset = row + channel_vector.start;
                let mut values = load_lanes(inputs, offset, &f16_converter);
                prepare.prepare(&mut values, &channel_vector.parameters);
                store_lanes(output, offset, mapped(&values, parameters, f, &f16_converter));
            } else {
                let mut values = load_padded(inputs, row, c, &f16_converter);
                prepare.prepare(&mut values, &channel_vector.parameters);
                store_last(output, row, c, mapped(&values, parameters, f, &f16_converter));
            }
        }
    }
}

#[multiversion(targets("x86_64+avx2+f16c"))]
fn map_planes<T: SimdElement, const Q: usize, const J: usize>(
    inputs: [&[T]; J],
    [c, s]: [usize; 2],
    parameters: [&[f64]; Q],
    output: &mut [T],
    prepare: &impl Prepare<Q, J>,
    f: &impl Fn([f64; Q], [f64; J]) -> f64,
) {
    let f16_converter = f16_converter!();
    for (i, plane) in ranges(0..output.len(), s).enumerate() {
        let of_channel = of_channel(parameters, i % c);
        let (parameters, of_lanes) = (|_| of_channel, of_channel.map(|parameter| [parameter; LANES]));
        let len = plane.len();
        let full = plane.start + len / LANES * LANES;
        for offset in (plane.start..full).step_by(LANES) {
            // The compiler would make vectors of offsets with a distance of LANES, at twice the time.
            let offset = black_box(offset);
            let mut values = load_lanes(inputs, offset, &f16_converter);
            prepare.prepare(&mut values, &of_lanes);
            store_lanes(output, offset, mapped(&values, parameters, f, &f16_converter));
        }
        let rest = plane.end - full;
        if rest > 0 && len >= LANES {
            let offset = plane.end - LANES;
            let mut values = load_lanes(inputs, offset, &f16_converter);
            prepare.prepare(&mut values, &of_lanes);
            store_lanes(output, offset, mapped(&values, parameters, f, &f16_converter));
        } else if rest > 0 {
            let mut values = load_padded(inputs, full, rest, &f16_converter);
            prepare.prepare(&mut values, &of_lanes);
            store_last(output, full, rest, mapped(&values, parameters, f, &f16_converter));
        }
    }
}

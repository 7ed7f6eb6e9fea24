//! The vector code over rows: sums and maps in f64, for each channel with its parameters.
//!
//! A row is one channel's strip of `s` values after the other. With `s = 1` neighbours are of different channels, and
//! rows are taken tile by tile; else they are of one, and rows are taken strip by strip. The last neighbours of a strip,
//! or the last tile of a row, reach back over those before them where there are too few.

use core::hint::black_box;
use core::iter::StepBy;
use core::ops::Range;

use multiversion::multiversion;

use super::convert::{LANES, Lane, halves};
use super::lanes::{
    PerLane, across, add, add_last_terms, add_terms, at, mapped, neighbours, of_channel, padded, write, write_last,
};

/// Neighbours of a strip summed before they join the rest: for so long a rounding has but short sums to grow in.
const STRETCH: usize = 16 * LANES;
/// Rows of a tile summed before the next tile's: for so long sums stay in registers. With more, rows that are a power of
/// two apart put each other out of the cache before the neighbours on the same line come to their turn.
const ROWS: usize = 8;

/// A range in steps.
pub(super) fn ranges(range: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(step).map(move |start| start..(start + step).min(range.end))
}

/// Neighbouring channels of a row, every lane one of them.
#[derive(Clone, Copy)]
struct Tile<const Q: usize> {
    start: usize,
    parameters: [PerLane; Q],
}

/// Tiles that hold each of `c` channels; of less than [`LANES`], one that has lanes to spare.
fn tiles<const Q: usize>(parameters: [&[f64]; Q], c: usize) -> Vec<Tile<Q>> {
    let tile = |i: usize| {
        let start = (i * LANES).min(c.saturating_sub(LANES));
        let mut lanes = [[0.0; LANES]; Q];
        for (lanes, parameter) in lanes.iter_mut().zip(parameters) {
            let here = &parameter[start..c.min(start + LANES)];
            lanes[LANES - here.len()..].copy_from_slice(here);
        }
        Tile { start, parameters: lanes }
    };
    (0..c.div_ceil(LANES)).map(tile).collect()
}

/// Rows of `c` strips of `s` values, with the parameters of their channels.
pub(super) struct Rows<'a, const Q: usize> {
    c: usize,
    s: usize,
    parameters: [&'a [f64]; Q],
    /// Where `s = 1`.
    tiles: Vec<Tile<Q>>,
}

impl<'a, const Q: usize> Rows<'a, Q> {
    pub(super) fn new(c: usize, s: usize, parameters: [&'a [f64]; Q]) -> Self {
        Self { c, s, parameters, tiles: if s == 1 { tiles(parameters, c) } else { Vec::new() } }
    }

    /// For each channel the sum of `term(parameters, values)` over rows that begin at `places`, of each strip over
    /// these `values`.
    pub(super) fn sums<T: Lane, const J: usize, const K: usize>(
        &self,
        inputs: [&[T]; J],
        places: StepBy<Range<usize>>,
        values: Range<usize>,
        term: &impl Fn([f64; Q], [f64; J]) -> [f64; K],
    ) -> Vec<[f64; K]> {
        let zero = [[0.0; LANES]; K];
        if self.s > 1 {
            let mut sums = vec![zero; self.c];
            sum_strips(inputs, places, self.s, values, self.parameters, &mut sums, term);
            return sums.into_iter().map(|of_channel| of_channel.map(across)).collect();
        }
        let mut sums = vec![zero; self.tiles.len()];
        sum_tiles(inputs, places, self.c, &self.tiles, &mut sums, term);
        let mut of_channels = vec![[0.0; K]; self.c];
        for (tile, sums) in self.tiles.iter().zip(&sums) {
            let here = &mut of_channels[tile.start..self.c.min(tile.start + LANES)];
            let spare = LANES - here.len();
            for (lane, of_channel) in here.iter_mut().enumerate() {
                *of_channel = at(sums, spare + lane);
            }
        }
        of_channels
    }

    /// `output = f(parameters, values)` over rows with nothing between them.
    pub(super) fn map<T: Lane, const J: usize>(
        &self,
        inputs: [&[T]; J],
        output: &mut [T],
        f: &impl Fn([f64; Q], [f64; J]) -> f64,
    ) {
        if self.s > 1 {
            map_strips(inputs, [self.c, self.s], self.parameters, output, f);
        } else {
            map_tiles(inputs, self.c, &self.tiles, output, f);
        }
    }
}

#[multiversion(targets("x86_64+avx2+f16c"))]
fn sum_tiles<T: Lane, const Q: usize, const J: usize, const K: usize>(
    inputs: [&[T]; J],
    places: StepBy<Range<usize>>,
    c: usize,
    tiles: &[Tile<Q>],
    sums: &mut [[PerLane; K]],
    term: &impl Fn([f64; Q], [f64; J]) -> [f64; K],
) {
    let halves = halves!();
    let mut places = places;
    while places.len() > 0 {
        let rows = places.clone().take(ROWS);
        for (tile, sums) in tiles.iter().zip(sums.iter_mut()) {
            let mut of_rows = [[0.0; LANES]; K];
            for row in rows.clone() {
                let parameters = |lane| at(&tile.parameters, lane);
                if c >= LANES {
                    add_terms(&mut of_rows, &neighbours(inputs, row + tile.start, &halves), parameters, term);
                } else {
                    add_terms(&mut of_rows, &padded(inputs, row, c, &halves), parameters, term);
                }
            }
            add(sums, &of_rows);
        }
        places.nth(ROWS - 1);
    }
}

#[multiversion(targets("x86_64+avx2+f16c"))]
fn sum_strips<T: Lane, const Q: usize, const J: usize, const K: usize>(
    inputs: [&[T]; J],
    places: StepBy<Range<usize>>,
    s: usize,
    values: Range<usize>,
    parameters: [&[f64]; Q],
    sums: &mut [[PerLane; K]],
    term: &impl Fn([f64; Q], [f64; J]) -> [f64; K],
) {
    let halves = halves!();
    let len = values.len();
    for row in places {
        for (ch, sums) in sums.iter_mut().enumerate() {
            let of_channel = of_channel(parameters, ch);
            let parameters = |_| of_channel;
            let strip = row + ch * s + values.start..row + ch * s + values.end;
            let full = strip.start + len / LANES * LANES;
            for places in ranges(strip.start..full, STRETCH) {
                let mut of_places = [[0.0; LANES]; K];
                for place in places.step_by(LANES) {
                    add_terms(&mut of_places, &neighbours(inputs, place, &halves), parameters, term);
                }
                add(sums, &of_places);
            }
            let rest = strip.end - full;
            if rest > 0 && len >= LANES {
                add_last_terms(sums, rest, &neighbours(inputs, strip.end - LANES, &halves), parameters, term);
            } else if rest > 0 {
                add_last_terms(sums, rest, &padded(inputs, full, rest, &halves), parameters, term);
            }
        }
    }
}

#[multiversion(targets("x86_64+avx2+f16c"))]
fn map_tiles<T: Lane, const Q: usize, const J: usize>(
    inputs: [&[T]; J],
    c: usize,
    tiles: &[Tile<Q>],
    output: &mut [T],
    f: &impl Fn([f64; Q], [f64; J]) -> f64,
) {
    let halves = halves!();
    for row in (0..output.len()).step_by(c) {
        for tile in tiles {
            let parameters = |lane| at(&tile.parameters, lane);
            if c >= LANES {
                let place = row + tile.start;
                write(output, place, mapped(&neighbours(inputs, place, &halves), parameters, f, &halves));
            } else {
                write_last(output, row, c, mapped(&padded(inputs, row, c, &halves), parameters, f, &halves));
            }
        }
    }
}

#[multiversion(targets("x86_64+avx2+f16c"))]
fn map_strips<T: Lane, const Q: usize, const J: usize>(
    inputs: [&[T]; J],
    [c, s]: [usize; 2],
    parameters: [&[f64]; Q],
    output: &mut [T],
    f: &impl Fn([f64; Q], [f64; J]) -> f64,
) {
    let halves = halves!();
    for (i, strip) in ranges(0..output.len(), s).enumerate() {
        let of_channel = of_channel(parameters, i % c);
        let parameters = |_| of_channel;
        let len = strip.len();
        let full = strip.start + len / LANES * LANES;
        for place in (strip.start..full).step_by(LANES) {
            // Else the compiler makes vectors of places that are LANES apart, at twice the time.
            let place = black_box(place);
            write(output, place, mapped(&neighbours(inputs, place, &halves), parameters, f, &halves));
        }
        let rest = strip.end - full;
        if rest > 0 && len >= LANES {
            let place = strip.end - LANES;
            write(output, place, mapped(&neighbours(inputs, place, &halves), parameters, f, &halves));
        } else if rest > 0 {
            write_last(output, full, rest, mapped(&padded(inputs, full, rest, &halves), parameters, f, &halves));
        }
    }
}

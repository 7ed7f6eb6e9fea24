//! How the reference walks a tensor: sums over each channel, and a function of each element.
//!
//! The operations are written once, as a formula for one element with the parameters of its channel; the walk knows
//! the layouts. What is split between threads and in which order partial sums are added depends on the shape alone, so
//! that the bits are the same for any number of threads.

use core::ops::Range;

use rayon::prelude::*;

use super::lanes::{Lanes, map_rows, map_strip, ranges, row_sums, strip_sums};
use crate::{Element, Layout, Shape};

/// Elements to a part: enough to pay for a task, few enough to stay in the first-level cache for a second look.
const PART: usize = 8 * 1024;
/// Rows to a part at least, since each part leaves a result for every channel.
const MIN_ROWS: usize = 64;

/// How the channels of a tensor lie in memory.
#[derive(Clone, Copy)]
enum Walk {
    /// Strips of `s` values of one channel; `c` channels take turns.
    Strips { s: usize },
    /// Rows of one value of each channel.
    Rows,
}

impl Walk {
    fn of(shape: Shape) -> Self {
        match shape.layout() {
            _ if shape.c() == 1 => Self::Strips { s: shape.m() },
            Layout::ChannelsFirst if shape.s() > 1 => Self::Strips { s: shape.s() },
            _ => Self::Rows,
        }
    }
}

/// How many rows make a part.
fn rows_per_part(shape: Shape) -> usize {
    MIN_ROWS.max(8 * PART / shape.c())
}

/// Part of a tensor, small enough to be walked more than once at the price of once.
pub(super) struct Part<'a, T, const J: usize> {
    inputs: [&'a [T]; J],
    shape: Shape,
    place: Place,
}

enum Place {
    /// Of some strips of one channel these values.
    Strips { channel: usize, s: usize, strips: Range<usize>, values: Range<usize> },
    /// Some rows.
    Rows(Range<usize>),
}

impl<T: Element, const J: usize> Part<'_, T, J> {
    /// The channels that it holds.
    pub(super) fn channels(&self) -> Range<usize> {
        match self.place {
            Place::Strips { channel, .. } => channel..channel + 1,
            Place::Rows(_) => 0..self.shape.c(),
        }
    }

    /// How many values of each of them it holds.
    pub(super) fn m(&self) -> usize {
        match &self.place {
            Place::Strips { strips, values, .. } => strips.len() * values.len(),
            Place::Rows(rows) => rows.len(),
        }
    }

    /// The sums of `term(parameters of the channel, values of the inputs at one place)` for each channel that it
    /// holds; the `parameters` have one value for each of these.
    pub(super) fn sums<const Q: usize, const K: usize>(
        &self,
        parameters: [&[f64]; Q],
        term: &impl Fn([f64; Q], [f64; J]) -> [f64; K],
    ) -> Vec<[f64; K]> {
        let c = self.shape.c();
        match &self.place {
            Place::Strips { channel, s, strips, values } => {
                let strip = |i: usize| {
                    let first = (i * c + channel) * s;
                    self.inputs.map(|input| &input[first + values.start..first + values.end])
                };
                vec![strip_sums(strips.clone().map(strip), parameters.map(|parameter| parameter[0]), term)]
            }
            Place::Rows(rows) => {
                let rows = self.inputs.map(|input| &input[rows.start * c..rows.end * c]);
                row_sums(rows, parameters, c, term)
            }
        }
    }
}

/// What each part of a tensor gave for each channel.
pub(super) struct Partials<R> {
    /// Of one part, or of one channel, after the other.
    values: Vec<R>,
    c: usize,
    channels_first: bool,
}

impl<R: Copy> Partials<R> {
    /// What the parts gave for one channel, in order.
    pub(super) fn of_channel(&self, channel: usize) -> impl Iterator<Item = R> + Clone {
        let parts = self.values.len() / self.c;
        let (first, step) = if self.channels_first { (channel * parts, 1) } else { (channel, self.c) };
        (0..parts).map(move |i| self.values[first + i * step])
    }
}

/// `of_part` of every part: one value for each channel that the part holds. The tensor is not empty.
pub(super) fn partials<T: Element, R: Copy + Send, const J: usize>(
    shape: Shape,
    inputs: [&[T]; J],
    of_part: impl Fn(&Part<'_, T, J>) -> Vec<R> + Sync,
) -> Partials<R> {
    let c = shape.c();
    let of_place = |place: Place| of_part(&Part { inputs, shape, place });
    match Walk::of(shape) {
        Walk::Strips { s } => {
            let strips: Vec<_> = ranges(0..shape.m() / s, (PART / s).max(1)).collect();
            let values: Vec<_> = ranges(0..s, PART).collect();
            let place = |i: usize| Place::Strips {
                channel: i / values.len() / strips.len(),
                s,
                strips: strips[i / values.len() % strips.len()].clone(),
                values: values[i % values.len()].clone(),
            };
            let places = (0..c * strips.len() * values.len()).into_par_iter().map(place);
            Partials { values: places.flat_map_iter(of_place).collect(), c, channels_first: true }
        }
        Walk::Rows => {
            let parts: Vec<_> = ranges(0..shape.m(), rows_per_part(shape)).collect();
            let places = parts.into_par_iter().map(Place::Rows);
            Partials { values: places.flat_map_iter(of_place).collect(), c, channels_first: false }
        }
    }
}

/// For each channel the sums of `term(parameters of the channel, values of the inputs at one place)`.
///
/// The tensor is not empty; each of the `parameters` has one value a channel.
pub(super) fn channel_sums<T: Element, const Q: usize, const J: usize, const K: usize>(
    shape: Shape,
    parameters: [&[f64]; Q],
    inputs: [&[T]; J],
    term: impl Fn([f64; Q], [f64; J]) -> [f64; K] + Sync,
) -> Vec<[f64; K]> {
    let partials =
        partials(shape, inputs, |part| part.sums(parameters.map(|parameter| &parameter[part.channels()]), &term));
    let add = |a: [f64; K], b: [f64; K]| core::array::from_fn(|k| a[k] + b[k]);
    (0..shape.c()).map(|ch| partials.of_channel(ch).fold([0.0; K], add)).collect()
}

/// `output = f(parameters of the channel, values of the inputs)` at every place.
///
/// The tensor is not empty; each of the `parameters` has one value a channel.
pub(super) fn map<T: Element, const Q: usize, const J: usize>(
    shape: Shape,
    parameters: [&[f64]; Q],
    inputs: [&[T]; J],
    output: &mut [T],
    f: impl Fn([f64; Q], [f64; J]) -> f64 + Sync,
) {
    let c = shape.c();
    match Walk::of(shape) {
        Walk::Strips { s } => {
            let strips = output.par_chunks_mut(s).with_min_len(PART.div_ceil(s)).enumerate();
            strips.for_each(|(i, strip)| {
                let parameters = parameters.map(|parameter| parameter[i % c]);
                strip.par_chunks_mut(PART).enumerate().for_each(|(j, output)| {
                    let start = i * s + j * PART;
                    let inputs = inputs.map(|input| &input[start..start + output.len()]);
                    map_strip(inputs, parameters, output, &f);
                });
            });
        }
        Walk::Rows => {
            let part = rows_per_part(shape) * c;
            let tiles = Lanes::tiles(parameters, c);
            output.par_chunks_mut(part).enumerate().for_each(|(i, output)| {
                let inputs = inputs.map(|input| &input[i * part..i * part + output.len()]);
                map_rows(inputs, c, &tiles, output, &f);
            });
        }
    }
}

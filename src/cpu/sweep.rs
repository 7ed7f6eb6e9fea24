//! How the reference walks a tensor: sums over each channel, and a function of each element.
//!
//! The operations are written once, as a formula for one element with the parameters of its channel; the walk knows
//! the layouts. A tensor is cut into groups of channels, each of which is computed to the end while it is in cache; a
//! group's sums are cut into parts. What is cut and in which order partial sums are added depends on the shape alone, so
//! that the bits are the same for any number of threads.

use core::ops::{Range, RangeInclusive};

use rayon::prelude::*;

use super::convert::Lane;
use super::rows::{Rows, ranges};
use super::{Cpu, threads};
use crate::shape::{Layout, Shape};

/// Elements to a part.
const PART: usize = 64 * 1024;
/// Rows to a part where neighbours are of different channels and rows are wide. Each part leaves a result for all channels,
/// so the more rows, the less that costs; but a tensor of fewer rows is to have [`PARTS_FOR_ALL`] parts too, down to so few.
const ROWS_OF_PART: RangeInclusive<usize> = 64..=256;
/// Elements to a group, where a channel does not hold more: what a second-level cache holds of x and y.
const GROUP: usize = 32 * 1024;
/// Elements to a task at least.
const TASK: usize = 16 * 1024;
/// Neighbours of a group in a row at least, even where it then holds more, so that memory is read in more than snippets.
const RUN: usize = 4096;
/// Neighbouring channels of a group where neighbours are of different channels, if that few hold no more than a group.
/// Narrower ones of many rows get in each other's way in a cache where rows are a power of two apart.
const COLUMNS: usize = 1024;
/// Groups of that many parts are computed one after the other by all threads, so that one at a time is in cache.
const PARTS_FOR_ALL: usize = 16;

/// A tensor as rows of `c` strips of `s` values, one strip a channel.
#[derive(Clone, Copy)]
struct View {
    rows: usize,
    c: usize,
    s: usize,
}

impl View {
    fn of(shape: Shape) -> Self {
        let (c, m) = (shape.c(), shape.m());
        match shape.layout() {
            _ if c == 1 => Self { rows: 1, c, s: m },
            Layout::ChannelsFirst => Self { rows: shape.n(), c, s: shape.s() },
            Layout::ChannelsLast => Self { rows: m, c, s: 1 },
        }
    }

    /// How many channels make a group.
    fn channels_per_group(self) -> usize {
        let Self { rows, c, s } = self;
        if s > 1 {
            // Runs are not worth leaving threads without a group.
            return (GROUP / (rows * s)).max((RUN / s).min(c / 16)).max(1);
        }
        if rows <= GROUP / COLUMNS { COLUMNS } else { c }
    }

    /// How many groups make a task at least: all of them where each is large enough for all threads.
    fn groups_per_task(self) -> usize {
        let m = self.rows * self.s;
        if m > PARTS_FOR_ALL * PART {
            return self.c;
        }
        TASK.div_ceil(m * self.channels_per_group())
    }

    /// How many rows of so many channels make a part.
    fn rows_per_part(self, channels: usize) -> usize {
        match channels * self.s {
            width if self.s == 1 => {
                let rows = self.rows / PARTS_FOR_ALL;
                rows.clamp(*ROWS_OF_PART.start(), *ROWS_OF_PART.end()).max(PART / width)
            }
            width => (PART / width).max(1),
        }
    }
}

/// The bytes that an operation needs beside its buffers, at most: slices of rows, results of channels, and what the groups that
/// are computed at one time hold.
pub(super) fn bookkeeping_bytes(shape: Shape) -> usize {
    /// The results of a channel, twice where they are put together.
    const RESULTS: usize = 96;
    /// The vectors of a group with a value a channel, and its sums lane by lane.
    const OF_CHANNEL: usize = 800;
    /// A part, and what it holds of a channel.
    const PART_BYTES: [usize; 2] = [64, 40];
    let view = View::of(shape);
    let channels = view.channels_per_group().min(view.c);
    let groups = view.c.div_ceil(channels);
    let parts = view.rows.div_ceil(view.rows_per_part(channels)) * view.s.div_ceil(PART);
    let slices = if groups > 1 { groups.saturating_mul(view.rows * size_of::<&mut [f64]>()) } else { 0 };
    let of_part = PART_BYTES[0] + channels * PART_BYTES[1];
    // A thread that waits for the parts of one group may begin another.
    let at_once = groups.min(4 * Cpu::threads());
    let of_groups = at_once.saturating_mul(channels * OF_CHANNEL + parts.saturating_mul(of_part));
    slices.saturating_add(view.c.saturating_mul(RESULTS)).saturating_add(of_groups).saturating_add(PART)
}

/// Neighbouring channels, whose values nothing else depends on.
#[derive(Clone)]
pub(super) struct Group {
    view: View,
    channels: Range<usize>,
}

/// The groups of a tensor that is not empty, in the order of their channels.
fn groups(view: View) -> Vec<Group> {
    ranges(0..view.c, view.channels_per_group()).map(|channels| Group { view, channels }).collect()
}

/// What `of_group` gives for the channels of each group, all in order.
pub(super) fn by_group<R: Send>(shape: Shape, of_group: impl Fn(&Group) -> Vec<R> + Sync + Send) -> Vec<R> {
    let view = View::of(shape);
    let of_groups = threads::map(groups(view).par_iter().with_min_len(view.groups_per_task()), of_group);
    of_groups.into_iter().flatten().collect()
}

/// What `of_group` gives for the channels of each group, all in order, and what it writes to its rows of the `output`.
pub(super) fn by_group_into<T: Lane, R: Send>(
    shape: Shape,
    output: &mut [T],
    of_group: impl Fn(&Group, Vec<&mut [T]>) -> Vec<R> + Sync,
) -> Vec<R> {
    let view = View::of(shape);
    let groups = groups(view);
    let mut outputs: Vec<_> = groups.iter().map(|_| Vec::with_capacity(view.rows)).collect();
    if let [all] = &mut outputs[..] {
        all.push(output);
    } else {
        for row in output.chunks_mut(view.c * view.s) {
            let pieces = row.chunks_mut(view.channels_per_group() * view.s);
            outputs.iter_mut().zip(pieces).for_each(|(output, piece)| output.push(piece));
        }
    }
    let tasks = groups.par_iter().zip(outputs).with_min_len(view.groups_per_task());
    let of_groups = threads::map(tasks, |(group, output)| of_group(group, output));
    of_groups.into_iter().flatten().collect()
}

/// Some values of each channel of a group.
#[derive(Clone)]
pub(super) struct Part<'a> {
    group: &'a Group,
    rows: Range<usize>,
    /// Of each strip.
    values: Range<usize>,
}

impl Group {
    /// The channels that it holds.
    pub(super) fn channels(&self) -> Range<usize> {
        self.channels.clone()
    }

    /// How many values of each of them it holds.
    pub(super) fn m(&self) -> usize {
        self.view.rows * self.view.s
    }

    /// Where a row begins.
    fn start(&self, row: usize) -> usize {
        (row * self.view.c + self.channels.start) * self.view.s
    }

    /// The first value of each channel.
    pub(super) fn first<T: Lane>(&self, values: &[T]) -> Vec<f64> {
        (0..self.channels.len()).map(|ch| values[self.start(0) + ch * self.view.s].to_f64()).collect()
    }

    /// All of it, in order.
    fn parts(&self) -> Vec<Part<'_>> {
        let View { rows, s, .. } = self.view;
        let of_rows = self.view.rows_per_part(self.channels.len());
        let part =
            |rows: Range<usize>| ranges(0..s, PART).map(move |values| Part { group: self, rows: rows.clone(), values });
        ranges(0..rows, of_rows).flat_map(part).collect()
    }

    /// What `of_part` gives for each channel, part by part.
    pub(super) fn by_part<R: Send>(&self, of_part: impl Fn(&Part<'_>) -> Vec<R> + Sync + Send) -> Vec<Vec<R>> {
        threads::map(self.parts().par_iter(), of_part)
    }

    /// For each channel the sums of `term(parameters of the channel, values of the inputs at one place)`.
    pub(super) fn sums<T: Lane, const Q: usize, const J: usize, const K: usize>(
        &self,
        parameters: [&[f64]; Q],
        inputs: [&[T]; J],
        term: impl Fn([f64; Q], [f64; J]) -> [f64; K] + Sync,
    ) -> Vec<[f64; K]> {
        let mut sums = vec![[0.0; K]; self.channels.len()];
        for part in self.by_part(|part| part.sums(parameters, inputs, &term)) {
            for (sums, part) in sums.iter_mut().zip(part) {
                sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
        }
        sums
    }

    /// `output = f(parameters of the channel, values of the inputs)` at every place. Begins at the end, which a walk
    /// before it has left in cache.
    pub(super) fn map<T: Lane, const Q: usize, const J: usize>(
        &self,
        parameters: [&[f64]; Q],
        inputs: [&[T]; J],
        output: Vec<&mut [T]>,
        f: impl Fn([f64; Q], [f64; J]) -> f64 + Sync,
    ) {
        let (c, s) = (self.channels.len(), self.view.s);
        let width = c * s;
        let view = Rows::new(c, s, parameters);
        // Rows with nothing between them come as one.
        let piece = if s > PART { PART } else { (PART / width).max(1) * width };
        let rows = output.into_par_iter().enumerate().rev().with_min_len(PART.div_ceil(width));
        threads::for_each(rows, |(row, output)| {
            threads::for_each(output.par_chunks_mut(piece).enumerate().rev(), |(i, output)| {
                let start = self.start(row) + i * piece;
                let inputs = inputs.map(|input| &input[start..start + output.len()]);
                view.map(inputs, output, &f);
            });
        });
    }
}

impl Part<'_> {
    /// How many values of each channel it holds.
    pub(super) fn m(&self) -> usize {
        self.rows.len() * self.values.len()
    }

    /// About an eighth of it.
    pub(super) fn eighth(&self) -> Self {
        let first = |range: &Range<usize>| range.start..range.start + range.len().div_ceil(8);
        if self.rows.len() > 1 {
            Self { rows: first(&self.rows), ..self.clone() }
        } else {
            Self { values: first(&self.values), ..self.clone() }
        }
    }

    /// For each channel the sums of `term(parameters of the channel, values of the inputs at one place)`.
    pub(super) fn sums<T: Lane, const Q: usize, const J: usize, const K: usize>(
        &self,
        parameters: [&[f64]; Q],
        inputs: [&[T]; J],
        term: &impl Fn([f64; Q], [f64; J]) -> [f64; K],
    ) -> Vec<[f64; K]> {
        let View { c, s, .. } = self.group.view;
        let places = (self.group.start(self.rows.start)..self.group.start(self.rows.end)).step_by(c * s);
        Rows::new(self.group.channels.len(), s, parameters).sums(inputs, places, self.values.clone(), term)
    }
}

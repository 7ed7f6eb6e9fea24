//! The formulas of one channel over the values of a piece of memory.
//!
//! In plain loops:
//!
//! ```text
//! for column in columns: for row in rows: for vector in vectors: for lane in 0..LANES:
//!     at = column * column_step + row * row_step + vector * LANES + lane
//!     sums[column] += term(parameters[column], x[at])             // or output[at] = f(parameters[column], x[at])
//! ```
//!
//! 1. [`LANES`] values are taken at a time, and each lane sums its own. The lanes are the same everywhere, and so are the bits.
//! 2. A column holds the values of one channel, some vectors of each row ([`Parameters::Splat`]); or [`LANES`] channels side by side, a
//!    vector of each row ([`Parameters::PerLane`]). The vector before the next column's first may reach into it: sums leave out what is
//!    not theirs, maps go upwards and write it again.
//! 3. Elements become values in registers, and results elements ([`Convert`]).
//! 4. Up to eight vectors are added in the type of the values, by pairs, before the sum joins the others in f64. In f32 that is three
//!    roundings, of 24 digits, where a half type has eight or eleven.
//! 5. Each vector that is loaded or stored asks for memory some way ahead of it, which is then there in time.
#![allow(unsafe_code)]
#![expect(clippy::needless_range_loop, reason = "loops over terms: what is indexed is several arrays side by side")]

use core::ops::Add;

use fearless_simd::Simd;

use super::convert::Convert;
use super::grid::{Grid, Line, Parameters};
use super::level::Width;
use super::stream::{AHEAD, ahead, ahead_of_stores};
use super::vector::{LANES, PerLane, Real, Vector, Wide};

/// The vectors of some inputs that begin at an index. Asks for what lies some bytes behind them.
///
/// # Safety
/// Each input has [`LANES`] values from there on.
#[inline(always)]
unsafe fn load<S: Simd, T: Convert<R>, R: Real, const J: usize>(
    simd: S,
    inputs: [&[T]; J],
    at: usize,
    bytes_ahead: usize,
) -> [R::Vector<S>; J] {
    let mut vectors = [Vector::splat(simd, 0.0); J];
    for j in 0..J {
        debug_assert!(at + LANES <= inputs[j].len());
        ahead(inputs[j].as_ptr().wrapping_add(at), bytes_ahead);
        // SAFETY: the caller's; an array is aligned as its elements.
        vectors[j] = T::load(simd, unsafe { &*inputs[j].as_ptr().add(at).cast() });
    }
    vectors
}

/// [`load`] with zeros behind the last value of an input.
#[inline(always)]
fn load_last<S: Simd, T: Convert<R>, R: Real, const J: usize>(
    simd: S,
    inputs: [&[T]; J],
    at: usize,
) -> [R::Vector<S>; J] {
    let mut vectors = [Vector::splat(simd, 0.0); J];
    for j in 0..J {
        let rest = inputs[j].get(at..).unwrap_or_default();
        let count = rest.len().min(LANES);
        let mut elements = [T::default(); LANES];
        elements[..count].copy_from_slice(&rest[..count]);
        vectors[j] = T::load(simd, &elements);
    }
    vectors
}

#[inline(always)]
fn add<V: Copy + Add<Output = V>, const K: usize>(mut a: [V; K], b: [V; K]) -> [V; K] {
    for k in 0..K {
        a[k] = a[k] + b[k];
    }
    a
}

/// Adds the terms of every column.
#[inline(always)]
pub(super) fn sum<S: Simd, T: Convert<R>, R: Real, const Q: usize, const J: usize, const K: usize>(
    simd: S,
    grid: Grid,
    parameters: Parameters<'_, Q, R>,
    inputs: [&[T]; J],
    sums: &mut [[PerLane<f64>; K]],
    terms: impl Fn(&[R::Vector<S>; Q], [R::Vector<S>; J]) -> [R::Vector<S>; K],
) {
    let Grid { columns, rows, row_step, .. } = grid;
    let end = grid.end();
    let is_inside = inputs.iter().all(|input| end.is_some_and(|end| end <= input.len()));
    let (lines, line) = grid.lines(&parameters);
    // Down rows of one vector the next rows, else what follows.
    let bytes_ahead = match parameters {
        Parameters::PerLane(_) if rows > 1 => rows * row_step * size_of::<T>(),
        _ => AHEAD,
    };
    for (column, sums) in sums[..columns].iter_mut().enumerate() {
        let of_column = parameters.of_column(simd, column);
        let mut of_piece = [Wide::splat(simd, 0.0); K];
        macro_rules! add_line {
            ($line:expr, $bytes_ahead:expr) => {
                // SAFETY: all vectors of the grid are within the inputs.
                of_piece = unsafe { add_line(simd, $line, $bytes_ahead, &of_column, inputs, of_piece, &terms) }
            };
        }
        if !is_inside {
            of_piece = sums_to_the_end(simd, grid, column, &of_column, inputs, &terms);
        } else if Width::<S>::IS_RARE {
            for row in 0..lines {
                add_line!(Line { start: grid.at(column, row), ..line }, bytes_ahead);
            }
        } else {
            // A step and lanes that are known take no registers.
            match parameters {
                Parameters::Splat(_) => {
                    for row in 0..rows {
                        add_line!(Line { start: grid.at(column, row), step: LANES, ..line }, AHEAD);
                    }
                }
                Parameters::PerLane(_) => {
                    add_line!(Line { start: grid.at(column, 0), last_lanes: LANES, ..line }, bytes_ahead);
                }
            }
        }
        for k in 0..K {
            (Wide::load(simd, &sums[k]) + of_piece[k]).store(&mut sums[k]);
        }
    }
}

/// Adds the terms of a line to sums.
///
/// # Safety
/// All of its vectors are within the inputs.
#[inline(always)]
unsafe fn add_line<S: Simd, T: Convert<R>, R: Real, const Q: usize, const J: usize, const K: usize>(
    simd: S,
    Line { start, vectors, step, last_lanes }: Line,
    bytes_ahead: usize,
    parameters: &[R::Vector<S>; Q],
    inputs: [&[T]; J],
    mut sums: [Wide<S>; K],
    terms: &impl Fn(&[R::Vector<S>; Q], [R::Vector<S>; J]) -> [R::Vector<S>; K],
) -> [Wide<S>; K] {
    // No closure: one that is not inlined would be called for vectors in memory. And no checks for overflow, which would be most of what
    // is compiled for tests.
    macro_rules! one {
        ($vector:expr) => {
            // SAFETY: the caller's.
            terms(parameters, unsafe {
                load(simd, inputs, start.wrapping_add(step.wrapping_mul($vector)), bytes_ahead)
            })
        };
    }
    macro_rules! two {
        ($vector:expr) => {
            add(one!($vector), one!($vector.wrapping_add(1)))
        };
    }
    let whole = if last_lanes == LANES { vectors } else { vectors - 1 };
    let mut vector = 0;
    while vector + 8 <= whole {
        let low = add(two!(vector), two!(vector.wrapping_add(2)));
        let high = add(two!(vector.wrapping_add(4)), two!(vector.wrapping_add(6)));
        sums = add_wide(sums, add(low, high));
        vector += 8;
    }
    if vector < vectors {
        let last = vectors - 1;
        let mut rest = one!(last);
        if last_lanes < LANES {
            for k in 0..K {
                rest[k] = rest[k].first_lanes(simd, last_lanes);
            }
        }
        // Up to seven before it, in powers of two: none is rounded more often than one of eight.
        let count = last - vector;
        if count & 1 != 0 {
            rest = add(rest, one!(vector));
            vector += 1;
        }
        if count & 2 != 0 {
            rest = add(rest, two!(vector));
            vector += 2;
        }
        if count & 4 != 0 {
            rest = add(rest, add(two!(vector), two!(vector.wrapping_add(2))));
        }
        sums = add_wide(sums, rest);
    }
    sums
}

/// The sums of a column that may end outside of the inputs.
#[inline(always)]
fn sums_to_the_end<S: Simd, T: Convert<R>, R: Real, const Q: usize, const J: usize, const K: usize>(
    simd: S,
    grid: Grid,
    column: usize,
    parameters: &[R::Vector<S>; Q],
    inputs: [&[T]; J],
    terms: &impl Fn(&[R::Vector<S>; Q], [R::Vector<S>; J]) -> [R::Vector<S>; K],
) -> [Wide<S>; K] {
    let mut sums = [Wide::splat(simd, 0.0); K];
    for row in 0..grid.rows {
        for vector in 0..grid.vectors {
            let mut one = terms(parameters, load_last(simd, inputs, grid.at(column, row) + vector * LANES));
            let lanes = if vector + 1 < grid.vectors { LANES } else { grid.last_lanes };
            for k in 0..K {
                one[k] = one[k].first_lanes(simd, lanes);
            }
            sums = add_wide(sums, one);
        }
    }
    sums
}

#[inline(always)]
fn add_wide<S: Simd, V: Vector<S>, const K: usize>(mut sums: [Wide<S>; K], more: [V; K]) -> [Wide<S>; K] {
    for k in 0..K {
        sums[k] = sums[k] + more[k].to_wide();
    }
    sums
}

/// Writes the values of every column, upwards, as far as there is room.
#[inline(always)]
pub(super) fn map<S: Simd, T: Convert<R>, R: Real, const Q: usize, const J: usize>(
    simd: S,
    grid: Grid,
    parameters: Parameters<'_, Q, R>,
    inputs: [&[T]; J],
    output: &mut [T],
    f: impl Fn(&[R::Vector<S>; Q], [R::Vector<S>; J]) -> R::Vector<S>,
) {
    let inside = inputs.iter().fold(output.len(), |len, input| len.min(input.len()));
    macro_rules! store {
        ($parameters:ident, $at:expr) => {{
            let at = $at;
            ahead_of_stores(output.as_ptr().wrapping_add(at));
            // SAFETY: the inputs and the output have as many values, as `whole` has seen.
            let (values, output) = unsafe { (load(simd, inputs, at, AHEAD), &mut *output.as_mut_ptr().add(at).cast()) };
            T::store(simd, f(&$parameters, values), output);
        }};
    }
    // In loops of its own: in that of whole vectors it would cost registers.
    macro_rules! store_last {
        ($parameters:expr, $at:expr) => {{
            let at = $at;
            let mut elements = [T::default(); LANES];
            T::store(simd, f(&$parameters, load_last(simd, inputs, at)), &mut elements);
            let rest = output.get_mut(at..).unwrap_or_default();
            let count = rest.len().min(LANES);
            rest[..count].copy_from_slice(&elements[..count]);
        }};
    }
    // The first of some vectors in steps that are within all of the inputs and the output.
    let whole = |first: usize, count: usize, step: usize| {
        let is_outside = |i: usize| first + i * step + LANES > inside;
        (0..count).rev().find(|&i| !is_outside(i)).map_or(0, |last| last + 1)
    };
    let Grid { columns, column_step, rows, row_step, .. } = grid;
    let (lines, Line { vectors, step, .. }) = grid.lines(&parameters);
    // Down a column its parameters are loaded once; but memory is gone through as it lies only where rows are narrow. Columns must not
    // share values then.
    let is_by_column = match parameters {
        Parameters::Splat(_) => true,
        Parameters::PerLane(_) => rows >= 8 && row_step == columns * column_step,
    };
    if !is_by_column {
        for row in 0..rows {
            let whole = whole(grid.at(0, row), columns, column_step);
            for column in 0..whole {
                let parameters = parameters.of_column(simd, column);
                store!(parameters, grid.at(column, row));
            }
            for column in whole..columns {
                store_last!(parameters.of_column(simd, column), grid.at(column, row));
            }
        }
        return;
    }
    for (row, column) in (0..lines).flat_map(|row| (0..columns).map(move |column| (row, column))) {
        let parameters = parameters.of_column(simd, column);
        let start = grid.at(column, row);
        let whole = whole(start, vectors, step);
        let mut vector = 0;
        while vector + 2 <= whole {
            store!(parameters, start + vector * step);
            store!(parameters, start + (vector + 1) * step);
            vector += 2;
        }
        if vector < whole {
            store!(parameters, start + vector * step);
        }
        for vector in whole..vectors {
            store_last!(parameters, start + vector * step);
        }
    }
}

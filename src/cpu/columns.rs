//! The formulas of one channel over the values of a piece of memory.
//!
//! In plain loops:
//!
//! ```text
//! for column in columns: for vector in vectors: for lane in 0..LANES:
//!     at = column * column_step + vector * vector_step + lane
//!     sums[column] += term(parameters[column], x[at])             // or output[at] = f(parameters[column], x[at])
//! ```
//!
//! 1. [`LANES`] values are taken at a time, and each lane sums its own. The lanes are the same everywhere, and so are the bits.
//! 2. A column holds the values of one channel, vector after vector ([`Parameters::Splat`]); or [`LANES`] channels side by side, row
//!    after row ([`Parameters::PerLane`]). The vector before the next column's first may reach into it: sums leave out what is not theirs,
//!    maps go upwards and write it again.
//! 3. Elements become values in registers, and results elements ([`Convert`]).
//! 4. Up to eight vectors are added in the type of the values, by pairs, before the sum joins the others in f64. In f32 that is three
//!    roundings, of 24 digits, where a half type has eight or eleven.
//! 5. Each vector that is loaded or stored asks for memory some way ahead of it, which is then there in time.
#![allow(unsafe_code)]
#![expect(clippy::needless_range_loop, reason = "loops over terms: what is indexed is several arrays side by side")]

use core::ops::Add;

use fearless_simd::Simd;

use super::convert::Convert;
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
        debug_assert!(at + LANES <= inputs[j].len(), "{at} of {}", inputs[j].len());
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

/// The places of the values that formulas take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) columns: usize,
    /// Values from the start of a column to that of the next.
    pub(super) column_step: usize,
    /// Vectors of a column, at least one.
    pub(super) vectors: usize,
    /// Values from the start of a vector to that of the next.
    pub(super) vector_step: usize,
    /// Lanes of a column's last vector that are its own.
    pub(super) last_lanes: usize,
}

impl Grid {
    /// The index behind the last vector, which no other is behind.
    fn end(&self) -> Option<usize> {
        let last = |count: usize, step: usize| count.checked_sub(1)?.checked_mul(step);
        let column = last(self.columns, self.column_step)?;
        column.checked_add(last(self.vectors, self.vector_step)?)?.checked_add(LANES)
    }

    /// The index of a vector.
    #[inline(always)]
    fn at(&self, column: usize, vector: usize) -> usize {
        column * self.column_step + vector * self.vector_step
    }
}

/// The values of a parameter for the columns of a piece.
#[derive(Clone, Copy)]
pub(super) enum Parameters<'a, const Q: usize, R> {
    /// One a column.
    Splat([&'a [R]; Q]),
    /// One a lane.
    PerLane([&'a [R]; Q]),
}

impl<const Q: usize, R: Real> Parameters<'_, Q, R> {
    #[inline(always)]
    fn of_column<S: Simd>(&self, simd: S, column: usize) -> [R::Vector<S>; Q] {
        let mut vectors = [Vector::splat(simd, 0.0); Q];
        for q in 0..Q {
            vectors[q] = match self {
                Self::Splat(of_columns) => Vector::splat(simd, of_columns[q][column].to_f64()),
                Self::PerLane(of_lanes) => Vector::load(simd, &of_lanes[q].as_chunks().0[column]),
            };
        }
        vectors
    }
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
    // Down a column of rows the next rows, across them what follows.
    let bytes_ahead = match parameters {
        Parameters::PerLane(_) if grid.vectors > 1 => grid.vectors * grid.vector_step * size_of::<T>(),
        _ => AHEAD,
    };
    // No closure: one that is not inlined would be called for vectors in memory.
    macro_rules! terms {
        ($parameters:ident, $column:ident, $vector:expr) => {
            // SAFETY: all vectors of the grid are within the inputs.
            terms(&$parameters, unsafe { load(simd, inputs, grid.at($column, $vector), bytes_ahead) })
        };
    }
    macro_rules! two {
        ($parameters:ident, $column:ident, $vector:expr) => {
            add(terms!($parameters, $column, $vector), terms!($parameters, $column, $vector + 1))
        };
    }
    let end = grid.end();
    let is_inside = inputs.iter().all(|input| end.is_some_and(|end| end <= input.len()));
    let whole = if grid.last_lanes == LANES { grid.vectors } else { grid.vectors - 1 };
    for (column, sums) in sums[..grid.columns].iter_mut().enumerate() {
        let parameters = parameters.of_column(simd, column);
        let mut of_piece = [Wide::splat(simd, 0.0); K];
        let mut vector = 0;
        while is_inside && vector + 8 <= whole {
            let low = add(two!(parameters, column, vector), two!(parameters, column, vector + 2));
            let high = add(two!(parameters, column, vector + 4), two!(parameters, column, vector + 6));
            of_piece = add_wide(of_piece, add(low, high));
            vector += 8;
        }
        if is_inside && vector < grid.vectors {
            let last = grid.vectors - 1;
            let mut rest = terms!(parameters, column, last);
            for k in 0..K {
                rest[k] = rest[k].first_lanes(simd, grid.last_lanes);
            }
            // Up to seven before it, in powers of two: none is rounded more often than one of eight.
            let count = last - vector;
            if count & 1 != 0 {
                rest = add(rest, terms!(parameters, column, vector));
                vector += 1;
            }
            if count & 2 != 0 {
                rest = add(rest, two!(parameters, column, vector));
                vector += 2;
            }
            if count & 4 != 0 {
                let four = add(two!(parameters, column, vector), two!(parameters, column, vector + 2));
                rest = add(rest, four);
            }
            of_piece = add_wide(of_piece, rest);
        }
        while !is_inside && vector < grid.vectors {
            let mut one = terms(&parameters, load_last(simd, inputs, grid.at(column, vector)));
            for k in 0..K {
                one[k] = one[k].first_lanes(simd, if vector < whole { LANES } else { grid.last_lanes });
            }
            of_piece = add_wide(of_piece, one);
            vector += 1;
        }
        for k in 0..K {
            (Wide::load(simd, &sums[k]) + of_piece[k]).store(&mut sums[k]);
        }
    }
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
    // Down a column its parameters are loaded once; but memory is gone through as it lies only where rows are narrow. Columns must not
    // share values then.
    let by_column = match parameters {
        Parameters::Splat(_) => true,
        Parameters::PerLane(_) => grid.vectors >= 8 && grid.vector_step == grid.columns * grid.column_step,
    };
    if by_column {
        for column in 0..grid.columns {
            let parameters = parameters.of_column(simd, column);
            let whole = whole(grid.at(column, 0), grid.vectors, grid.vector_step);
            let mut vector = 0;
            while vector + 2 <= whole {
                store!(parameters, grid.at(column, vector));
                store!(parameters, grid.at(column, vector + 1));
                vector += 2;
            }
            if vector < whole {
                store!(parameters, grid.at(column, vector));
            }
            for vector in whole..grid.vectors {
                store_last!(parameters, grid.at(column, vector));
            }
        }
        return;
    }
    for vector in 0..grid.vectors {
        let whole = whole(grid.at(0, vector), grid.columns, grid.column_step);
        for column in 0..whole {
            let parameters = parameters.of_column(simd, column);
            store!(parameters, grid.at(column, vector));
        }
        for column in whole..grid.columns {
            store_last!(parameters.of_column(simd, column), grid.at(column, vector));
        }
    }
}

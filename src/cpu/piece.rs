//! A piece of a tensor, the parameters of its columns, and where both lie in memory.

use core::ops::Range;

use super::convert::Convert;
use super::grid::{Grid, Parameters};
use super::tile::Tile;
use super::vector::{LANES, Real};

/// Some values of a tensor, as many as a tile has at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// The first in memory.
    pub(super) start: usize,
    /// Neighbours in memory.
    pub(super) run: usize,
    pub(super) runs: usize,
    /// Values from the start of a run to that of the next.
    pub(super) stride: usize,
    /// The grid of the values one run after the other.
    pub(super) grid: Grid,
    /// Its first column among those of the parameters.
    pub(super) column: usize,
    /// Its first column among those of the sums.
    pub(super) sums: usize,
}

impl Piece {
    /// Values that it has.
    pub(super) fn len(&self) -> usize {
        self.run * self.runs
    }

    /// A tensor's values from its first one on, with the grid of its own.
    #[inline]
    pub(super) fn of<'a, T>(&self, values: &'a [T]) -> &'a [T] {
        &values[self.start..]
    }

    /// The grid of its values in memory.
    #[inline]
    pub(super) fn grid(&self) -> Grid {
        Grid { row_step: if self.runs > 1 { self.stride } else { self.grid.row_step }, ..self.grid }
    }

    /// The grid of its values in a tile.
    #[inline]
    pub(super) fn grid_of_tile(&self) -> Grid {
        self.grid
    }

    /// Loads its values of an input.
    #[inline]
    pub(super) fn load<T: Convert<R>, R: Real>(&self, input: &[T], tile: &mut Tile<R>) {
        for (i, tile) in tile.0.chunks_mut(self.run).enumerate().take(self.runs) {
            let start = self.start + i * self.stride;
            T::widen(&input[start..start + self.run], &mut tile[..self.run]);
        }
    }

    /// Its place in memory, of a piece of a single run.
    pub(super) fn range(&self) -> Range<usize> {
        self.start..self.start + self.run
    }
}

/// Parameters of all columns.
pub(super) struct Table<const Q: usize, R> {
    /// Whether a column has one value of each, or one a lane.
    are_splat: bool,
    /// One parameter after the other.
    values: Vec<R>,
    len: usize,
}

impl<const Q: usize, R> Table<Q, R> {
    /// A table of values that are `len` of each parameter.
    pub(super) fn new(are_splat: bool, values: Vec<R>, len: usize) -> Self {
        Self { are_splat, values, len }
    }

    /// The parameters of a piece's columns.
    #[inline]
    pub(super) fn of(&self, piece: &Piece) -> Parameters<'_, Q, R> {
        let from = |step: usize| {
            core::array::from_fn(|q| &self.values[q * self.len + piece.column * step..(q + 1) * self.len])
        };
        if self.are_splat { Parameters::Splat(from(1)) } else { Parameters::PerLane(from(LANES)) }
    }
}

//! The places of values in rows and columns, and the parameters of the columns.

use fearless_simd::Simd;

use super::vector::{LANES, Real, Vector};

/// The places of the values that formulas take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) columns: usize,
    /// Values from the start of a column to that of the next.
    pub(super) column_step: usize,
    /// Rows, at least one.
    pub(super) rows: usize,
    /// Values from the start of a row to that of the next.
    pub(super) row_step: usize,
    /// Vectors side by side that a column has of a row: one where a column is channels side by side.
    pub(super) vectors: usize,
    /// Lanes of a row's last vector that are the column's own.
    pub(super) last_lanes: usize,
}

impl Grid {
    /// The index behind the last vector, which no other is behind. `None` where there is no vector, or no such index.
    pub(super) fn end(&self) -> Option<usize> {
        let last = |count: usize, step: usize| count.checked_sub(1)?.checked_mul(step);
        let row = last(self.columns, self.column_step)?.checked_add(last(self.rows, self.row_step)?)?;
        row.checked_add(last(self.vectors, LANES)?)?.checked_add(LANES)
    }

    /// The index of the first value that a column has of a row.
    #[inline(always)]
    pub(super) fn at(&self, column: usize, row: usize) -> usize {
        column * self.column_step + row * self.row_step
    }

    /// The lines of a column, and the first one of the first column: one a row, or one down all rows.
    #[inline(always)]
    pub(super) fn lines<const Q: usize, R>(&self, parameters: &Parameters<'_, Q, R>) -> (usize, Line) {
        let Self { rows, row_step, vectors, last_lanes, .. } = *self;
        match parameters {
            Parameters::Splat(_) => (rows, Line { start: 0, vectors, step: LANES, last_lanes }),
            Parameters::PerLane(_) => (1, Line { start: 0, vectors: rows, step: row_step, last_lanes: LANES }),
        }
    }
}

/// Vectors of a column at equal distances.
#[derive(Clone, Copy)]
pub(super) struct Line {
    pub(super) start: usize,
    pub(super) vectors: usize,
    pub(super) step: usize,
    /// Lanes of the last vector that are the column's own.
    pub(super) last_lanes: usize,
}

/// The values of a parameter for the columns of a piece.
#[derive(Clone, Copy)]
pub(super) enum Parameters<'a, const Q: usize, R> {
    /// One a column.
    Splat([&'a [R]; Q]),
    /// One a lane.
    PerLane([&'a [R]; Q]),
}

impl<'a, const Q: usize, R: Real> Parameters<'a, Q, R> {
    /// The first of the parameters.
    pub(super) fn first<const P: usize>(&self) -> Parameters<'a, P, R> {
        match self {
            Self::Splat(of_columns) => Parameters::Splat(core::array::from_fn(|q| of_columns[q])),
            Self::PerLane(of_lanes) => Parameters::PerLane(core::array::from_fn(|q| of_lanes[q])),
        }
    }

    #[inline(always)]
    pub(super) fn of_column<S: Simd>(&self, simd: S, column: usize) -> [R::Vector<S>; Q] {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_ends_behind_its_last_vector_or_nowhere() {
        let grid = Grid { columns: 3, column_step: 49, rows: 2, row_step: 500, vectors: 4, last_lanes: 1 };
        assert_eq!(grid.end(), Some(2 * 49 + 500 + 4 * LANES));
        let without = [Grid { columns: 0, ..grid }, Grid { rows: 0, ..grid }, Grid { vectors: 0, ..grid }];
        let too_large = [Grid { column_step: usize::MAX, ..grid }, Grid { vectors: usize::MAX / LANES + 1, ..grid }];
        assert!(without.into_iter().chain(too_large).all(|grid| grid.end().is_none()));
    }
}

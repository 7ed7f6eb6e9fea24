//! The way through rows of channels, tile by tile.
//!
//! ```text
//! for row in rows: for ch in channels: for i in values: … x[(row * c + ch) * s + i] …
//! ```
//!
//! 1. A plane of [`LANES`] values or more ([`Form::Planes`]): a piece is a part of it, or several planes, a column each; for sums of short
//!    ones, of several rows, since a sum of few values takes less time than adding it to the others.
//! 2. Shorter ones ([`Form::Pattern`]), as with channels last, where they are single values: a row is a pattern of channels, whose columns
//!    are vectors across them. A narrow row is taken several times, until the vectors are full; rows at the end that are too few for that
//!    are a pattern of their own.
//! 3. Nothing is kept for a row: a piece knows its place in memory.

use core::ops::Range;

use super::grid::Grid;
use super::level::by_level;
use super::piece::{Piece, Table};
use super::tile::TILE;
use super::vector::{LANES, PerLane, Real};
use crate::shape::RowView;

/// Positions of a wide pattern that are summed over some rows before the next ones: as few rows as are added before the sum joins
/// the others.
const SUM_STRIP: usize = TILE / 8;

/// Rows of planes that are summed before the sum joins the others, at most.
const ROWS_AT_ONCE: usize = 8;
/// Values of their planes of a channel, at most, where there are several.
const ROWS_ELEMS: usize = 512;

/// A range in steps.
pub(super) fn ranges(range: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(step).map(move |start| start..(start + step).min(range.end))
}

/// The purpose of pieces: sums, which go on in other rows, or maps, of single runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Sums,
    Maps,
}

/// How the channels of rows lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// In planes of vectors.
    Planes,
    /// In a pattern of this many rows.
    Pattern { rows: usize },
}

/// Some neighbouring channels of a tensor, in all of its rows.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    view: RowView,
    channels: Range<usize>,
    form: Form,
}

impl Walk {
    pub(super) fn new(view: RowView, channels: Range<usize>) -> Self {
        let width = channels.len() * view.s;
        // Lanes are full in a multiple of both.
        let rows = LANES >> width.trailing_zeros().min(LANES.trailing_zeros());
        let form = if view.s >= LANES {
            Form::Planes
        } else if channels.len() == view.c && rows * width <= TILE {
            Form::Pattern { rows }
        } else {
            Form::Pattern { rows: 1 }
        };
        Self { view, channels, form }
    }

    pub(super) fn channels(&self) -> Range<usize> {
        self.channels.clone()
    }

    pub(super) fn view(&self) -> RowView {
        self.view
    }

    /// Values of a row.
    fn width(&self) -> usize {
        self.channels.len() * self.view.s
    }

    /// The first value of a row.
    fn start(&self, row: usize) -> usize {
        (row * self.view.c + self.channels.start) * self.view.s
    }

    /// The first value of each channel.
    pub(super) fn first<T: Copy>(&self, values: &[T]) -> Vec<T> {
        let values = &values[self.start(0)..][..self.width()];
        if self.view.s == 1 { values.to_vec() } else { values.iter().step_by(self.view.s).copied().collect() }
    }

    /// Parameters, one of each for every channel, as columns have them.
    pub(super) fn table<const Q: usize, R: Real>(&self, of_channels: [&[f64]; Q]) -> Table<Q, R> {
        let len = match self.form {
            Form::Planes => self.channels.len(),
            Form::Pattern { rows } => (rows * self.width()).next_multiple_of(LANES),
        };
        let mut values = vec![R::ZERO; Q * len];
        for (values, of_channels) in values.chunks_mut(len).zip(of_channels) {
            match self.form {
                Form::Pattern { rows } if self.view.s > 1 || rows > 1 => {
                    let mut channels = values[..rows * self.width()].chunks_mut(self.view.s);
                    for _ in 0..rows {
                        for (of_channel, values) in of_channels.iter().zip(channels.by_ref()) {
                            values.fill(R::from_f64(*of_channel));
                        }
                    }
                }
                _ => by_level!(simd => {
                    let _ = simd;
                    values.iter_mut().zip(of_channels).for_each(|(value, channel)| *value = R::from_f64(*channel));
                }),
            }
        }
        Table::new(self.form == Form::Planes, values, len)
    }

    /// The pieces of some rows, and of these values of each plane (all of them with short ones), for sums.
    fn sum_pieces(&self, rows: Range<usize>, values: Range<usize>, of_piece: &mut dyn FnMut(&Piece)) {
        self.pieces(Purpose::Sums, rows, 0..self.channels.len(), values, of_piece);
    }

    /// The pieces for maps, of some channels (all of them with short planes): single runs, upwards.
    pub(super) fn map_pieces(
        &self,
        rows: Range<usize>,
        channels: Range<usize>,
        values: Range<usize>,
        of_piece: &mut dyn FnMut(&Piece),
    ) {
        self.pieces(Purpose::Maps, rows, channels, values, of_piece);
    }

    fn pieces(
        &self,
        purpose: Purpose,
        rows: Range<usize>,
        channels: Range<usize>,
        values: Range<usize>,
        of_piece: &mut dyn FnMut(&Piece),
    ) {
        let of_pattern = match self.form {
            Form::Planes => {
                let at_once = match purpose {
                    Purpose::Sums => (ROWS_ELEMS / self.view.s).clamp(1, ROWS_AT_ONCE),
                    Purpose::Maps => 1,
                };
                return ranges(rows, at_once)
                    .for_each(|rows| self.planes(rows, channels.clone(), values.clone(), of_piece));
            }
            Form::Pattern { rows } => rows,
        };
        let width = self.width();
        let whole = rows.len() / of_pattern * of_pattern;
        self.patterns(purpose, rows.start, [of_pattern * width, whole / of_pattern], 0, of_piece);
        let rest = rows.len() - whole;
        if rest > 0 {
            let sums = (of_pattern * width).div_ceil(LANES);
            self.patterns(purpose, rows.start + whole, [rest * width, 1], sums, of_piece);
        }
    }

    /// The pieces of some rows' planes.
    fn planes(
        &self,
        rows: Range<usize>,
        channels: Range<usize>,
        values: Range<usize>,
        of_piece: &mut dyn FnMut(&Piece),
    ) {
        let (s, len, start) = (self.view.s, values.len(), self.start(rows.start) + values.start);
        let (rows, stride) = (rows.len(), self.view.row_len());
        let piece = |start: usize, len: usize, channels: Range<usize>| {
            let (columns, run) = (channels.len(), (channels.len() - 1) * s + len);
            let (vectors, column) = (len.div_ceil(LANES), channels.start);
            let last_lanes = len - (vectors - 1) * LANES;
            let grid = Grid { columns, column_step: s, rows, row_step: run, vectors, last_lanes };
            Piece { start: start + channels.start * s, run, runs: rows, stride, grid, column, sums: column }
        };
        let at_once = if len == s { (TILE / s / rows).max(1) } else { 1 };
        for channels in ranges(channels, at_once) {
            if len <= TILE {
                of_piece(&piece(start, len, channels));
            } else {
                ranges(0..len, TILE)
                    .for_each(|part| of_piece(&piece(start + part.start, part.len(), channels.clone())));
            }
        }
    }

    /// The pieces of some repetitions of a pattern of these positions, from a row on.
    fn patterns(
        &self,
        purpose: Purpose,
        row: usize,
        [positions, repetitions]: [usize; 2],
        sums: usize,
        of_piece: &mut dyn FnMut(&Piece),
    ) {
        let stride = positions / self.width() * self.view.row_len();
        let strip = match purpose {
            Purpose::Sums => SUM_STRIP.min(positions),
            Purpose::Maps => TILE.min(positions),
        };
        for repetitions in ranges(0..repetitions, TILE / strip) {
            for positions_of_strip in ranges(0..positions, strip) {
                let (run, runs) = (positions_of_strip.len(), repetitions.len());
                let (columns, column) = (run.div_ceil(LANES), positions_of_strip.start / LANES);
                let [column_step, last_lanes] = [LANES; 2];
                let grid = Grid { columns, column_step, rows: runs, row_step: run, vectors: 1, last_lanes };
                let start = self.start(row) + repetitions.start * stride + positions_of_strip.start;
                let piece = Piece { start, run, runs, stride, grid, column, sums: sums + column };
                if run == stride {
                    of_piece(&Piece { run: run * runs, runs: 1, ..piece });
                } else if purpose == Purpose::Maps {
                    let grid = Grid { rows: 1, ..grid };
                    (0..runs).for_each(|i| of_piece(&Piece { start: start + i * stride, runs: 1, grid, ..piece }));
                } else {
                    of_piece(&piece);
                }
            }
        }
    }

    /// The sums of each channel over some rows and values, by a function that adds those of a piece.
    pub(super) fn sums<const K: usize>(
        &self,
        rows: Range<usize>,
        values: Range<usize>,
        mut of_piece: impl FnMut(&Piece, &mut [[PerLane<f64>; K]]),
    ) -> [Vec<f64>; K] {
        let (width, channels) = (self.width(), self.channels.len());
        let columns = match self.form {
            Form::Planes => channels,
            Form::Pattern { rows: of_pattern } => {
                (of_pattern * width).div_ceil(LANES) + (rows.len() % of_pattern * width).div_ceil(LANES)
            }
        };
        let mut sums = vec![[[0.0; LANES]; K]; columns];
        self.sum_pieces(rows.clone(), values, &mut |piece| of_piece(piece, &mut sums[piece.sums..]));
        self.of_channels(&sums, rows.len())
    }

    /// The sums of each channel out of those of each lane, over this number of rows.
    fn of_channels<const K: usize>(&self, sums: &[[PerLane<f64>; K]], rows: usize) -> [Vec<f64>; K] {
        let (width, channels) = (self.width(), self.channels.len());
        core::array::from_fn(|k| match self.form {
            Form::Planes => sums.iter().map(|of_channel| sum_of_lanes(of_channel[k])).collect(),
            Form::Pattern { rows: of_pattern } => {
                let mut of_channels = vec![0.0; channels];
                if width == channels && of_pattern == 1 {
                    let (columns, rest) = of_channels.as_chunks_mut::<LANES>();
                    columns.iter_mut().zip(sums).for_each(|(column, sums)| *column = sums[k]);
                    sums[columns.len()..].iter().for_each(|sums| rest.copy_from_slice(&sums[k][..rest.len()]));
                    return of_channels;
                }
                let mut add = |sums: &[[PerLane<f64>; K]], rows: usize| {
                    let mut lanes = sums.iter().flat_map(|of_column| of_column[k]);
                    for _ in 0..rows {
                        for of_channel in &mut of_channels {
                            *of_channel += lanes.by_ref().take(self.view.s).sum::<f64>();
                        }
                    }
                };
                let whole = (of_pattern * width).div_ceil(LANES);
                add(&sums[..whole], of_pattern);
                add(&sums[whole..], rows % of_pattern);
                of_channels
            }
        })
    }
}

/// The sum over the lanes, by halves.
fn sum_of_lanes(mut lanes: PerLane<f64>) -> f64 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::super::formulas;
    use super::super::tile::Tile;
    use super::*;

    /// Sums and maps over parts of tensors of every form against the naive loop.
    #[test]
    fn every_value_is_taken_once_with_its_channel() {
        let shapes = [[1, 1, 15], [3, 1, 7], [5, 3, 1], [33, 3, 5], [7, 17, 1], [70, 33, 1], [3, 200, 3], [130, 64, 1]]
            .into_iter()
            .chain([
                [3, 5, 16],
                [2, 7, 49],
                [2, 3, 513],
                [1, 2, 1100],
                [2, 2000, 1],
                [300, 4, 1],
                [67, 16, 2],
                [19, 5, 49],
            ]);
        for [rows, c, s] in shapes {
            let view = RowView { rows, c, s };
            let x: Vec<f64> = (0..rows * c * s).map(|i| (i * 7919 % 1009) as f64).collect();
            for channels in [0..c, c / 3..c, c / 3..c / 3 + 1] {
                let walk = Walk::new(view, channels.clone());
                for (rows, values) in
                    [(0..rows, 0..s), (rows / 3..rows, 0..s), (0..rows.div_ceil(8), 0..s), (0..rows, 0..s.div_ceil(2))]
                {
                    if s < LANES && values.len() != s {
                        continue;
                    }
                    let of_channels: Vec<f64> = channels.clone().map(|ch| ch as f64).collect();
                    let table = walk.table::<1, f64>([&of_channels]);
                    let [sums, _] = walk.sums(rows.clone(), values.clone(), |piece, sums| {
                        formulas::sum_squares(piece.grid(), table.of(piece), piece.of(&x), sums);
                    });
                    let mut tile = Tile::<f64>::new();
                    let [sums_of_tiles, _] = walk.sums(rows.clone(), values.clone(), |piece, sums| {
                        piece.load(&x, &mut tile);
                        formulas::sum_squares(piece.grid_of_tile(), table.of(piece), &tile.0[..piece.len()], sums);
                    });
                    let mut got = vec![-1.0; x.len()];
                    let ones = vec![1.0; channels.len()];
                    let scales = walk.table::<3, f64>([&ones, &of_channels, &ones]);
                    // In two parts, where there are planes.
                    let middle = if s < LANES { 0 } else { channels.len() / 2 };
                    for part in [0..middle, middle..channels.len()].into_iter().filter(|part| !part.is_empty()) {
                        walk.map_pieces(rows.clone(), part, values.clone(), &mut |piece| {
                            let (x, dx) = (piece.of(&x), &mut got[piece.range()]);
                            formulas::scale(piece.grid(), scales.of(piece), None, [x, x], dx);
                        });
                    }
                    let (mut want_sums, mut want) = (vec![0.0; channels.len()], vec![-1.0; x.len()]);
                    for row in rows.clone() {
                        for ch in channels.clone() {
                            for i in values.clone() {
                                let at = (row * c + ch) * s + i;
                                want_sums[ch - channels.start] += x[at] - ch as f64;
                                want[at] = x[at] * ch as f64;
                            }
                        }
                    }
                    let what = format!("{view:?} {channels:?} {rows:?} {values:?}");
                    assert_eq!(sums, want_sums, "{what}");
                    assert_eq!(sums_of_tiles, want_sums, "{what}");
                    assert!(got == want, "{what}");
                }
            }
        }
    }
}

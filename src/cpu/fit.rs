//! The channels whose formulas suffice in the usual type, and those that are computed in f64. A channel's values and coefficients change no
//! bit of another: what does not suffice for one is done again for it, and for no other.

use core::ops::RangeInclusive;

use super::convert::SimdElement;
use super::grid::Parameters;
use super::output::Output;
use super::per_channel::{any, update};
use super::piece::Piece;
use super::sweep::Block;
use super::tile::{TILE, Tiles};
use super::vector::{LANES, Real, is_f64};

/// Values of each channel, and the range that their magnitudes are to be in, unless they are 0, infinite or NaN, which they are in every
/// type.
pub(super) type Condition<'a> = (&'a [f64], RangeInclusive<f64>);

/// The channels of a block whose formulas lose nothing in the usual type but digits behind its last.
pub(super) enum Fit {
    All,
    None,
    /// 0 for these, 1 for the others.
    Some(Vec<f64>),
}

impl Fit {
    /// The channels for which all conditions hold; all of them where the usual type is f64.
    pub(super) fn of<R: Real>(conditions: &[Condition<'_>]) -> Self {
        Self::All.and::<R>(conditions)
    }

    /// Those of them for which these conditions hold too.
    pub(super) fn and<R: Real>(&self, conditions: &[Condition<'_>]) -> Self {
        let holds = |(values, range): &Condition<'_>| {
            let is_beyond = is_beyond(range);
            !any([values], move |[value]| is_beyond(value))
        };
        let mut misfits = match self {
            _ if is_f64::<R>() => return Self::All,
            Self::All if conditions.iter().all(holds) => return Self::All,
            Self::All => vec![0.0; conditions.first().map_or(0, |(values, _)| values.len())],
            Self::None => return Self::None,
            Self::Some(misfits) => misfits.clone(),
        };
        for (values, range) in conditions {
            let is_beyond = is_beyond(range);
            update([&mut misfits], [values], move |[misfit], [value]| [if is_beyond(value) { 1.0 } else { misfit }]);
        }
        if misfits.contains(&0.0) { Self::Some(misfits) } else { Self::None }
    }

    /// The sums of each channel in the type that suffices for it. Those in the usual one may show that they have lost what counts.
    pub(super) fn sums<R: Real, const K: usize>(
        &self,
        usual: impl FnOnce() -> [Vec<f64>; K],
        in_f64: impl FnOnce() -> [Vec<f64>; K],
        has_lost: impl Fn([f64; K]) -> bool + Copy,
    ) -> [Vec<f64>; K] {
        if matches!(self, Self::None) {
            return in_f64();
        }
        let mut sums = usual();
        if is_f64::<R>() {
            return sums;
        }
        if let Self::Some(misfits) = self {
            for sums in &mut sums {
                update([sums], [misfits], |[sum], [misfit]| [if misfit == 0.0 { sum } else { f64::NAN }]);
            }
        }
        mend(&mut sums, has_lost, in_f64);
        sums
    }

    /// Writes an output by the formula in the type that suffices for a channel, and calls `written` for each piece.
    pub(super) fn map<T: SimdElement, F, G>(
        &self,
        block: &Block,
        output: &Output<'_, T>,
        usual: impl FnOnce() -> F,
        in_f64: impl FnOnce() -> G,
        written: impl Fn(&Piece, &[T]) + Sync + Send,
    ) where
        F: Fn(&Piece, &mut Tiles<T::Usual>, &mut [T]) + Sync + Send,
        G: Fn(&Piece, &mut Tiles<f64>, &mut [T]) + Sync + Send,
    {
        match self {
            Self::All => {
                let usual = usual();
                block.map(output, |piece, tiles, values| {
                    usual(piece, tiles, values);
                    written(piece, values);
                });
            }
            Self::None => {
                let in_f64 = in_f64();
                block.map(output, |piece, tiles, values| {
                    in_f64(piece, tiles, values);
                    written(piece, values);
                });
            }
            Self::Some(misfits) => {
                let (usual, in_f64, misfits) = (usual(), in_f64(), block.table::<1, f64>([misfits]));
                block.map(output, |piece, tiles, values| {
                    usual(piece, tiles, values);
                    let mut others = [T::default(); TILE];
                    let others = &mut others[..values.len()];
                    in_f64(piece, &mut Tiles::default(), others);
                    replace(piece, misfits.of(piece), others, values);
                    written(piece, values);
                });
            }
        }
    }
}

/// Whether a magnitude is outside of a range, as a [`Condition`] has it.
fn is_beyond(range: &RangeInclusive<f64>) -> impl Fn(f64) -> bool + Copy + use<> {
    let (start, end) = (*range.start(), *range.end());
    move |value: f64| {
        let magnitude = value.abs();
        let is_small = (magnitude < start) & (magnitude > 0.0);
        let is_large = (magnitude > end) & (magnitude < f64::INFINITY);
        is_small | is_large
    }
}

/// Replaces the values of those channels whose parameter is not 0.
fn replace<T: Copy>(piece: &Piece, parameters: Parameters<'_, 1, f64>, from: &[T], to: &mut [T]) {
    let grid = piece.grid();
    for (row, column) in (0..grid.rows).flat_map(|row| (0..grid.columns).map(move |column| (row, column))) {
        let start = grid.at(column, row);
        match parameters {
            Parameters::Splat([of_columns]) => {
                if of_columns[column] != 0.0 {
                    let values = start..start + (grid.vectors - 1) * LANES + grid.last_lanes;
                    to[values.clone()].copy_from_slice(&from[values]);
                }
            }
            Parameters::PerLane([of_lanes]) => {
                let of_lanes = &of_lanes[column * LANES..][..LANES];
                for ((to, from), of_lane) in to[start..].iter_mut().zip(&from[start..]).zip(of_lanes) {
                    if *of_lane != 0.0 {
                        *to = *from;
                    }
                }
            }
        }
    }
}

/// Takes the sums of the channels that have lost in f32 what counts from those in f64, and no others.
pub(super) fn mend<const K: usize>(
    sums: &mut [Vec<f64>; K],
    has_lost: impl Fn([f64; K]) -> bool + Copy,
    in_f64: impl FnOnce() -> [Vec<f64>; K],
) {
    if !any(sums.each_ref().map(Vec::as_slice), has_lost) {
        return;
    }
    let in_f64 = in_f64();
    update(sums.each_mut().map(Vec::as_mut_slice), in_f64.each_ref().map(Vec::as_slice), move |sums, in_f64| {
        if has_lost(sums) { in_f64 } else { sums }
    });
}

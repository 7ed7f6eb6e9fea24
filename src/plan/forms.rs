//! How a tensor is seen as rows, and which forms of ownership suit it.

use super::Plan;
use crate::{Dtype, Layout, Problem};

/// Who owns which element of a strip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// A 16-byte vector lies inside one channel.
    Rows,
    /// A thread owns one column of 16-byte vectors.
    Columns,
    /// As rows, element by element.
    ScalarRows,
    /// As columns, element by element.
    ScalarColumns,
}

/// Bytes of a vector.
const VECTOR_BYTES: u32 = 16;
/// Rows shorter than this go to the columns form, where neighbouring channels make up longer ones. Not measured: four
/// sectors of 32 bytes, what one request of a warp can fetch at full speed.
const MIN_ROW_BYTES: usize = 128;
impl Form {
    pub(super) fn vector_len(self, dtype: Dtype) -> u32 {
        match self {
            Self::Rows | Self::Columns => VECTOR_BYTES / dtype.bytes(),
            Self::ScalarRows | Self::ScalarColumns => 1,
        }
    }

    pub(super) fn is_columns(self) -> bool {
        matches!(self, Self::Columns | Self::ScalarColumns)
    }
}

/// A tensor as rows: `rows` of them, each with `c` channels of `span` elements side by side.
#[derive(Clone, Copy)]
pub(super) struct View {
    pub(super) rows: usize,
    pub(super) c: usize,
    pub(super) span: usize,
}

impl View {
    pub(super) fn new(problem: &Problem) -> Self {
        let shape = problem.shape();
        match shape.layout() {
            _ if shape.c() == 1 => Self { rows: 1, c: 1, span: shape.m() },
            Layout::ChannelsFirst => Self { rows: shape.n(), c: shape.c(), span: shape.s() },
            Layout::ChannelsLast => Self { rows: shape.m(), c: shape.c(), span: 1 },
        }
    }

    pub(super) fn row_len(self) -> usize {
        self.c * self.span
    }
}

/// The forms that suit: vectors where all data is aligned and rows are whole vectors, else element by element.
pub(super) fn forms(problem: &Problem, view: View) -> Vec<Form> {
    let bytes = problem.dtype().bytes() as usize;
    let vector = VECTOR_BYTES as usize / bytes;
    let aligned = problem.alignment() >= VECTOR_BYTES as usize && view.row_len().is_multiple_of(vector);
    let long_rows = view.span * bytes >= MIN_ROW_BYTES;
    let columns_fit = |vector| unit_width(view, vector) <= Plan::MAX_THREADS as usize;
    if aligned && view.span.is_multiple_of(vector) && long_rows {
        vec![Form::Rows]
    } else if aligned && columns_fit(vector) {
        vec![Form::Columns]
    } else if columns_fit(1) && !long_rows {
        vec![Form::ScalarColumns]
    } else {
        vec![Form::ScalarRows]
    }
}

/// The vectors of the fewest channels that make up whole ones.
fn unit_width(view: View, vector: usize) -> usize {
    view.span / gcd(view.span, vector)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Widths of a strip, narrowest first: in the columns forms those that double from one sector to the whole CTA.
pub(super) fn widths(form: Form, dtype: Dtype, view: View) -> Vec<usize> {
    let vector = form.vector_len(dtype) as usize;
    if !form.is_columns() {
        return vec![view.span / vector];
    }
    let (unit, row) = (unit_width(view, vector), view.row_len() / vector);
    let doubled = core::iter::successors(Some(unit), |width| Some(width * 2));
    let mut widths: Vec<_> = doubled.take_while(|&w| w < row && w <= Plan::MAX_THREADS as usize).collect();
    if row <= Plan::MAX_THREADS as usize {
        widths.push(row);
    }
    widths
}

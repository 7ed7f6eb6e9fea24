//! The access patterns, and the one that suits a tensor.

use super::kernels::MAX_THREADS;
use crate::{Dtype, Layout, Problem};

/// The access pattern: which thread owns which element of a channel tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// A 16-byte vector lies inside one channel; neighbouring threads own neighbouring vectors.
    Contiguous,
    /// A thread owns one column of 16-byte vectors.
    Strided,
    /// [`Access::Contiguous`] element by element.
    ScalarContiguous,
    /// [`Access::Strided`] element by element.
    ScalarStrided,
}

/// Bytes of a vector.
const VECTOR_BYTES: u32 = 16;
/// Bytes of a row below which access is strided, where neighbouring channels make up longer rows. Not measured: four sectors
/// of 32 bytes, which one request of a warp fetches at full speed.
const MIN_ROW_BYTES: usize = 128;

impl Access {
    /// The access pattern that suits a tensor: vectors where all data is aligned and rows are whole vectors, else elements.
    pub(super) fn of(problem: &Problem, view: RowView) -> Self {
        let bytes = problem.dtype().bytes() as usize;
        let vector = VECTOR_BYTES as usize / bytes;
        let aligned = problem.alignment() >= VECTOR_BYTES as usize && view.row_len().is_multiple_of(vector);
        let long_rows = view.inner * bytes >= MIN_ROW_BYTES;
        let columns_fit = |vector| unit_width(view, vector) <= MAX_THREADS as usize;
        if aligned && view.inner.is_multiple_of(vector) && long_rows {
            Self::Contiguous
        } else if aligned && columns_fit(vector) {
            Self::Strided
        } else if columns_fit(1) && !long_rows {
            Self::ScalarStrided
        } else {
            Self::ScalarContiguous
        }
    }

    /// Elements of a vector.
    pub(super) fn vector_len(self, dtype: Dtype) -> u32 {
        match self {
            Self::Contiguous | Self::Strided => VECTOR_BYTES / dtype.bytes(),
            Self::ScalarContiguous | Self::ScalarStrided => 1,
        }
    }

    pub(super) fn is_strided(self) -> bool {
        match self {
            Self::Strided | Self::ScalarStrided => true,
            Self::Contiguous | Self::ScalarContiguous => false,
        }
    }

    /// Widths of a tile in vectors, narrowest first: with strided access those that double from one sector to the whole CTA.
    pub(super) fn widths(self, dtype: Dtype, view: RowView) -> Vec<usize> {
        let vector = self.vector_len(dtype) as usize;
        if !self.is_strided() {
            return vec![view.inner / vector];
        }
        let (unit, row) = (unit_width(view, vector), view.row_len() / vector);
        let doubled = core::iter::successors(Some(unit), |width| Some(width * 2));
        let mut widths: Vec<_> = doubled.take_while(|&w| w < row && w <= MAX_THREADS as usize).collect();
        if row <= MAX_THREADS as usize {
            widths.push(row);
        }
        widths
    }
}

/// A tensor as rows: `rows` of them, each with `c` channels of `inner` elements side by side.
#[derive(Clone, Copy)]
pub(super) struct RowView {
    pub(super) rows: usize,
    pub(super) c: usize,
    pub(super) inner: usize,
}

impl RowView {
    pub(super) fn new(problem: &Problem) -> Self {
        let shape = problem.shape();
        match shape.layout() {
            _ if shape.c() == 1 => Self { rows: 1, c: 1, inner: shape.m() },
            Layout::ChannelsFirst => Self { rows: shape.n(), c: shape.c(), inner: shape.s() },
            Layout::ChannelsLast => Self { rows: shape.m(), c: shape.c(), inner: 1 },
        }
    }

    pub(super) fn row_len(self) -> usize {
        self.c * self.inner
    }
}

/// The width of the narrowest tile in vectors: the fewest channels that make up whole vectors.
fn unit_width(view: RowView, vector: usize) -> usize {
    view.inner / gcd(view.inner, vector)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

//! The access patterns, and the one that suits a tensor.

use super::kernels::{MAX_THREADS, VECTOR_BYTES};
use crate::element::Dtype;
use crate::op::Problem;
use crate::shape::RowView;

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

/// Bytes of a row below which access is strided, where neighbouring channels make up longer rows. Not measured: four sectors
/// of 32 bytes, which one request of a warp fetches at full speed.
const MIN_ROW_BYTES: usize = 128;

impl Access {
    /// The name in JSON, of the command line and of plan tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Contiguous => "contiguous",
            Self::Strided => "strided",
            Self::ScalarContiguous => "scalar-contiguous",
            Self::ScalarStrided => "scalar-strided",
        }
    }

    /// The access pattern that suits a tensor: vectors where all data is aligned and rows are whole vectors, else elements.
    pub(super) fn of(problem: &Problem, view: RowView) -> Self {
        let bytes = problem.dtype().bytes() as usize;
        let vector = VECTOR_BYTES as usize / bytes;
        let aligned = problem.alignment() >= VECTOR_BYTES as usize && view.row_len().is_multiple_of(vector);
        let long_rows = view.s * bytes >= MIN_ROW_BYTES;
        let columns_fit = |vector| unit_width(view, vector) <= MAX_THREADS as usize;
        if aligned && view.s.is_multiple_of(vector) && long_rows {
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
            return vec![view.s / vector];
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

/// The width of the narrowest tile in vectors: the fewest channels that make up whole vectors.
fn unit_width(view: RowView, vector: usize) -> usize {
    view.s / gcd(view.s, vector)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

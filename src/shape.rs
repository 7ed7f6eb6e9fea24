//! Tensor shapes: every tensor is seen as `(n, c, s)`, batch, channels and the product of the spatial sizes.

use core::fmt;

use crate::error::{Error, Result};

/// The position of the channels among the dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `N, C, S…`: `nc`, `ncl`, `nchw`, `ncdhw`.
    ChannelsFirst,
    /// `N, S…, C`: `nc`, `nlc`, `nhwc`, `ndhwc`.
    ChannelsLast,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ChannelsFirst => "channels-first",
            Self::ChannelsLast => "channels-last",
        })
    }
}

/// The dimensions of a contiguous (row-major) tensor of 2 to 5 dimensions, with its layout.
///
/// A tensor of two dimensions is both layouts at once and is kept as channels-first.
///
/// ```
/// use batchnorm::{Layout, Shape};
///
/// let shape = Shape::new(&[32, 64, 56, 56], Layout::ChannelsFirst)?;
/// assert_eq!((shape.n(), shape.c(), shape.s()), (32, 64, 56 * 56));
/// assert_eq!(shape.m(), 32 * 56 * 56); // values per channel
/// # Ok::<(), batchnorm::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; Self::MAX_RANK],
    rank: usize,
    layout: Layout,
}

impl Shape {
    const MAX_RANK: usize = 5;
    /// The most values a tensor may hold: f64 is the widest dtype, and an allocation ends at `isize::MAX` bytes.
    const MAX_LEN: usize = isize::MAX as usize / size_of::<f64>();

    /// The shape of a contiguous tensor with these dimensions, outermost first.
    ///
    /// # Errors
    /// [`Error::Rank`] outside 2 to 5 dimensions, [`Error::ZeroChannels`], and [`Error::SizeOverflow`] where the
    /// product of the dimensions, zeros left out, passes `isize::MAX` bytes of f64.
    pub fn new(dims: &[usize], layout: Layout) -> Result<Self> {
        let rank = dims.len();
        if !(2..=Self::MAX_RANK).contains(&rank) {
            return Err(Error::Rank { dims: dims.to_vec() });
        }
        let layout = if rank == 2 { Layout::ChannelsFirst } else { layout };
        let mut shape = Self { dims: [1; Self::MAX_RANK], rank, layout };
        shape.dims[..rank].copy_from_slice(dims);
        if shape.c() == 0 {
            return Err(Error::ZeroChannels { dims: dims.to_vec() });
        }
        // Zeros are left out: n, c, s and m must be computable even where the tensor is empty.
        dims.iter()
            .filter(|&&d| d != 0)
            .try_fold(1usize, |len, &d| len.checked_mul(d))
            .filter(|&len| len <= Self::MAX_LEN)
            .ok_or_else(|| Error::SizeOverflow { dims: dims.to_vec(), limit: Self::MAX_LEN })?;
        Ok(shape)
    }

    /// `[n, c]`, as a dense layer gives.
    ///
    /// # Errors
    /// As [`Shape::new`].
    pub fn nc(n: usize, c: usize) -> Result<Self> {
        Self::new(&[n, c], Layout::ChannelsFirst)
    }

    /// `[n, c, h, w]`, channels-first, as PyTorch's convolutions give.
    ///
    /// # Errors
    /// As [`Shape::new`].
    pub fn nchw(n: usize, c: usize, h: usize, w: usize) -> Result<Self> {
        Self::new(&[n, c, h, w], Layout::ChannelsFirst)
    }

    /// `[n, h, w, c]`, channels-last, as TensorFlow's convolutions give.
    ///
    /// # Errors
    /// As [`Shape::new`].
    pub fn nhwc(n: usize, h: usize, w: usize, c: usize) -> Result<Self> {
        Self::new(&[n, h, w, c], Layout::ChannelsLast)
    }

    /// The dimensions as given.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// The position of the channels. Channels-first for two dimensions.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Whether this is a batch of the other shape, or a smaller one: channels, spatial sizes and layout are the same.
    pub(crate) fn fits_batch_of(&self, other: &Self) -> bool {
        self.layout == other.layout && self.dims()[1..] == other.dims()[1..] && self.n() <= other.n()
    }

    /// The batch size.
    pub fn n(&self) -> usize {
        self.dims[0]
    }

    /// The channels.
    pub fn c(&self) -> usize {
        match self.layout {
            Layout::ChannelsFirst => self.dims[1],
            Layout::ChannelsLast => self.dims[self.rank - 1],
        }
    }

    /// The product of the spatial sizes; 1 for two dimensions.
    pub fn s(&self) -> usize {
        match self.layout {
            Layout::ChannelsFirst => self.dims[2..self.rank].iter().product(),
            Layout::ChannelsLast => self.dims[1..self.rank - 1].iter().product(),
        }
    }

    /// The values per channel, `n * s`.
    pub fn m(&self) -> usize {
        self.n() * self.s()
    }

    /// The values of the whole tensor, `n * c * s`.
    pub fn len(&self) -> usize {
        self.m() * self.c()
    }

    /// Whether the tensor holds no value: `n = 0` or `s = 0`.
    pub fn is_empty(&self) -> bool {
        self.m() == 0
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.dims(), self.layout)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shape({self})")
    }
}

/// A tensor as `rows` rows of `c` planes of `s` values: what walks over memory see of either layout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowView {
    pub(crate) rows: usize,
    pub(crate) c: usize,
    pub(crate) s: usize,
}

impl RowView {
    pub(crate) fn new(shape: Shape) -> Self {
        let (c, m) = (shape.c(), shape.m());
        match shape.layout() {
            Layout::ChannelsFirst | Layout::ChannelsLast if c == 1 => Self { rows: 1, c, s: m },
            Layout::ChannelsFirst => Self { rows: shape.n(), c, s: shape.s() },
            Layout::ChannelsLast => Self { rows: m, c, s: 1 },
        }
    }

    /// Elements of a row.
    pub(crate) fn row_len(self) -> usize {
        self.c * self.s
    }
}

/// The 32-bit words of a relu mask: one bit an element in memory order, the lowest bit first.
pub fn relu_mask_len(shape: Shape) -> usize {
    shape.len().div_ceil(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_in_both_layouts() {
        for (dims, layout, n, c, s) in [
            (&[4, 3][..], Layout::ChannelsFirst, 4, 3, 1),
            (&[4, 3], Layout::ChannelsLast, 4, 3, 1),
            (&[4, 3, 5], Layout::ChannelsFirst, 4, 3, 5),
            (&[4, 5, 3], Layout::ChannelsLast, 4, 3, 5),
            (&[4, 3, 5, 6], Layout::ChannelsFirst, 4, 3, 30),
            (&[4, 5, 6, 3], Layout::ChannelsLast, 4, 3, 30),
            (&[4, 3, 5, 6, 7], Layout::ChannelsFirst, 4, 3, 210),
            (&[4, 5, 6, 7, 3], Layout::ChannelsLast, 4, 3, 210),
        ] {
            let shape = Shape::new(dims, layout).unwrap();
            assert_eq!((shape.n(), shape.c(), shape.s()), (n, c, s), "{shape}");
            assert_eq!((shape.m(), shape.len()), (n * s, n * s * c), "{shape}");
            assert_eq!(shape.dims(), dims);
        }
    }

    #[test]
    fn two_dimensions_are_one_shape_in_both_layouts() {
        assert_eq!(
            Shape::new(&[4, 3], Layout::ChannelsFirst).unwrap(),
            Shape::new(&[4, 3], Layout::ChannelsLast).unwrap()
        );
    }

    #[test]
    fn refusals_say_expected_and_actual() {
        let text = |dims: &[usize], layout| Shape::new(dims, layout).unwrap_err().to_string();
        assert_eq!(text(&[], Layout::ChannelsFirst), "shape []: expected 2 to 5 dimensions, got 0");
        assert_eq!(
            text(&[2, 3, 2, 2, 2, 2], Layout::ChannelsLast),
            "shape [2, 3, 2, 2, 2, 2]: expected 2 to 5 dimensions, got 6"
        );
        assert_eq!(text(&[2, 0, 4], Layout::ChannelsFirst), "shape [2, 0, 4]: expected at least 1 channel, got 0");
        assert_eq!(text(&[2, 4, 0], Layout::ChannelsLast), "shape [2, 4, 0]: expected at least 1 channel, got 0");
        for dims in [[usize::MAX, 2, 1], [1 << 40, 1 << 20, 1], [0, usize::MAX, usize::MAX]] {
            assert!(matches!(Shape::new(&dims, Layout::ChannelsFirst), Err(Error::SizeOverflow { .. })));
        }
    }

    #[test]
    fn a_smaller_batch_has_the_same_channels_places_and_layout() {
        let shape = |dims: &[usize], layout| Shape::new(dims, layout).unwrap();
        let whole = shape(&[4, 3, 5], Layout::ChannelsFirst);
        for n in 0..=4 {
            assert!(shape(&[n, 3, 5], Layout::ChannelsFirst).fits_batch_of(&whole), "{n}");
        }
        for dims in [&[5, 3, 5][..], &[4, 2, 5], &[4, 3, 4], &[4, 3], &[4, 3, 5, 1]] {
            assert!(!shape(dims, Layout::ChannelsFirst).fits_batch_of(&whole), "{dims:?}");
        }
        assert!(!shape(&[4, 3, 5], Layout::ChannelsLast).fits_batch_of(&whole));
    }

    #[test]
    fn empty_batches_and_empty_planes_are_shapes() {
        for dims in [[0, 3, 4], [2, 3, 0]] {
            let shape = Shape::new(&dims, Layout::ChannelsFirst).unwrap();
            assert!(shape.is_empty());
            assert_eq!((shape.c(), shape.len()), (3, 0));
        }
    }
}

//! The strategies.

use core::fmt;

use crate::named::named;

/// The memory in which a channel's values stay from their first use, in the statistics, to their second.
#[cfg_attr(not(feature = "exhaustive"), non_exhaustive)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// In the shared memory of one CTA: the data is read once.
    Block,
    /// In the shared memory of a thread-block cluster, which takes compute capability 9.0: the data is read once.
    Cluster,
    /// In the shared memory of a team of CTAs of a cooperative grid, as far as it fits: that much is read once.
    Grid,
    /// Nowhere: the data is read twice, the second time from the end, which is still in L2.
    TwoPass,
}

named! {
    Strategy {
        Block => "block",
        Cluster => "cluster",
        Grid => "grid",
        TwoPass => "two-read",
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

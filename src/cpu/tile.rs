//! Values that lie in the first-level cache, in the type that they are computed in, for what is no formula of a few operations.

use super::vector::{LANES, Real};

/// Values of a tile at most, a whole number of vectors.
pub(super) const TILE: usize = 1024;
const _: () = assert!(TILE.is_multiple_of(LANES));

/// The values of a tile.
#[derive(Clone)]
#[repr(align(64))]
pub(super) struct Tile<R>(pub(super) [R; TILE]);

impl<R: Real> Tile<R> {
    pub(super) fn new() -> Self {
        Self([R::ZERO; TILE])
    }
}

/// Tiles of `x`, of another input, and of a result: there once they are asked for.
pub(super) struct Tiles<R>(Option<Box<[Tile<R>; 3]>>);

impl<R> Default for Tiles<R> {
    fn default() -> Self {
        Self(None)
    }
}

impl<R: Real> Tiles<R> {
    pub(super) fn get(&mut self) -> [&mut Tile<R>; 3] {
        self.0.get_or_insert_with(|| Box::new([Tile::new(), Tile::new(), Tile::new()])).each_mut()
    }
}

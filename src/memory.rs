//! Memory of the host, which may not be there: what is as large as a tensor or as its channels is asked for here.

use core::hint::black_box;

use crate::error::{Error, Result};

/// An empty vector with room for `len` values.
pub(crate) fn room<T>(len: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    match values.try_reserve_exact(len) {
        Ok(()) => Ok(values),
        Err(_) => Err(Error::OutOfMemory { bytes: len.saturating_mul(size_of::<T>()) }),
    }
}

/// `len` times this value.
pub(crate) fn filled<T: Copy>(value: T, len: usize) -> Result<Vec<T>> {
    let mut values = room(len)?;
    values.resize(len, value);
    Ok(values)
}

/// A copy of these values.
pub(crate) fn copied<T: Copy>(values: &[T]) -> Result<Vec<T>> {
    let mut copy = room(values.len())?;
    copy.extend_from_slice(values);
    Ok(copy)
}

/// Finds out whether there is room for so many bytes, which are taken in pieces, without a way back, from here on.
pub(crate) fn expect_room(bytes: usize) -> Result<()> {
    // The compiler would not ask for memory that nobody looks at.
    room::<u8>(bytes).map(|room| drop(black_box(room)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_an_error_with_its_bytes() {
        let bytes = |error: Error| match error {
            Error::OutOfMemory { bytes } => bytes,
            other => panic!("{other}"),
        };
        assert_eq!(bytes(room::<u64>(1 << 59).unwrap_err()), 1 << 62);
        assert_eq!(bytes(filled(1.0f32, 1 << 60).unwrap_err()), 1 << 62);
        assert_eq!(bytes(filled(1.0f64, usize::MAX).unwrap_err()), usize::MAX);
        assert_eq!(bytes(expect_room(1 << 62).unwrap_err()), 1 << 62);
        assert_eq!(filled(7u8, 3).unwrap(), copied(&[7, 7, 7]).unwrap());
    }
}

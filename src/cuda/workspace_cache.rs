//! The workspaces that a thread keeps for its next operations.

use std::cell::RefCell;

/// Workspaces that are kept, at most.
const MOST: usize = 8;

/// Scratch memory by the stream that it is used on, the last used one last.
///
/// One of these belongs to one thread. A per-thread stream is another one on every thread under one handle, so memory that
/// went from thread to thread would be written by two of them at once; and two threads on one stream may put the launches
/// of an operation between each other's.
pub(super) struct WorkspaceCache<K, W>(RefCell<Vec<(K, W)>>);

impl<K: PartialEq, W> WorkspaceCache<K, W> {
    pub(super) const fn new() -> Self {
        Self(RefCell::new(Vec::new()))
    }

    /// Runs `f` with what is kept under `key`, or with a new one where there is none or it is not enough. After an error
    /// it is not kept.
    pub(super) fn with<R, E>(
        &self,
        key: K,
        is_enough: impl FnOnce(&W) -> bool,
        new: impl FnOnce() -> Result<W, E>,
        f: impl FnOnce(&mut W) -> Result<R, E>,
    ) -> Result<R, E> {
        let found = {
            let mut kept = self.0.borrow_mut();
            kept.iter().position(|(of, _)| *of == key).map(|i| kept.remove(i).1)
        };
        let mut held = match found {
            Some(held) if is_enough(&held) => held,
            _ => new()?,
        };
        let result = f(&mut held)?;
        let mut kept = self.0.borrow_mut();
        if kept.len() == MOST {
            kept.remove(0);
        }
        kept.push((key, held));
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uses `len` units under `key`; gives what was kept there, or else `made`.
    fn using(kept: &WorkspaceCache<u32, (usize, u32)>, key: u32, len: usize, made: u32) -> u32 {
        kept.with(key, |(held, _)| *held >= len, || Ok::<_, ()>((len, made)), |(_, id)| Ok(*id)).unwrap_or(0)
    }

    #[test]
    fn what_is_enough_is_used_again_and_what_is_not_is_replaced() {
        let kept = WorkspaceCache::new();
        assert_eq!(using(&kept, 1, 10, 100), 100);
        assert_eq!(using(&kept, 1, 7, 101), 100);
        assert_eq!(using(&kept, 2, 7, 102), 102);
        assert_eq!(using(&kept, 1, 11, 103), 103);
        assert_eq!(using(&kept, 1, 10, 104), 103);
        assert_eq!(kept.0.borrow().len(), 2);
    }

    #[test]
    fn the_one_unused_for_longest_is_given_up() {
        let kept = WorkspaceCache::new();
        for key in 0..MOST as u32 {
            using(&kept, key, 1, key + 100);
        }
        assert_eq!(using(&kept, 0, 1, 200), 100);
        using(&kept, 50, 1, 150);
        assert_eq!(kept.0.borrow().len(), MOST);
        assert_eq!(using(&kept, 0, 1, 200), 100);
        assert_eq!(using(&kept, 1, 1, 201), 201);
    }

    #[test]
    fn what_met_an_error_is_not_kept() {
        let kept = WorkspaceCache::new();
        using(&kept, 1, 1, 100);
        let error = kept.with(1, |_| true, || Ok((1, 101)), |_| Err::<(), _>("a launch failed"));
        assert_eq!(error, Err("a launch failed"));
        assert_eq!(using(&kept, 1, 1, 102), 102);
    }
}

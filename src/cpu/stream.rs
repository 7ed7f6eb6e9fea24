//! The way to memory and back: hints ahead of loads and stores; and stores that go past the caches, of results that are too large to be
//! there when they are read, whose lines then need not be fetched before they are overwritten.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicUsize, Ordering};
use std::fs;

/// Bytes of a tensor that are never stored so: processors have last caches of about this size.
const KEPT: usize = 32 << 20;

/// Whether a tensor of this size is stored past the caches: one that the last of them does not keep, together with what it is computed
/// from, for the next operation. By measurement: half of the cache, where Linux says its size.
pub(super) fn passes_caches(bytes: usize) -> bool {
    static FROM: AtomicUsize = AtomicUsize::new(0);
    if bytes < KEPT {
        return false;
    }
    let mut from = FROM.load(Ordering::Relaxed);
    if from == 0 {
        from = KEPT.max(last_cache().unwrap_or(0) / 2);
        FROM.store(from, Ordering::Relaxed);
    }
    bytes >= from
}

/// Bytes of the third cache of the first processor.
fn last_cache() -> Option<usize> {
    let size = fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index3/size").ok()?;
    kibibytes(&size)
}

/// The bytes that a text such as `32768K` says.
fn kibibytes(text: &str) -> Option<usize> {
    text.trim().strip_suffix('K')?.parse::<usize>().ok()?.checked_mul(1024)
}

/// Copies values of [`Copy`] types, past the caches where the processor has such stores. Of use to others after a [`fence`].
#[cfg(target_arch = "x86_64")]
pub(super) fn copy<T: Copy>(from: &[T], to: &mut [T]) {
    use core::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};

    assert_eq!(from.len(), to.len());
    // Values of a store.
    let count = size_of::<__m128i>() / size_of::<T>().clamp(1, size_of::<__m128i>());
    let head = to.as_ptr().align_offset(align_of::<__m128i>()).min(to.len());
    let (first, rest) = to.split_at_mut(head);
    first.copy_from_slice(&from[..head]);
    let from = &from[head..];
    let whole = rest.len() / count * count;
    if size_of::<T>() * count == size_of::<__m128i>() {
        for at in (0..whole).step_by(count) {
            // SAFETY: both slices have as many values from there on as one of these has bytes, the output is aligned, and SSE2 is
            // part of the target.
            unsafe { _mm_stream_si128(rest[at..].as_mut_ptr().cast(), _mm_loadu_si128(from[at..].as_ptr().cast())) };
        }
        rest[whole..].copy_from_slice(&from[whole..]);
    } else {
        rest.copy_from_slice(from);
    }
}

/// Copies values.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn copy<T: Copy>(from: &[T], to: &mut [T]) {
    to.copy_from_slice(from);
}

/// Bytes ahead of what is read, and of what is written, at which memory is asked for where it is gone through as it lies: as many as are
/// computed while it comes, by measurement. Behind the end of a plane that is in the next one, often of the same walk.
pub(super) const AHEAD: usize = 3072;
const AHEAD_OF_STORES: usize = 2048;

/// Asks for the memory at this distance behind a value, which will be read soon: a processor's own prefetching begins anew with every
/// page of memory, and every plane.
#[inline(always)]
pub(super) fn ahead<T>(value: *const T, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of the target; and a hint reads nothing, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(value.cast::<i8>().wrapping_add(bytes)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (value, bytes);
}

/// [`ahead`] of values that will be written, as they lie.
#[inline(always)]
pub(super) fn ahead_of_stores<T>(value: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        // SAFETY: SSE is part of the target; and a hint writes nothing, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(value.cast::<i8>().wrapping_add(AHEAD_OF_STORES)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (value, AHEAD_OF_STORES);
}

/// Makes what this thread has copied visible before what it does next.
pub(super) fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of the target.
    unsafe {
        core::arch::x86_64::_mm_sfence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_cache_is_read() {
        assert_eq!(kibibytes("32768K\n"), Some(32 << 20));
        assert_eq!([kibibytes("32M"), kibibytes("K"), kibibytes("99999999999999999999K")], [None; 3]);
        assert!(!passes_caches(KEPT - 1) && passes_caches(usize::MAX));
    }

    #[test]
    fn every_value_is_copied_from_every_place_to_every_place() {
        fn check<T: Copy + Default + PartialEq + core::fmt::Debug>(value: impl Fn(usize) -> T) {
            let from: Vec<T> = (0..200).map(|i| value(i + 1)).collect();
            for start in 0..20 {
                for len in 0..70 {
                    let mut to = vec![T::default(); 100];
                    copy(&from[start..start + len], &mut to[20 - start..20 - start + len]);
                    fence();
                    let want = |i: usize| {
                        if (20 - start..20 - start + len).contains(&i) {
                            from[i + 2 * start - 20]
                        } else {
                            T::default()
                        }
                    };
                    assert!((0..100).all(|i| to[i] == want(i)), "{len} from {start}: {to:?}");
                }
            }
        }
        check(|i| i as u16);
        check(|i| i as f32);
        check(|i| i as f64);
        check(|i| i as u8);
    }
}

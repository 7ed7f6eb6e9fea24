//! The vector instructions of this processor, found once: AVX-512 as of Ice Lake, AVX2, or what every processor of the target has
//! (SSE2, NEON).
//!
//! Which of them compute is nothing that a result shows: every lane does the same operations in the same order at every level, a
//! multiplication and an addition never become one.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicU8, Ordering};

use fearless_simd::{Level, Simd};

/// Nobody has looked yet.
const UNKNOWN: u8 = 0;
/// A thread is looking.
const LOOKING: u8 = 1;
/// [`Level::new`] knows.
const KNOWN: u8 = 2;

/// The level to compute at.
///
/// While another thread looks for the first time, that of every processor: a forked process may have no such thread, and must not
/// wait for it.
#[inline]
pub(super) fn level() -> Level {
    static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);
    #[cfg(test)]
    if let Some(forced) = forced::level() {
        return forced;
    }
    if STATE.load(Ordering::Acquire) == KNOWN {
        return Level::new();
    }
    if STATE.compare_exchange(UNKNOWN, LOOKING, Ordering::Acquire, Ordering::Relaxed).is_err() {
        return Level::baseline();
    }
    let level = Level::new();
    STATE.store(KNOWN, Ordering::Release);
    level
}

/// The token that a target's baseline has.
#[cfg(target_arch = "x86_64")]
pub(super) type Baseline = fearless_simd::Sse2;
/// The token that a target's baseline has.
#[cfg(target_arch = "aarch64")]
pub(super) type Baseline = fearless_simd::Neon;
/// The token that a target's baseline has.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) type Baseline = fearless_simd::Fallback;

/// The baseline's token, which every level has too.
#[inline]
pub(super) fn baseline(_level: Level) -> Baseline {
    #[cfg(target_arch = "x86_64")]
    let token = _level.as_sse2();
    #[cfg(target_arch = "aarch64")]
    let token = _level.as_neon();
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let token = Some(fearless_simd::Fallback::new());
    let Some(token) = token else { unreachable!("every level of a target has what its baseline has") };
    token
}

/// The width of a level's registers.
pub(super) struct Width<S>(PhantomData<S>);

impl<S: Simd> Width<S> {
    /// Whether code for the level is kept small, since hardly a processor computes at it: x86-64 without AVX2. As a constant, so that the
    /// branch that is not taken is not compiled either.
    pub(super) const IS_RARE: bool = cfg!(target_arch = "x86_64") && size_of::<S::f32s>() <= 16;
}

/// Evaluates an expression with the token of [`level`], compiled for each.
macro_rules! by_level {
    ($simd:ident => $result:expr) => {
        match $crate::cpu::level::level() {
            #[cfg(target_arch = "x86_64")]
            fearless_simd::Level::Avx512($simd) => fearless_simd::Simd::vectorize(
                $simd,
                #[inline(always)]
                || $result,
            ),
            #[cfg(target_arch = "x86_64")]
            fearless_simd::Level::Avx2($simd) => fearless_simd::Simd::vectorize(
                $simd,
                #[inline(always)]
                || $result,
            ),
            level => {
                let $simd = $crate::cpu::level::baseline(level);
                fearless_simd::Simd::vectorize(
                    $simd,
                    #[inline(always)]
                    || $result,
                )
            }
        }
    };
}
pub(super) use by_level;

/// Another level than the processor's, for tests.
#[cfg(test)]
pub(super) mod forced {
    use core::cell::Cell;

    use fearless_simd::Level;

    thread_local! {
        static LEVEL: Cell<Option<Level>> = const { Cell::new(None) };
    }

    pub(in crate::cpu) fn level() -> Option<Level> {
        LEVEL.get()
    }

    /// The results of `work` on this thread at each level that the processor has.
    pub(in crate::cpu) fn at_each_level<R>(work: impl Fn() -> R) -> Vec<R> {
        #[allow(unused_mut, reason = "x86-64 alone has several")]
        let mut levels = vec![Level::new()];
        #[cfg(target_arch = "x86_64")]
        {
            use fearless_simd::Simd;
            levels.extend(Level::new().as_avx2().map(Simd::level));
            levels.push(super::baseline(Level::new()).level());
        }
        let at = |level| {
            LEVEL.set(Some(level));
            let result = work();
            LEVEL.set(None);
            result
        };
        levels.into_iter().map(at).collect()
    }
}

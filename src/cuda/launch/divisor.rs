//! Divisors in the form by which the kernels divide: [`BnDivisor`].

use crate::cuda::ffi::BnDivisor;

impl BnDivisor {
    /// The divisor `d` of numbers below 2^63; a `d` of 0 or less, of which nothing is launched, counts as 1.
    ///
    /// With `2^(shift - 1) < d <= 2^shift` the reciprocal is `2^(63 + shift) / d` rounded up, at most 2^64 - 1: its error times n is
    /// less than `2^(63 + shift) / d`, too little to reach the next quotient (Granlund and Montgomery 1994, theorem 4.2).
    pub(super) fn new(d: impl TryInto<u64>) -> Self {
        let d = d.try_into().unwrap_or(1).clamp(1, i64::MAX as u64);
        let shift = d.next_power_of_two().trailing_zeros();
        let reciprocal = (1u128 << (63 + shift)).div_ceil(u128::from(d));
        Self { reciprocal: reciprocal as u64, shift }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `divided` of kernels/common/tile_iterator.cuh.
    fn divided(n: u64, by: BnDivisor) -> u64 {
        (((u128::from(by.reciprocal) * u128::from(n << 1)) >> 64) as u64) >> by.shift
    }

    #[test]
    fn a_quotient_is_that_of_a_division() {
        let largest = i64::MAX as u64;
        let around = |n: u64| [n.saturating_sub(1), n, n.saturating_add(1)];
        let powers = (0..63).flat_map(|bit| around(1 << bit)).chain([largest]);
        let divisors: Vec<u64> = (1..600).chain(powers).filter(|&d| d != 0).collect();
        for &d in &divisors {
            let by = BnDivisor::new(d);
            let multiples = divisors.iter().flat_map(|&k| around(k.saturating_mul(d)));
            for n in multiples.chain(divisors.iter().copied()).chain([0, largest]).filter(|&n| n <= largest) {
                assert_eq!(divided(n, by), n / d, "{n} / {d}");
            }
        }
    }

    #[test]
    fn a_divisor_of_nothing_counts_as_one() {
        for by in [BnDivisor::new(0u32), BnDivisor::new(-1i64)] {
            assert_eq!(divided(17, by), 17);
        }
    }
}

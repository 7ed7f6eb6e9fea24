//! Conversions that the vectors' library has no operation for.

use core::arch::x86_64::{
    __m256, __m512, __m512i, _CMP_UNORD_Q, _MM_FROUND_TO_NEAREST_INT, _mm256_cvtph_ps, _mm256_cvtps_ph,
    _mm512_add_epi32, _mm512_castps_si512, _mm512_castsi256_si512, _mm512_castsi512_ps, _mm512_castsi512_si256,
    _mm512_cmp_ps_mask, _mm512_cvtph_ps, _mm512_cvtps_ph, _mm512_mask_add_epi32, _mm512_mask_or_epi32,
    _mm512_maskz_permutexvar_epi8, _mm512_permutexvar_epi8, _mm512_set1_epi32, _mm512_test_epi32_mask,
};

use fearless_simd::kernel;

/// Bytes of a vector of 32 bits a lane: the upper half of lane i is the bytes 2i and 2i + 1 of a vector of 16 bits a lane.
const TO_UPPER_HALVES: [u8; 64] = {
    let mut bytes = [0; 64];
    let mut i = 0;
    while i < 16 {
        (bytes[4 * i + 2], bytes[4 * i + 3]) = (2 * i as u8, 2 * i as u8 + 1);
        i += 1;
    }
    bytes
};
/// The way back.
const FROM_UPPER_HALVES: [u8; 64] = {
    let mut bytes = [0; 64];
    let mut i = 0;
    while i < 16 {
        (bytes[2 * i], bytes[2 * i + 1]) = (4 * i as u8 + 2, 4 * i as u8 + 3);
        i += 1;
    }
    bytes
};

kernel!(
    #[inline(always)]
    pub(super) fn widen_bf16(_token: Avx512, bits: [u16; 16]) -> __m512 {
        let upper_halves = 0xCCCC_CCCC_CCCC_CCCC;
        let bits = _mm512_castsi256_si512(bytemuck::cast(bits));
        let index: __m512i = bytemuck::cast(TO_UPPER_HALVES);
        _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi8(upper_halves, index, bits))
    }
);
// Masks in the place of shifts: six operations instead of nine.
kernel!(
    #[inline(always)]
    pub(super) fn narrow_bf16(_token: Avx512, values: __m512) -> [u16; 16] {
        let bits = _mm512_castps_si512(values);
        let is_odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x1_0000));
        let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values, values);
        let below = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF));
        let rounded = _mm512_mask_add_epi32(below, is_odd, below, _mm512_set1_epi32(1));
        let rounded = _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x40_0000));
        let index: __m512i = bytemuck::cast(FROM_UPPER_HALVES);
        bytemuck::cast(_mm512_castsi512_si256(_mm512_permutexvar_epi8(index, rounded)))
    }
);
kernel!(
    #[inline(always)]
    pub(super) fn widen_f16(_token: Avx512, bits: [u16; 16]) -> __m512 {
        _mm512_cvtph_ps(bytemuck::cast(bits))
    }
);
kernel!(
    #[inline(always)]
    pub(super) fn narrow_f16(_token: Avx512, values: __m512) -> [u16; 16] {
        bytemuck::cast(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values))
    }
);
kernel!(
    #[inline(always)]
    pub(super) fn widen_f16_avx2(_token: Avx2, bits: [u16; 8]) -> __m256 {
        _mm256_cvtph_ps(bytemuck::cast(bits))
    }
);
kernel!(
    #[inline(always)]
    pub(super) fn narrow_f16_avx2(_token: Avx2, values: __m256) -> [u16; 8] {
        bytemuck::cast(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values))
    }
);

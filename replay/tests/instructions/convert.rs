//! cvt.

use crate::program::{bits_16, bits_32, bits_64, unary_32};

#[test]
fn integers_are_extended_and_cut() {
    for (op, a, expected) in [
        ("cvt.s32.s8", 0x80, 0xffff_ff80),
        ("cvt.u32.u8", 0xfff0, 0xf0),
        ("cvt.s32.u8", 0x80, 0x80),
        ("cvt.u32.s8", 0x80, 0xffff_ff80),
        ("cvt.u32.u16", 0x1_8000, 0x8000),
        ("cvt.s32.s16", 0x1_8000, 0xffff_8000),
        // A register that is wider than the type takes the value of the type, extended.
        ("cvt.u16.u32", 0x1234_8765, 0x8765),
        ("cvt.s16.s32", 0x1234_8765, 0xffff_8765),
    ] {
        assert_eq!(unary_32(op, a), expected, "{op} {a:#x}");
    }
    let wide = |op: &str| bits_64(&format!("mov.b32 %r1, 0xfffffffe; {op} %d0, %r1;"));
    assert_eq!(wide("cvt.s64.s32"), 0xffff_ffff_ffff_fffe);
    assert_eq!(wide("cvt.u64.u32"), 0xffff_fffe);
    assert_eq!(wide("cvt.u64.u16"), 0xfffe);
    assert_eq!(wide("cvt.u32.u32"), 0xffff_fffe);
    assert_eq!(wide("cvt.s32.s32"), 0xffff_ffff_ffff_fffe);
    assert_eq!(bits_32("mov.b64 %d1, 0x123456789abcdef0; cvt.u32.u64 %r0, %d1;"), 0x9abc_def0);
    assert_eq!(bits_16("mov.b32 %r1, 0x12348765; cvt.u16.u32 %h0, %r1;"), 0x8765);
}

/// f32 has 24 bits: odd ones beyond go to the even neighbour.
#[test]
fn integers_become_floats() {
    for (op, a, expected) in [
        ("cvt.rn.f32.s32", 0xffff_ffff, 0xbf80_0000),
        ("cvt.rn.f32.u32", 0xffff_ffff, 0x4f80_0000),
        ("cvt.rn.f32.u32", 0x0100_0001, 0x4b80_0000),
        ("cvt.rn.f32.u32", 0x0100_0003, 0x4b80_0002),
        ("cvt.rn.f32.s8", 0xff, 0xbf80_0000),
        ("cvt.rn.f32.u8", 0x1ff, 0x437f_0000),
    ] {
        assert_eq!(unary_32(op, a), expected, "{op} {a:#x}");
    }
    assert_eq!(bits_32("mov.b64 %d1, -1; cvt.rn.f32.s64 %r0, %d1;"), 0xbf80_0000);
    assert_eq!(bits_32("mov.b64 %d1, -1; cvt.rn.f32.u64 %r0, %d1;"), 0x5f80_0000);
}

fn to_half(op: &str, a: u32) -> u16 {
    bits_16(&format!("mov.b32 %r1, {a}; {op} %h0, %r1;"))
}

#[test]
fn f32_becomes_f16() {
    for (a, expected) in [
        (0x3f80_0000, 0x3c00),
        // Ties: 1 + 2^-11 to 1, 1 + 3 * 2^-11 to 1 + 2^-9; and what is above the first tie goes up.
        (0x3f80_1000, 0x3c00),
        (0x3f80_3000, 0x3c02),
        (0x3f80_1001, 0x3c01),
        // 65504 is the largest; 65519.996 still goes there, 65520 to infinity.
        (0x477f_e000, 0x7bff),
        (0x477f_efff, 0x7bff),
        (0x477f_f000, 0x7c00),
        (0xff80_0000, 0xfc00),
        // Subnormal: 2^-24 is the least, its half a tie to 0, and 1.5 of it a tie to 2.
        (0x3380_0000, 1),
        (0x3300_0000, 0),
        (0x3300_0001, 1),
        (0x33c0_0000, 2),
        (0x387f_c000, 0x03ff),
        (0x8000_0000, 0x8000),
        (0xffc0_1234, 0x7fff),
        (0x7f80_0001, 0x7fff),
    ] {
        assert_eq!(to_half("cvt.rn.f16.f32", a), expected, "{a:#x}");
    }
}

#[test]
fn f32_becomes_bf16() {
    for (a, expected) in [
        (0x3f80_0000, 0x3f80),
        (0x3f80_8000, 0x3f80),
        (0x3f81_8000, 0x3f82),
        (0x3f80_8001, 0x3f81),
        (0x7f7f_ffff, 0x7f80),
        (0x7f7f_7fff, 0x7f7f),
        // The least f32 is less than half of the least bf16.
        (0x0000_0001, 0),
        (0x0000_8000, 0),
        (0x0001_8000, 2),
        (0xff80_0001, 0x7fff),
    ] {
        assert_eq!(to_half("cvt.rn.bf16.f32", a), expected, "{a:#x}");
    }
}

/// The first operand is the upper half.
#[test]
fn two_halves_at_once() {
    let pair = |op: &str| bits_32(&format!("mov.b32 %r1, 0x40000000; mov.b32 %r2, 0x3f800000; {op} %r0, %r1, %r2;"));
    assert_eq!(pair("cvt.rn.f16x2.f32"), 0x4000_3c00);
    assert_eq!(pair("cvt.rn.bf16x2.f32"), 0x4000_3f80);
}

#[test]
fn halves_become_f32() {
    let wide = |op: &str, a: u32| bits_32(&format!("mov.b16 %h1, {a}; {op} %r0, %h1;"));
    for (op, a, expected) in [
        ("cvt.f32.f16", 0x3c00, 0x3f80_0000),
        ("cvt.f32.f16", 0x0001, 0x3380_0000),
        ("cvt.f32.f16", 0x8000, 0x8000_0000),
        ("cvt.f32.f16", 0xfc00, 0xff80_0000),
        ("cvt.f32.f16", 0x7c01, 0x7fff_ffff),
        ("cvt.f32.bf16", 0x3f81, 0x3f81_0000),
        ("cvt.f32.bf16", 0x0001, 0x0001_0000),
        ("cvt.f32.bf16", 0xffc1, 0x7fff_ffff),
    ] {
        assert_eq!(wide(op, a), expected, "{op} {a:#x}");
    }
}

//! Integers and bits.

use crate::program::{Program, binary_32, bits_16, bits_32, bits_64, ternary_32, unary_32};

fn binary_64(op: &str, a: u64, b: u64) -> u64 {
    bits_64(&format!("mov.b64 %d1, {a}; mov.b64 %d2, {b}; {op} %d0, %d1, %d2;"))
}

fn binary_16(op: &str, a: u16, b: u16) -> u16 {
    bits_16(&format!("mov.b16 %h1, {a}; mov.b16 %h2, {b}; {op} %h0, %h1, %h2;"))
}

#[test]
fn arithmetic_of_32_bits() {
    for (op, a, b, expected) in [
        ("add.s32", 0x7fff_ffff, 1, 0x8000_0000),
        ("add.u32", 0xffff_ffff, 2, 1),
        ("sub.s32", 3, 5, 0xffff_fffe),
        ("sub.u32", 0, 1, 0xffff_ffff),
        ("mul.lo.s32", 0xffff_fffd, 7, 0xffff_ffeb),
        ("mul.lo.u32", 0x1_0001, 0x1_0001, 0x2_0001),
        ("mul.hi.u32", 0xffff_ffff, 0xffff_ffff, 0xffff_fffe),
        ("mul.hi.s32", 0xffff_ffff, 0xffff_ffff, 0),
        ("mul.hi.s32", 0x8000_0000, 2, 0xffff_ffff),
        ("div.s32", 0xffff_fff9, 2, 0xffff_fffd),
        ("div.u32", 0xffff_fff9, 2, 0x7fff_fffc),
        ("div.s32", 0x8000_0000, 0xffff_ffff, 0x8000_0000),
        ("rem.s32", 0xffff_fff9, 2, 0xffff_ffff),
        ("rem.s32", 7, 0xffff_fffe, 1),
        ("rem.u32", 0xffff_fff9, 16, 9),
        ("rem.s32", 0x8000_0000, 0xffff_ffff, 0),
        ("min.s32", 0xffff_ffff, 1, 0xffff_ffff),
        ("max.s32", 0xffff_ffff, 1, 1),
        ("min.u32", 0xffff_ffff, 1, 1),
        ("max.u32", 0xffff_ffff, 1, 0xffff_ffff),
    ] {
        assert_eq!(binary_32(op, a, b), expected, "{op} {a:#x}, {b:#x}");
    }
    assert_eq!(ternary_32("mad.lo.s32", 0xffff_fffe, 3, 7), 1);
    assert_eq!(unary_32("neg.s32", 5), 0xffff_fffb);
    assert_eq!(unary_32("abs.s32", 0xffff_fffb), 5);
    assert_eq!(unary_32("not.b32", 0x0f0f_0000), 0xf0f0_ffff);
}

#[test]
fn arithmetic_of_64_bits() {
    for (op, a, b, expected) in [
        ("add.s64", 0xffff_ffff, 1, 0x1_0000_0000),
        ("sub.s64", 0, 1, 0xffff_ffff_ffff_ffff),
        ("mul.lo.s64", 0x1_0000_0001, 0x1_0000_0001, 0x2_0000_0001),
        ("mul.hi.u64", 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_fffe),
        ("mul.hi.s64", 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0),
        ("div.s64", 0xffff_ffff_ffff_fff9, 2, 0xffff_ffff_ffff_fffd),
        ("div.u64", 0x1_0000_0000, 3, 0x5555_5555),
        ("div.s64", 0x8000_0000_0000_0000, 0xffff_ffff_ffff_ffff, 0x8000_0000_0000_0000),
        ("rem.s64", 0xffff_ffff_ffff_fff9, 4, 0xffff_ffff_ffff_fffd),
        ("rem.u64", 0x1_0000_0000, 7, 4),
        ("min.s64", 0xffff_ffff_ffff_ffff, 0, 0xffff_ffff_ffff_ffff),
        ("max.u64", 0xffff_ffff_ffff_ffff, 0, 0xffff_ffff_ffff_ffff),
        ("and.b64", 0xff00_ff00_ff00_ff00, 0x0ff0_0ff0_0ff0_0ff0, 0x0f00_0f00_0f00_0f00),
        ("or.b64", 0x1_0000_0000, 1, 0x1_0000_0001),
        ("xor.b64", 0xffff_ffff_0000_0000, 0x1_0000_0001, 0xffff_fffe_0000_0001),
    ] {
        assert_eq!(binary_64(op, a, b), expected, "{op} {a:#x}, {b:#x}");
    }
}

#[test]
fn arithmetic_of_16_bits() {
    for (op, a, b, expected) in [
        ("add.s16", 0xffff, 2, 1),
        ("sub.u16", 0, 1, 0xffff),
        ("mul.lo.u16", 0x101, 0x101, 0x201),
        ("div.s16", 0xfff9, 2, 0xfffd),
        ("rem.s16", 0xfff9, 2, 0xffff),
        ("div.u16", 0xfff9, 2, 0x7ffc),
        ("min.s16", 0xffff, 1, 0xffff),
        ("max.u16", 0xffff, 1, 0xffff),
        ("xor.b16", 0xff00, 0x0ff0, 0xf0f0),
    ] {
        assert_eq!(binary_16(op, a, b), expected, "{op} {a:#x}, {b:#x}");
    }
}

/// Operands of half the width, sign or zero extended.
#[test]
fn products_of_twice_the_width() {
    let wide = |op: &str, a: u32, b: u32| bits_64(&format!("mov.b32 %r1, {a}; mov.b32 %r2, {b}; {op} %d0, %r1, %r2;"));
    assert_eq!(wide("mul.wide.u32", 0xffff_ffff, 2), 0x1_ffff_fffe);
    assert_eq!(wide("mul.wide.s32", 0xffff_ffff, 2), 0xffff_ffff_ffff_fffe);
    assert_eq!(wide("mul.wide.s32", 0x8000_0000, 0x8000_0000), 0x4000_0000_0000_0000);
    let wide = |op: &str| bits_32(&format!("mov.b16 %h1, 65535; mov.b16 %h2, 3; {op} %r0, %h1, %h2;"));
    assert_eq!(wide("mul.wide.u16"), 0x2_fffd);
    assert_eq!(wide("mul.wide.s16"), 0xffff_fffd);
    assert_eq!(bits_64("mov.b32 %r1, -1; mov.b64 %d1, 5; mad.wide.s32 %d0, %r1, 3, %d1;"), 2);
    assert_eq!(bits_64("mov.b32 %r1, -1; mov.b64 %d1, 5; mad.wide.u32 %d0, %r1, 3, %d1;"), 0x3_0000_0002);
}

/// Amounts of the width and more shift everything out; what comes in is the sign for .s.
#[test]
fn shifts() {
    for (op, a, b, expected) in [
        ("shl.b32", 1, 31, 0x8000_0000),
        ("shl.b32", 0xffff_ffff, 32, 0),
        ("shl.b32", 0xffff_ffff, 0xffff_ffff, 0),
        ("shr.u32", 0x8000_0000, 31, 1),
        ("shr.u32", 0x8000_0000, 32, 0),
        ("shr.b32", 0x8000_0000, 4, 0x0800_0000),
        ("shr.s32", 0x8000_0000, 4, 0xf800_0000),
        ("shr.s32", 0x8000_0000, 32, 0xffff_ffff),
        ("shr.s32", 0x8000_0000, 255, 0xffff_ffff),
        ("shr.s32", 0x7fff_ffff, 40, 0),
    ] {
        assert_eq!(binary_32(op, a, b), expected, "{op} {a:#x}, {b}");
    }
    let shift = |op: &str, by: u32| bits_64(&format!("mov.b64 %d1, 0x8000000000000001; {op} %d0, %d1, {by};"));
    assert_eq!(shift("shl.b64", 63), 0x8000_0000_0000_0000);
    assert_eq!(shift("shl.b64", 64), 0);
    assert_eq!(shift("shr.u64", 63), 1);
    assert_eq!(shift("shr.u64", 64), 0);
    assert_eq!(shift("shr.s64", 63), 0xffff_ffff_ffff_ffff);
    assert_eq!(shift("shr.s64", 64), 0xffff_ffff_ffff_ffff);
    assert_eq!(bits_16("mov.b16 %h1, 1; shl.b16 %h0, %h1, 16;"), 0);
    assert_eq!(bits_16("mov.b16 %h1, 0x8000; shr.s16 %h0, %h1, 3;"), 0xf000);
    assert_eq!(bits_16("mov.b16 %h1, 0x8000; shr.u16 %h0, %h1, 3;"), 0x1000);
}

#[test]
fn bits() {
    for (op, a, expected) in [
        ("clz.b32", 0, 32),
        ("clz.b32", 1, 31),
        ("clz.b32", 0x8000_0000, 0),
        ("popc.b32", 0, 0),
        ("popc.b32", 0xf0f0_0001, 9),
    ] {
        assert_eq!(unary_32(op, a), expected, "{op} {a:#x}");
    }
    assert_eq!(bits_32("mov.b64 %d1, 0; clz.b64 %r0, %d1;"), 64);
    assert_eq!(bits_32("mov.b64 %d1, 0x100000000; clz.b64 %r0, %d1;"), 31);
    assert_eq!(bits_32("mov.b64 %d1, -1; popc.b64 %r0, %d1;"), 64);
    for (op, a, b, c, expected) in [
        // The upper half of (b:a) << c, the lower half of (b:a) >> c.
        ("shf.l.wrap.b32", 0x8000_0001, 0x1234_5678, 4, 0x2345_6788),
        ("shf.l.wrap.b32", 0x8000_0001, 0x1234_5678, 0, 0x1234_5678),
        ("shf.l.wrap.b32", 0x8000_0001, 0x1234_5678, 36, 0x2345_6788),
        ("shf.r.wrap.b32", 0x8000_0001, 0x1234_5678, 4, 0x8800_0000),
        ("shf.r.wrap.b32", 0x8000_0001, 0x1234_5678, 32, 0x8000_0001),
        ("bfe.u32", 0x1234_5678, 8, 12, 0x456),
        ("bfe.u32", 0x1234_5678, 28, 12, 1),
        ("bfe.u32", 0x1234_5678, 32, 4, 0),
        ("bfe.u32", 0x1234_5678, 200, 8, 0),
        ("bfe.u32", 0x1234_5678, 0, 32, 0x1234_5678),
        ("bfe.u32", 0x1234_5678, 4, 0, 0),
        // Only the low bytes of position and length count.
        ("bfe.u32", 0x1234_5678, 0x104, 0x108, 0x67),
        // Selectors are bytes 0 to 7 of b:a; with 8 the sign of it.
        ("prmt.b32", 0x3322_1100, 0x7766_5544, 0x3210, 0x3322_1100),
        ("prmt.b32", 0x3322_1100, 0x7766_5544, 0x7531, 0x7755_3311),
        ("prmt.b32", 0x33a2_1180, 0x7766_5544, 0x98a0, 0x00ff_ff80),
    ] {
        assert_eq!(ternary_32(op, a, b, c), expected, "{op} {a:#x}, {b:#x}, {c:#x}");
    }
    // Where the field goes beyond the type it is cut, and a length of 0 leaves b.
    for (c, d, of_32, of_64) in [
        (32, 32, 0x1111_2222, 0xaabb_ccdd_1111_2222),
        (8, 12, 0x111c_dd22, 0x3333_4444_111c_dd22),
        (24, 16, 0xdd11_2222, 0x3333_44cc_dd11_2222),
        (60, 8, 0x1111_2222, 0xd333_4444_1111_2222),
        (0, 0, 0x1111_2222, 0x3333_4444_1111_2222),
        (0, 255, 0xaabb_ccdd, 0xaabb_ccdd),
        (200, 9, 0x1111_2222, 0x3333_4444_1111_2222),
        // Only the low bytes of position and length count.
        (0x108, 0x10c, 0x111c_dd22, 0x3333_4444_111c_dd22),
    ] {
        let values = "mov.b32 %r1, 0xaabbccdd; mov.b32 %r2, 0x11112222; mov.b64 %d1, 0xaabbccdd; mov.b64 %d2, 0x3333444411112222;";
        assert_eq!(bits_32(&format!("{values} bfi.b32 %r0, %r1, %r2, {c}, {d};")), of_32, "{c} {d}");
        assert_eq!(bits_64(&format!("{values} bfi.b64 %d0, %d1, %d2, {c}, {d};")), of_64, "{c} {d}");
    }
}

/// The table of a function is the function of 0xf0, 0xcc and 0xaa.
#[test]
fn functions_of_three_bits() {
    let lop3 = |table: u32| {
        let operands = "mov.b32 %r1, 0xff00ff00; mov.b32 %r2, 0xf0f0f0f0; mov.b32 %r3, 0xcccccccc;";
        bits_32(&format!("{operands} lop3.b32 %r0, %r1, %r2, %r3, {table};"))
    };
    assert_eq!(lop3(0xf0), 0xff00_ff00, "a");
    assert_eq!(lop3(0xcc), 0xf0f0_f0f0, "b");
    assert_eq!(lop3(0xaa), 0xcccc_cccc, "c");
    assert_eq!(lop3(0x80), 0xc000_c000, "a & b & c");
    assert_eq!(lop3(0x96), 0xc33c_c33c, "a ^ b ^ c");
    assert_eq!(lop3(0xca), 0xf0cc_f0cc, "a ? b : c");
}

#[test]
fn a_division_by_zero_traps() {
    for op in ["div.s32", "div.u32", "rem.s32", "rem.u32"] {
        let program = Program::new(&format!("mov.b32 %r1, 1; mov.b32 %r2, 0;\n{op} %r0, %r1, %r2;"));
        program.traps(&["an integer division by 0", "a.ptx:13", op]);
    }
    Program::new("mov.b64 %d1, 0; rem.u64 %d0, 5, %d1;").traps(&["an integer division by 0"]);
}

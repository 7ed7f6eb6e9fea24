//! Integers of 16, 32 and 64 bits, and bits (PTX ISA, "Integer Arithmetic Instructions", "Logic and Shift Instructions").

use super::compute::Table;

/// One width: the signed and the unsigned type of it.
macro_rules! define_width {
    ($table:ident, $width:literal, $signed:ty, $unsigned:ty) => {{
        type S = $signed;
        type U = $unsigned;
        for ty in ["s", "u"] {
            let name = |op: &str| format!("{op}.{ty}{}", $width);
            $table.binary(&name("add"), |a, b, _, _| u64::from((a as U).wrapping_add(b as U)));
            $table.binary(&name("sub"), |a, b, _, _| u64::from((a as U).wrapping_sub(b as U)));
            $table.binary(&name("mul.lo"), |a, b, _, _| u64::from((a as U).wrapping_mul(b as U)));
            $table.ternary(&name("mad.lo"), |a, b, c, _| u64::from((a as U).wrapping_mul(b as U).wrapping_add(c as U)));
        }
        let signed = |op: &str| format!("{op}.s{}", $width);
        let unsigned = |op: &str| format!("{op}.u{}", $width);
        let bits = |op: &str| format!("{op}.b{}", $width);
        // A divisor of 0 does not come here.
        $table.binary(&unsigned("div"), |a, b, _, _| u64::from((a as U).wrapping_div(b as U)));
        $table.binary(&unsigned("rem"), |a, b, _, _| u64::from((a as U).wrapping_rem(b as U)));
        $table.binary(&signed("div"), |a, b, _, _| (a as S).wrapping_div(b as S) as u64);
        $table.binary(&signed("rem"), |a, b, _, _| (a as S).wrapping_rem(b as S) as u64);
        $table.binary(&unsigned("min"), |a, b, _, _| u64::from((a as U).min(b as U)));
        $table.binary(&unsigned("max"), |a, b, _, _| u64::from((a as U).max(b as U)));
        $table.binary(&signed("min"), |a, b, _, _| (a as S).min(b as S) as u64);
        $table.binary(&signed("max"), |a, b, _, _| (a as S).max(b as S) as u64);
        $table.unary(&signed("neg"), |a, _, _, _| (a as S).wrapping_neg() as u64);
        $table.unary(&signed("abs"), |a, _, _, _| (a as S).wrapping_abs() as u64);
        $table.binary(&bits("and"), |a, b, _, _| a & b);
        $table.binary(&bits("or"), |a, b, _, _| a | b);
        $table.binary(&bits("xor"), |a, b, _, _| a ^ b);
        $table.unary(&bits("not"), |a, _, _, _| !a);
        // Amounts of shifts are 32 bits wide, and those beyond the width shift everything out.
        $table.binary(&bits("shl"), |a, b, _, _| u64::from((a as U).checked_shl(b as u32).unwrap_or(0)));
        for name in [unsigned("shr"), bits("shr")] {
            $table.binary(&name, |a, b, _, _| u64::from((a as U).checked_shr(b as u32).unwrap_or(0)));
        }
        $table.binary(&signed("shr"), |a, b, _, _| ((a as S) >> (b as u32).min(U::BITS - 1)) as u64);
    }};
}

// The widest type is that of values already.
#[allow(clippy::useless_conversion)]
pub(super) fn define(table: &mut Table) {
    define_width!(table, "16", i16, u16);
    define_width!(table, "32", i32, u32);
    define_width!(table, "64", i64, u64);
    define_products(table);
    define_bits(table);
}

/// Products of twice the width, and their upper halves.
fn define_products(table: &mut Table) {
    table.binary("mul.wide.u16", |a, b, _, _| u64::from(a as u16) * u64::from(b as u16));
    table.binary("mul.wide.s16", |a, b, _, _| (i64::from(a as i16) * i64::from(b as i16)) as u64);
    table.binary("mul.wide.u32", |a, b, _, _| u64::from(a as u32) * u64::from(b as u32));
    table.binary("mul.wide.s32", |a, b, _, _| (i64::from(a as i32) * i64::from(b as i32)) as u64);
    table.ternary("mad.wide.u32", |a, b, c, _| (u64::from(a as u32) * u64::from(b as u32)).wrapping_add(c));
    table.ternary("mad.wide.s32", |a, b, c, _| ((i64::from(a as i32) * i64::from(b as i32)) as u64).wrapping_add(c));
    table.binary("mul.hi.u32", |a, b, _, _| (u64::from(a as u32) * u64::from(b as u32)) >> 32);
    table.binary("mul.hi.s32", |a, b, _, _| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u64);
    table.binary("mul.hi.u64", |a, b, _, _| ((u128::from(a) * u128::from(b)) >> 64) as u64);
    table.binary("mul.hi.s64", |a, b, _, _| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64);
}

/// `bfi` of a type of `bits` bits ("Integer Arithmetic Instructions: bfi").
fn inserted(a: u64, b: u64, c: u64, d: u64, bits: u64) -> u64 {
    let (at, len) = (c & 255, d & 255);
    let len = len.min(bits.saturating_sub(at));
    if len == 0 {
        return b;
    }
    let field = (u64::MAX >> (64 - len)) << at;
    (b & !field) | ((a << at) & field)
}

fn define_bits(table: &mut Table) {
    table.unary("clz.b32", |a, _, _, _| u64::from((a as u32).leading_zeros()));
    table.unary("clz.b64", |a, _, _, _| u64::from(a.leading_zeros()));
    table.unary("popc.b32", |a, _, _, _| u64::from((a as u32).count_ones()));
    table.unary("popc.b64", |a, _, _, _| u64::from(a.count_ones()));
    // The upper or the lower half of the 64 bits b:a, shifted by c mod 32.
    table.ternary("shf.l.wrap.b32", |a, b, c, _| ((b << 32 | u64::from(a as u32)) << (c & 31)) >> 32);
    table.ternary("shf.r.wrap.b32", |a, b, c, _| (b << 32 | u64::from(a as u32)) >> (c & 31));
    // c bits of a, from bit b on.
    table.ternary("bfe.u32", |a, b, c, _| {
        let (at, len) = (b & 255, (c & 255).min(32));
        if at > 31 { 0 } else { (u64::from(a as u32) >> at) & ((1 << len) - 1) }
    });
    // b, with the d lowest bits of a from bit c on, as far as there are bits.
    table.quaternary("bfi.b32", |a, b, c, d| u64::from(inserted(a, b, c, d, 32) as u32));
    table.quaternary("bfi.b64", |a, b, c, d| inserted(a, b, c, d, 64));
    // Each byte one of the eight of b:a, or its sign eight times.
    table.ternary("prmt.b32", |a, b, c, _| {
        let bytes = (b << 32 | u64::from(a as u32)).to_le_bytes();
        (0..4).fold(0, |result, i| {
            let selector = (c >> (4 * i)) & 15;
            let byte = bytes[(selector & 7) as usize];
            let byte = if selector & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 };
            result | u64::from(byte) << (8 * i)
        })
    });
    // The bit that the table d has for three bits.
    table.quaternary("lop3.b32", |a, b, c, d| {
        (0..32).fold(0, |result, i| {
            let index = ((a >> i) & 1) << 2 | ((b >> i) & 1) << 1 | ((c >> i) & 1);
            result | ((d >> index) & 1) << i
        })
    });
}

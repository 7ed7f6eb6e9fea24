//! cvt between integers, from integers to f32, and between f32 and the half types (PTX ISA, "Data Movement and Conversion
//! Instructions: cvt"). Rounded to nearest even.

use half::{bf16, f16};

use super::compute::Table;
use super::float::{canonical, float};

macro_rules! define_from {
    ($table:ident, $name:literal, $from:ty) => {
        // Extended or cut to the type; a register that is wider than the type takes it sign or zero extended ("Operand Size
        // Exceeding Instruction-Type Size", 9.4.1).
        $table.unary(concat!("cvt.u16.", $name), |a, _, _, _| a as $from as u16 as u64);
        $table.unary(concat!("cvt.s16.", $name), |a, _, _, _| a as $from as i16 as u64);
        $table.unary(concat!("cvt.u32.", $name), |a, _, _, _| a as $from as u32 as u64);
        $table.unary(concat!("cvt.s32.", $name), |a, _, _, _| a as $from as i32 as u64);
        $table.unary(concat!("cvt.u64.", $name), |a, _, _, _| a as $from as u64);
        $table.unary(concat!("cvt.s64.", $name), |a, _, _, _| a as $from as u64);
        $table.unary(concat!("cvt.rn.f32.", $name), |a, _, _, _| canonical(a as $from as f32));
    };
}

// Widening or not: the casts are the same for all types.
#[allow(clippy::cast_lossless)]
fn define_integers(table: &mut Table) {
    define_from!(table, "u8", u8);
    define_from!(table, "s8", i8);
    define_from!(table, "u16", u16);
    define_from!(table, "s16", i16);
    define_from!(table, "u32", u32);
    define_from!(table, "s32", i32);
    define_from!(table, "u64", u64);
    define_from!(table, "s64", i64);
}

/// The bits of an f16; of NaN the canonical one.
fn to_f16(value: f32) -> u64 {
    if value.is_nan() { 0x7fff } else { u64::from(f16::from_f32(value).to_bits()) }
}

/// The bits of a bf16; of NaN the canonical one.
fn to_bf16(value: f32) -> u64 {
    if value.is_nan() { 0x7fff } else { u64::from(bf16::from_f32(value).to_bits()) }
}

pub(super) fn define(table: &mut Table) {
    define_integers(table);
    table.unary("cvt.rn.f16.f32", |a, _, _, _| to_f16(float(a)));
    table.unary("cvt.rn.bf16.f32", |a, _, _, _| to_bf16(float(a)));
    // The first operand is the upper half.
    table.binary("cvt.rn.f16x2.f32", |a, b, _, _| to_f16(float(a)) << 16 | to_f16(float(b)));
    table.binary("cvt.rn.bf16x2.f32", |a, b, _, _| to_bf16(float(a)) << 16 | to_bf16(float(b)));
    table.unary("cvt.f32.f16", |a, _, _, _| canonical(f16::from_bits(a as u16).to_f32()));
    table.unary("cvt.f32.bf16", |a, _, _, _| canonical(bf16::from_bits(a as u16).to_f32()));
}

//! f32 arithmetic (PTX ISA, "Floating Point Instructions"): IEEE, rounded to nearest even, with subnormals.
//!
//! Only forms that say `.rn` are known: ptxas may contract the others. `.ftz` and `.approx` are not known either.

use super::compute::Table;

/// An f32 in the low bits.
pub(super) fn float(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

/// The bits of a result. Those that are NaN are the canonical one ("Floating Point Instructions": NaN payloads are not
/// preserved, operations generate 0x7fffffff).
pub(super) fn canonical(value: f32) -> u64 {
    if value.is_nan() { 0x7fff_ffff } else { u64::from(value.to_bits()) }
}

/// Whether a is less than b, with -0 less than 0, as min and max have it.
fn is_less(a: f32, b: f32) -> bool {
    a < b || (a == b && a.is_sign_negative() && b.is_sign_positive())
}

/// The one of two numbers; of a number and a NaN the number.
fn number_of(a: u64, b: u64, takes_a: fn(f32, f32) -> bool) -> u64 {
    match (float(a).is_nan(), float(b).is_nan()) {
        (true, true) => canonical(f32::NAN),
        (true, false) => b,
        (false, true) => a,
        (false, false) => {
            if takes_a(float(a), float(b)) {
                a
            } else {
                b
            }
        }
    }
}

/// [`number_of`], and NaN if one is NaN.
fn nan_or_number_of(a: u64, b: u64, takes_a: fn(f32, f32) -> bool) -> u64 {
    if float(a).is_nan() || float(b).is_nan() { canonical(f32::NAN) } else { number_of(a, b, takes_a) }
}

pub(super) fn define(table: &mut Table) {
    table.binary("add.rn.f32", |a, b, _, _| canonical(float(a) + float(b)));
    table.binary("sub.rn.f32", |a, b, _, _| canonical(float(a) - float(b)));
    table.binary("mul.rn.f32", |a, b, _, _| canonical(float(a) * float(b)));
    table.binary("div.rn.f32", |a, b, _, _| canonical(float(a) / float(b)));
    table.unary("rcp.rn.f32", |a, _, _, _| canonical(1.0 / float(a)));
    table.unary("sqrt.rn.f32", |a, _, _, _| canonical(float(a).sqrt()));
    table.ternary("fma.rn.f32", |a, b, c, _| canonical(float(a).mul_add(float(b), float(c))));
    table.unary("neg.f32", |a, _, _, _| a ^ 0x8000_0000);
    table.unary("abs.f32", |a, _, _, _| a & 0x7fff_ffff);
    table.binary("min.f32", |a, b, _, _| number_of(a, b, is_less));
    table.binary("max.f32", |a, b, _, _| number_of(a, b, |a, b| is_less(b, a)));
    table.binary("min.NaN.f32", |a, b, _, _| nan_or_number_of(a, b, is_less));
    table.binary("max.NaN.f32", |a, b, _, _| nan_or_number_of(a, b, |a, b| is_less(b, a)));
}

//! setp, selp, mov and predicates (PTX ISA, "Comparison and Selection Instructions", "Logic and Shift Instructions").

use super::compute::Table;
use super::float::float;

macro_rules! define_width {
    ($table:ident, $width:literal, $signed:ty, $unsigned:ty) => {{
        type S = $signed;
        type U = $unsigned;
        for ty in ["s", "u", "b"] {
            $table.binary(&format!("setp.eq.{ty}{}", $width), |a, b, _, _| u64::from(a as U == b as U));
            $table.binary(&format!("setp.ne.{ty}{}", $width), |a, b, _, _| u64::from(a as U != b as U));
        }
        $table.binary(concat!("setp.lt.u", $width), |a, b, _, _| u64::from((a as U) < b as U));
        $table.binary(concat!("setp.le.u", $width), |a, b, _, _| u64::from(a as U <= b as U));
        $table.binary(concat!("setp.gt.u", $width), |a, b, _, _| u64::from(a as U > b as U));
        $table.binary(concat!("setp.ge.u", $width), |a, b, _, _| u64::from(a as U >= b as U));
        $table.binary(concat!("setp.lt.s", $width), |a, b, _, _| u64::from((a as S) < b as S));
        $table.binary(concat!("setp.le.s", $width), |a, b, _, _| u64::from(a as S <= b as S));
        $table.binary(concat!("setp.gt.s", $width), |a, b, _, _| u64::from(a as S > b as S));
        $table.binary(concat!("setp.ge.s", $width), |a, b, _, _| u64::from(a as S >= b as S));
        for ty in ["s", "u", "b", "f"] {
            $table.unary(&format!("mov.{ty}{}", $width), |a, _, _, _| a);
            // a where the predicate c is true, else b.
            $table.ternary(&format!("selp.{ty}{}", $width), |a, b, c, _| if c & 1 == 1 { a } else { b });
        }
    }};
}

pub(super) fn define(table: &mut Table) {
    define_width!(table, "16", i16, u16);
    define_width!(table, "32", i32, u32);
    define_width!(table, "64", i64, u64);
    define_floats(table);
    table.unary("mov.pred", |a, _, _, _| a);
    table.unary("not.pred", |a, _, _, _| !a);
    table.binary("and.pred", |a, b, _, _| a & b);
    table.binary("or.pred", |a, b, _, _| a | b);
    table.binary("xor.pred", |a, b, _, _| a ^ b);
}

/// Ordered comparisons are false where an operand is NaN, those with a u are true.
fn define_floats(table: &mut Table) {
    fn unordered(a: u64, b: u64) -> bool {
        float(a).is_nan() || float(b).is_nan()
    }
    table.binary("setp.eq.f32", |a, b, _, _| u64::from(float(a) == float(b)));
    table.binary("setp.ne.f32", |a, b, _, _| u64::from(float(a) != float(b) && !unordered(a, b)));
    table.binary("setp.lt.f32", |a, b, _, _| u64::from(float(a) < float(b)));
    table.binary("setp.le.f32", |a, b, _, _| u64::from(float(a) <= float(b)));
    table.binary("setp.gt.f32", |a, b, _, _| u64::from(float(a) > float(b)));
    table.binary("setp.ge.f32", |a, b, _, _| u64::from(float(a) >= float(b)));
    table.binary("setp.equ.f32", |a, b, _, _| u64::from(float(a) == float(b) || unordered(a, b)));
    table.binary("setp.neu.f32", |a, b, _, _| u64::from(float(a) != float(b)));
    table.binary("setp.ltu.f32", |a, b, _, _| u64::from(float(a) < float(b) || unordered(a, b)));
    table.binary("setp.leu.f32", |a, b, _, _| u64::from(float(a) <= float(b) || unordered(a, b)));
    table.binary("setp.gtu.f32", |a, b, _, _| u64::from(float(a) > float(b) || unordered(a, b)));
    table.binary("setp.geu.f32", |a, b, _, _| u64::from(float(a) >= float(b) || unordered(a, b)));
    table.binary("setp.num.f32", |a, b, _, _| u64::from(!unordered(a, b)));
    table.binary("setp.nan.f32", |a, b, _, _| u64::from(unordered(a, b)));
}

//! setp, selp and predicates.

use crate::program::{Program, bits_32, bits_64, predicate};

const NAN: u32 = 0x7fc0_0000;

#[test]
fn integers() {
    let holds =
        |op: &str, a: u32, b: u32| predicate(&format!("mov.b32 %r1, {a}; mov.b32 %r2, {b}; {op} %p0, %r1, %r2;"));
    // Pairs: -1 and 1, 1 and 1, 1 and -1; -1 is the largest without a sign.
    for (op, expected) in [
        ("setp.eq.s32", [false, true, false]),
        ("setp.ne.b32", [true, false, true]),
        ("setp.lt.s32", [true, false, false]),
        ("setp.le.s32", [true, true, false]),
        ("setp.gt.s32", [false, false, true]),
        ("setp.ge.s32", [false, true, true]),
        ("setp.lt.u32", [false, false, true]),
        ("setp.le.u32", [false, true, true]),
        ("setp.gt.u32", [true, false, false]),
        ("setp.ge.u32", [true, true, false]),
    ] {
        let got = [holds(op, 0xffff_ffff, 1), holds(op, 1, 1), holds(op, 1, 0xffff_ffff)];
        assert_eq!(got, expected, "{op}");
    }
    // Only the width of the type counts.
    assert!(predicate("mov.b32 %r1, 0x18000; cvt.u16.u32 %h1, %r1; setp.lt.s16 %p0, %h1, 0;"));
    assert!(predicate("mov.b64 %d1, 0x100000000; setp.ne.s64 %p0, %d1, 0;"));
    assert!(predicate("mov.b64 %d1, -1; setp.lt.s64 %p0, %d1, 0;"));
    assert!(!predicate("mov.b64 %d1, -1; setp.lt.u64 %p0, %d1, 1;"));
}

#[test]
fn floats() {
    let holds =
        |op: &str, a: u32, b: u32| predicate(&format!("mov.b32 %r1, {a}; mov.b32 %r2, {b}; {op} %p0, %r1, %r2;"));
    let (one, two) = (0x3f80_0000, 0x4000_0000);
    // Pairs: 1 and 2, 2 and 2, 2 and 1, NaN and 1, 1 and NaN, NaN and NaN, -0 and +0.
    for (op, expected) in [
        ("setp.eq.f32", [0, 1, 0, 0, 0, 0, 1]),
        ("setp.ne.f32", [1, 0, 1, 0, 0, 0, 0]),
        ("setp.lt.f32", [1, 0, 0, 0, 0, 0, 0]),
        ("setp.le.f32", [1, 1, 0, 0, 0, 0, 1]),
        ("setp.gt.f32", [0, 0, 1, 0, 0, 0, 0]),
        ("setp.ge.f32", [0, 1, 1, 0, 0, 0, 1]),
        ("setp.equ.f32", [0, 1, 0, 1, 1, 1, 1]),
        ("setp.neu.f32", [1, 0, 1, 1, 1, 1, 0]),
        ("setp.ltu.f32", [1, 0, 0, 1, 1, 1, 0]),
        ("setp.leu.f32", [1, 1, 0, 1, 1, 1, 1]),
        ("setp.gtu.f32", [0, 0, 1, 1, 1, 1, 0]),
        ("setp.geu.f32", [0, 1, 1, 1, 1, 1, 1]),
        ("setp.num.f32", [1, 1, 1, 0, 0, 0, 1]),
        ("setp.nan.f32", [0, 0, 0, 1, 1, 1, 0]),
    ] {
        let pairs = [(one, two), (two, two), (two, one), (NAN, one), (one, NAN), (NAN, NAN), (0x8000_0000, 0)];
        let got = pairs.map(|(a, b)| u32::from(holds(op, a, b)));
        assert_eq!(got, expected, "{op}");
    }
}

#[test]
fn selections() {
    let set = "setp.eq.s32 %p1, 1, 1; setp.eq.s32 %p2, 1, 2;";
    assert_eq!(bits_32(&format!("{set} selp.b32 %r0, 7, 8, %p1;")), 7);
    assert_eq!(bits_32(&format!("{set} selp.f32 %r0, 0f3F800000, 0f40000000, %p2;")), 0x4000_0000);
    assert_eq!(bits_64(&format!("{set} selp.b64 %d0, -1, 8, %p1;")), u64::MAX);
}

#[test]
fn predicates() {
    // %p1 is true, %p2 false.
    for (op, expected) in [
        ("mov.pred %p0, %p1;", true),
        ("mov.pred %p0, %p2;", false),
        ("not.pred %p0, %p1;", false),
        ("not.pred %p0, %p2;", true),
        ("and.pred %p0, %p1, %p1;", true),
        ("and.pred %p0, %p1, %p2;", false),
        ("or.pred %p0, %p2, %p1;", true),
        ("or.pred %p0, %p2, %p2;", false),
        ("xor.pred %p0, %p1, %p2;", true),
        ("xor.pred %p0, %p1, %p1;", false),
    ] {
        let got = predicate(&format!("setp.eq.s32 %p1, 1, 1; setp.eq.s32 %p2, 1, 2; {op}"));
        assert_eq!(got, expected, "{op}");
    }
}

#[test]
fn two_destinations_are_not_known() {
    Program::new("setp.eq.s32 %p1|%p2, 1, 1;").traps(&["a.ptx:12", "%p1|%p2"]);
}

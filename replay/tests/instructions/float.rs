//! f32 arithmetic.

use crate::program::{binary_32, ternary_32, unary_32};

const ONE: u32 = 0x3f80_0000;
const THREE: u32 = 0x4040_0000;
const INFINITY: u32 = 0x7f80_0000;
const NAN: u32 = 0x7fff_ffff;
const OTHER_NAN: u32 = 0xffc0_1234;

#[test]
fn rounds_to_nearest_even() {
    for (op, a, b, expected) in [
        // 1 + 2^-24 is halfway, 1 + 2^-23 is even there; 1 + 3 * 2^-24 goes up to the even one.
        ("add.rn.f32", ONE, 0x3380_0000, ONE),
        ("add.rn.f32", 0x3f80_0001, 0x3380_0000, 0x3f80_0002),
        ("sub.rn.f32", ONE, ONE, 0),
        ("sub.rn.f32", 0x8000_0000, 0, 0x8000_0000),
        ("mul.rn.f32", 0x3f80_0001, 0x3f80_0001, 0x3f80_0002),
        ("mul.rn.f32", 0x7f7f_ffff, 0x4000_0000, INFINITY),
        ("div.rn.f32", ONE, THREE, 0x3eaa_aaab),
        ("div.rn.f32", 0x4000_0000, THREE, 0x3f2a_aaab),
        ("div.rn.f32", ONE, 0x8000_0000, 0xff80_0000),
    ] {
        assert_eq!(binary_32(op, a, b), expected, "{op} {a:#x}, {b:#x}");
    }
    for (op, a, expected) in [
        ("rcp.rn.f32", THREE, 0x3eaa_aaab),
        ("rcp.rn.f32", 0x40e0_0000, 0x3e12_4925), // 1/7
        ("rcp.rn.f32", 0x8000_0000, 0xff80_0000),
        ("sqrt.rn.f32", 0x4000_0000, 0x3fb5_04f3),
        ("sqrt.rn.f32", 0x4110_0000, THREE),
        ("sqrt.rn.f32", 0x8000_0000, 0x8000_0000),
        ("neg.f32", 0, 0x8000_0000),
        ("abs.f32", 0xff80_0000, INFINITY),
    ] {
        assert_eq!(unary_32(op, a), expected, "{op} {a:#x}");
    }
}

/// (1 + 2^-23)^2 - (1 + 2^-22) is 2^-46; a product that is rounded first leaves 0.
#[test]
fn fma_rounds_once() {
    assert_eq!(ternary_32("fma.rn.f32", 0x3f80_0001, 0x3f80_0001, 0xbf80_0002), 0x2880_0000);
    assert_eq!(ternary_32("fma.rn.f32", INFINITY, 0, ONE), NAN);
}

#[test]
fn subnormals_are_kept() {
    for (op, a, b, expected) in [
        ("add.rn.f32", 1, 2, 3),
        ("sub.rn.f32", 0x0080_0000, 1, 0x007f_ffff),
        ("mul.rn.f32", 0x0080_0000, 0x3f00_0000, 0x0040_0000),
        // Half of the least one goes to the even 0, three halves of it to 2.
        ("mul.rn.f32", 1, 0x3f00_0000, 0),
        ("mul.rn.f32", 3, 0x3f00_0000, 2),
        ("div.rn.f32", 0x0080_0000, 0x4000_0000, 0x0040_0000),
        ("min.f32", 1, 2, 1),
    ] {
        assert_eq!(binary_32(op, a, b), expected, "{op} {a:#x}, {b:#x}");
    }
    assert_eq!(unary_32("rcp.rn.f32", 0x7f00_0000), 0x0040_0000);
}

#[test]
fn nans_are_the_canonical_one() {
    for op in ["add.rn.f32", "sub.rn.f32", "mul.rn.f32", "div.rn.f32"] {
        assert_eq!(binary_32(op, OTHER_NAN, ONE), NAN, "{op}");
        assert_eq!(binary_32(op, ONE, OTHER_NAN), NAN, "{op}");
    }
    assert_eq!(binary_32("sub.rn.f32", INFINITY, INFINITY), NAN);
    assert_eq!(binary_32("div.rn.f32", 0, 0), NAN);
    assert_eq!(unary_32("sqrt.rn.f32", 0xbf80_0000), NAN);
    assert_eq!(unary_32("rcp.rn.f32", OTHER_NAN), NAN);
    assert_eq!(ternary_32("fma.rn.f32", ONE, ONE, OTHER_NAN), NAN);
}

#[test]
fn min_and_max() {
    for (op, a, b, expected) in [
        ("min.f32", ONE, THREE, ONE),
        ("max.f32", ONE, THREE, THREE),
        ("min.f32", 0xbf80_0000, THREE, 0xbf80_0000),
        // -0 is less than +0.
        ("min.f32", 0, 0x8000_0000, 0x8000_0000),
        ("min.f32", 0x8000_0000, 0, 0x8000_0000),
        ("max.f32", 0, 0x8000_0000, 0),
        ("max.f32", 0x8000_0000, 0, 0),
        // A NaN and a number give the number, two NaNs the canonical one.
        ("min.f32", OTHER_NAN, ONE, ONE),
        ("min.f32", ONE, OTHER_NAN, ONE),
        ("max.f32", OTHER_NAN, 0xff80_0000, 0xff80_0000),
        ("max.f32", ONE, OTHER_NAN, ONE),
        ("min.f32", OTHER_NAN, OTHER_NAN, NAN),
        ("max.f32", OTHER_NAN, OTHER_NAN, NAN),
        ("min.NaN.f32", OTHER_NAN, ONE, NAN),
        ("min.NaN.f32", ONE, THREE, ONE),
        ("max.NaN.f32", ONE, OTHER_NAN, NAN),
        ("max.NaN.f32", 0x8000_0000, 0, 0),
    ] {
        assert_eq!(binary_32(op, a, b), expected, "{op} {a:#x}, {b:#x}");
    }
}

//! Branches, guards and exits.

use crate::program::{Program, UNWRITTEN, bits_32};

/// 1 + 2 + ... + 10.
#[test]
fn a_loop() {
    let body = "mov.u32 %r0, 0; mov.u32 %r1, 10;
        LOOP: add.s32 %r0, %r0, %r1; add.s32 %r1, %r1, -1; setp.gt.s32 %p1, %r1, 0;
        @%p1 bra LOOP;";
    assert_eq!(bits_32(body), 55);
}

#[test]
fn guards() {
    let set = "setp.eq.s32 %p1, 1, 1; setp.eq.s32 %p2, 1, 2; mov.u32 %r0, 0;";
    assert_eq!(bits_32(&format!("{set} @%p1 add.s32 %r0, %r0, 1; @!%p1 add.s32 %r0, %r0, 10;")), 1);
    assert_eq!(bits_32(&format!("{set} @%p2 add.s32 %r0, %r0, 1; @!%p2 add.s32 %r0, %r0, 10;")), 10);
    // Instructions whose guard is false are not checked.
    assert_eq!(bits_32(&format!("{set} @%p2 ld.global.u32 %r1, [0]; @%p2 trap;")), 0);
}

#[test]
fn branches_forward_and_past_the_end() {
    assert_eq!(bits_32("mov.u32 %r0, 1; bra.uni PAST; mov.u32 %r0, 2; PAST:"), 1);
    let body = "setp.lt.u32 %p1, %r31, 2; @%p1 exit; st.global.u32 [%d14], 1;";
    assert_eq!(Program::new(body).threads(4).first(), [UNWRITTEN, UNWRITTEN, 1, 1]);
    let body = "setp.ge.u32 %p1, %r31, 2; @%p1 ret; st.global.u32 [%d14], 1;";
    assert_eq!(Program::new(body).threads(4).first(), [1, 1, UNWRITTEN, UNWRITTEN]);
}

/// Threads take either side, and each thread has registers of its own.
#[test]
fn divergence() {
    let body = "and.b32 %r1, %r31, 1; setp.eq.s32 %p1, %r1, 0; @%p1 bra EVEN;
        mad.lo.s32 %r0, %r31, 100, 1; bra JOIN;
        EVEN: mul.lo.s32 %r0, %r31, 10;
        JOIN: st.global.u32 [%d14], %r0;";
    assert_eq!(Program::new(body).threads(6).first(), [0, 101, 20, 301, 40, 501]);
}

#[test]
fn a_trap_tells_where() {
    Program::new("mov.u32 %r0, 1;\ntrap;").traps(&["trap at CTA 0 thread 0, a.ptx:13 \"trap\""]);
}

//! bar.sync, shfl.sync, vote.sync.

use crate::program::{Program, UNWRITTEN};

/// Each thread stores in shared memory, and reads its mirror's behind the barrier; three times.
#[test]
fn a_barrier_orders_shared_memory() {
    let body = "mov.u32 %r1, shared; mad.lo.s32 %r2, %r31, 4, %r1; sub.s32 %r3, 63, %r31; mad.lo.s32 %r3, %r3, 4, %r1;
        mov.u32 %r4, %r31; mov.u32 %r5, 0;
        LOOP: st.shared.u32 [%r2], %r4; bar.sync 0; ld.shared.u32 %r4, [%r3]; bar.sync 0;
        add.s32 %r4, %r4, 1; add.s32 %r5, %r5, 1; setp.lt.u32 %p1, %r5, 3; @%p1 bra LOOP;
        st.global.u32 [%d14], %r4;";
    // Turned around an odd number of times, and three more.
    let got = Program::new(body).threads(64).shared(256).run();
    assert_eq!([got[0], got[1], got[62], got[63]], [66, 65, 4, 3]);
}

#[test]
fn a_barrier_waits_for_those_alone_that_have_not_exited() {
    let body = "setp.lt.u32 %p1, %r31, 40; @%p1 exit; bar.sync 0; st.global.u32 [%d14], 1;";
    let got = Program::new(body).threads(64).run();
    assert_eq!([got[0], got[39], got[40], got[63]], [UNWRITTEN, UNWRITTEN, 1, 1]);
}

/// The values that lanes get from shfl.sync, whose `a` is 100 plus the lane; 1000 is added where the predicate is true.
fn shuffle(kind: &str, b: u32, c: u32) -> [u32; 32] {
    let body = format!(
        "add.s32 %r1, %r31, 100; mov.b32 %r2, {c};
        shfl.sync.{kind}.b32 %r0|%p1, %r1, {b}, %r2, -1;
        selp.u32 %r3, 1000, 0, %p1; add.s32 %r0, %r0, %r3; st.global.u32 [%d14], %r0;"
    );
    Program::new(&body).threads(32).first()
}

/// The first, the second, one in the middle, and the last two lanes.
fn some(got: [u32; 32]) -> [u32; 5] {
    [0, 1, 15, 30, 31].map(|lane| got[lane])
}

#[test]
fn shuffles_of_a_warp() {
    assert_eq!(some(shuffle("bfly", 1, 31)), [1101, 1100, 1114, 1131, 1130]);
    assert_eq!(some(shuffle("bfly", 16, 31)), [1116, 1117, 1131, 1114, 1115]);
    // Lanes get from below; the first get their own, without the predicate.
    assert_eq!(some(shuffle("up", 1, 0)), [100, 1100, 1114, 1129, 1130]);
    assert_eq!(some(shuffle("up", 0, 0)), [1100, 1101, 1115, 1130, 1131]);
    assert_eq!(some(shuffle("down", 1, 31)), [1101, 1102, 1116, 1131, 131]);
    assert_eq!(some(shuffle("idx", 5, 31)), [1105; 5]);
    // Only five bits of the lane count.
    assert_eq!(some(shuffle("idx", 37, 31)), [1105; 5]);
}

/// Segments of 8 lanes: mask 0x18 in bits 8 to 12, and a clamp of 7 or 0 in the low ones.
#[test]
fn shuffles_of_segments() {
    let (to_7, to_0) = (0x1807, 0x1800);
    let last = |got: [u32; 32]| [7, 8, 9, 15, 16].map(|lane| got[lane]);
    assert_eq!(last(shuffle("up", 1, to_0)), [1106, 108, 1108, 1114, 116]);
    assert_eq!(last(shuffle("down", 1, to_7)), [107, 1109, 1110, 115, 1117]);
    assert_eq!(last(shuffle("idx", 3, to_7)), [1103, 1111, 1111, 1111, 1119]);
    // A number beyond the segment wraps: 11 is 3.
    assert_eq!(last(shuffle("idx", 11, to_7)), [1103, 1111, 1111, 1111, 1119]);
    // A partner of a higher segment is out of range, one of a lower is not.
    assert_eq!(last(shuffle("bfly", 8, to_7)), [107, 1100, 1101, 1107, 116]);
    assert_eq!(last(shuffle("bfly", 1, to_7)), [1106, 1109, 1108, 1114, 1117]);
    // A clamp below the segment's last lane.
    assert_eq!(last(shuffle("down", 1, 0x1803)), [107, 1109, 1110, 115, 1117]);
    assert_eq!([3, 4].map(|lane| shuffle("down", 1, 0x1803)[lane]), [103, 104]);
}

/// Two parts of a warp at shuffles of their own, with the lanes that they name.
#[test]
fn shuffles_of_partial_masks() {
    let body = "setp.lt.u32 %p1, %r31, 4; @%p1 bra FEW;
        shfl.sync.bfly.b32 %r0, %r31, 8, 31, 0xfffffff0; bra JOIN;
        FEW: shfl.sync.bfly.b32 %r0, %r31, 1, 31, 0xf;
        JOIN: st.global.u32 [%d14], %r0;";
    let got = Program::new(body).threads(32).run_seed(3).unwrap_err();
    assert!(got.contains("a shuffle from lane"), "lane 8 reads from lane 0: {got}");
    let body = body.replace("%r31, 8", "%r31, 16").replace("0xfffffff0", "0xfff0fff0").replace("lt.u32", "eq.u32");
    let body = body.replace("%p1, %r31, 4", "%p1, %r2, 0").replace("setp", "and.b32 %r2, %r31, 12; setp");
    // Lanes 0 to 3 and 16 to 19 are in different collectives.
    let body = body.replace("0xf;", "0xf000f;");
    let got = Program::new(&body).threads(32).run();
    assert_eq!([got[0], got[1], got[4], got[18], got[20], got[31]], [1, 0, 20, 19, 4, 15]);
}

#[test]
fn a_shuffle_from_a_lane_that_is_not_there_traps() {
    let from_exited = "setp.eq.s32 %p1, %r31, 5; @%p1 exit; shfl.sync.idx.b32 %r0, %r31, 5, 31, -1;";
    Program::new(from_exited).threads(32).traps(&["a shuffle from lane 5, which does not take part", "a.ptx:12"]);
    // Twenty lanes of a warp: 4 + 16 is the first that is not there.
    Program::new("shfl.sync.bfly.b32 %r0, %r31, 16, 31, -1;").threads(20).traps(&["a shuffle from lane 20"]);
    Program::new("shfl.sync.idx.b32 %r0, %r31, 1, 31, 2;").threads(2).traps(&["whose mask lacks the lane itself"]);
}

/// A warp with fewer lanes than its masks name goes on without them.
#[test]
fn lanes_that_the_cta_does_not_have() {
    let body = "shfl.sync.idx.b32 %r0, %r31, 19, 31, -1; setp.eq.s32 %p1, 1, 1;
        vote.sync.ballot.b32 %r1, %p1, -1; add.s32 %r0, %r0, %r1; st.global.u32 [%d14], %r0;";
    let got = Program::new(body).threads(52).run();
    assert_eq!([got[0], got[31], got[32], got[51]], [18, 18, 0x0010_0032, 0x0010_0032]);
}

fn vote(predicate: &str, kind: &str) -> u32 {
    let set = if kind.ends_with("b32") { "" } else { "selp.u32 %r0, 1, 0, %p2;" };
    let to = if kind.ends_with("b32") { "%r0" } else { "%p2" };
    let body = format!(
        "setp.ge.u32 %p3, %r31, 30; @%p3 exit; {predicate} vote.sync.{kind} {to}, %p1, -1; {set}
        st.global.u32 [%d15], %r0;"
    );
    Program::new(&body).threads(32).run()[0]
}

/// The last two lanes have exited: any and all are of the others, and ballot has 0 for them.
#[test]
fn votes() {
    let (some, none, all) = ("setp.eq.s32 %p1, %r31, 3;", "setp.gt.u32 %p1, %r31, 40;", "setp.lt.u32 %p1, %r31, 40;");
    assert_eq!([some, none, all].map(|predicate| vote(predicate, "any.pred")), [1, 0, 1]);
    assert_eq!([some, none, all].map(|predicate| vote(predicate, "all.pred")), [0, 0, 1]);
    assert_eq!([some, none, all].map(|predicate| vote(predicate, "ballot.b32")), [8, 0, 0x3fff_ffff]);
}

#[test]
fn a_vote_of_some_lanes() {
    let body = "setp.ge.u32 %p3, %r31, 8; @%p3 bra DONE; setp.ne.s32 %p1, %r31, 2;
        vote.sync.ballot.b32 %r0, %p1, 0xff; st.global.u32 [%d14], %r0; DONE:";
    assert_eq!(Program::new(body).threads(32).first::<8>(), [0xfb; 8]);
}

/// Lane 0 names two lanes, the others name three: none of them waits for what the others do.
#[test]
fn lanes_of_different_masks_do_not_meet() {
    let body = "setp.eq.s32 %p1, %r31, 0; selp.b32 %r1, 3, 7, %p1; shfl.sync.idx.b32 %r0, %r31, 1, 31, %r1;";
    Program::new(body).threads(3).traps(&["deadlock: 3 threads at a.ptx:12"]);
    let body = "setp.eq.s32 %p1, %r31, 0; @%p1 bra UP; shfl.sync.down.b32 %r0, %r31, 0, 31, 3; ret;
        UP: shfl.sync.up.b32 %r0, %r31, 0, 0, 3;";
    Program::new(body).threads(2).traps(&["deadlock: 1 threads at a.ptx:12", "1 threads at a.ptx:13"]);
}

/// Other lanes than those of the mask are not waited for, and one of them that never comes is.
#[test]
fn lanes_that_do_not_come() {
    let body =
        "setp.eq.s32 %p1, %r31, 0; @%p1 bra LOOP; shfl.sync.idx.b32 %r0, %r31, 1, 31, -1; ret;\nLOOP: bar.sync 0;";
    Program::new(body).threads(32).traps(&["deadlock", "31 threads at a.ptx:12", "1 threads at a.ptx:13"]);
}

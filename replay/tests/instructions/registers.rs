//! mov of parts and of special registers.

use crate::program::{Program, bits_16, bits_32, bits_64};

#[test]
fn halves() {
    assert_eq!(bits_32("mov.b16 %h1, 0x1122; mov.b16 %h2, 0x3344; mov.b32 %r0, {%h1, %h2};"), 0x3344_1122);
    assert_eq!(
        bits_64("mov.b32 %r1, 0x11223344; mov.b32 %r2, 0x55667788; mov.b64 %d0, {%r1, %r2};"),
        0x5566_7788_1122_3344
    );
    assert_eq!(bits_16("mov.b32 %r1, 0x11223344; mov.b32 {%h0, %h1}, %r1;"), 0x3344);
    assert_eq!(bits_16("mov.b32 %r1, 0x11223344; mov.b32 {_, %h0}, %r1;"), 0x1122);
    assert_eq!(bits_32("mov.b64 %d1, 0x5566778811223344; mov.b64 {%r0, %r1}, %d1;"), 0x1122_3344);
    assert_eq!(bits_32("mov.b64 %d1, 0x5566778811223344; mov.b64 {%r1, %r0}, %d1;"), 0x5566_7788);
}

/// Two halves are converted as the headers of CUDA do it.
#[test]
fn registers_of_halves() {
    let body = "mov.b32 %r1, 0x40003c00; {.reg .f16 low,high;\n mov.b32 {low,high}, %r1;\n cvt.f32.f16 %r0, high;}";
    assert_eq!(bits_32(body), 0x4000_0000);
}

#[test]
fn numbers() {
    assert_eq!(bits_32("mov.b32 %r0, -7;"), 0xffff_fff9);
    assert_eq!(bits_32("mov.b32 %r0, 0xFfU;"), 255);
    assert_eq!(bits_32("mov.f32 %r0, 0fBF800000;"), 0xbf80_0000);
    assert_eq!(bits_16("mov.u16 %h0, -1;"), 0xffff);
}

/// A grid of 2 x 3 x 2 CTAs of 4 x 2 x 3 threads: each thread writes what the registers are.
#[test]
fn places_in_a_grid() {
    let names = ["%tid.x", "%tid.y", "%tid.z", "%ctaid.x", "%ctaid.y", "%ctaid.z", "%ntid.y", "%nctaid.y", "%laneid"];
    let radixes = [4, 2, 3, 2, 3, 2, 1 << 8, 1 << 8, 1 << 8];
    for (name, register) in names.iter().zip(0..) {
        // The number of the CTA and of the thread, x first.
        let mut program = Program::new(&format!(
            "mov.u32 %r1, %ctaid.y; mov.u32 %r2, %ctaid.z; mov.u32 %r3, %tid.y; mov.u32 %r4, %tid.z;
            mad.lo.s32 %r5, %r2, 3, %r1; mad.lo.s32 %r5, %r5, 2, %r30;
            mad.lo.s32 %r6, %r4, 2, %r3; mad.lo.s32 %r6, %r6, 4, %r31;
            mad.lo.s32 %r7, %r5, 24, %r6; mul.wide.u32 %d1, %r7, 4; add.s64 %d1, %d1, %d15;
            mov.u32 %r0, {name}; st.global.u32 [%d1], %r0;"
        ));
        program.launch.grid = [2, 3, 2];
        program.launch.block = [4, 2, 3];
        program.launch.allocations[0].before = ptx_replay::launch::Contents::unwritten(4 * 12 * 24);
        let got = program.run();
        let at = |cta: [u32; 3], thread: [u32; 3]| {
            got[((cta[2] * 3 + cta[1]) * 2 + cta[0]) as usize * 24
                + ((thread[2] * 2 + thread[1]) * 4 + thread[0]) as usize]
        };
        let expected: [u32; 9] = [3, 1, 2, 1, 2, 1, 2, 3, 23];
        assert_eq!(at([1, 2, 1], [3, 1, 2]), expected[register], "{name}");
        let expected: [u32; 9] = [1, 0, 1, 0, 1, 1, 2, 3, 9];
        assert_eq!(at([0, 1, 1], [1, 0, 1]), expected[register], "{name}");
        assert!(got.iter().all(|&value| value < radixes[register]), "{name}");
    }
}

#[test]
fn lanes_count_within_warps() {
    let got = Program::new("mov.u32 %r0, %laneid; st.global.u32 [%d14], %r0;").threads(64).run();
    assert_eq!([got[0], got[31], got[32], got[63]], [0, 31, 0, 31]);
}

/// Three clusters of two CTAs.
#[test]
fn ranks_in_a_cluster() {
    let body = "mov.u32 %r1, %cluster_ctarank; mov.u32 %r2, %cluster_nctarank; mad.lo.s32 %r0, %r2, 10, %r1;
        st.global.u32 [%d14], %r0;";
    assert_eq!(Program::new(body).cluster(2).ctas(6).first(), [20, 21, 20, 21, 20, 21]);
}

/// A number of a warp is not what the ISA promises: "Special Registers: %warpid".
#[test]
fn the_number_of_a_warp_is_not_known() {
    Program::new("mov.u32 %r0, %warpid;").traps(&["a.ptx:12", "%warpid"]);
}

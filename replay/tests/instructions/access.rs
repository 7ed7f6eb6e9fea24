//! ld, st, atom, cvta.

use crate::program::{Program, UNWRITTEN, bits_16, bits_32, bits_64, module};

/// A word whose bytes are stored, and then loaded by a code that leaves `%r0`.
fn load(code: &str) -> u32 {
    bits_32(&format!("mov.b64 %d1, 0x8877665584838281; st.global.u64 [%d15], %d1; {code}"))
}

#[test]
fn loads_of_all_widths() {
    assert_eq!(load("ld.global.u8 %r0, [%d15+1];"), 0x82);
    assert_eq!(load("ld.global.b8 %r0, [%d15+1];"), 0x82);
    assert_eq!(load("ld.global.s8 %r0, [%d15+1];"), 0xffff_ff82);
    assert_eq!(load("ld.global.u16 %r0, [%d15+2];"), 0x8483);
    assert_eq!(load("ld.global.s16 %r0, [%d15+2];"), 0xffff_8483);
    assert_eq!(load("ld.global.b32 %r0, [%d15+4];"), 0x8877_6655);
    assert_eq!(load("add.s64 %d2, %d15, 8; ld.global.f32 %r0, [%d2+-4];"), 0x8877_6655);
    let store = "mov.b64 %d1, 0x8877665584838281; st.global.u64 [%d15], %d1;";
    assert_eq!(bits_64(&format!("{store} ld.global.u64 %d0, [%d15];")), 0x8877_6655_8483_8281);
    assert_eq!(bits_64(&format!("{store} ld.global.s32 %d0, [%d15];")), 0xffff_ffff_8483_8281);
    assert_eq!(bits_64(&format!("{store} ld.global.u32 %d0, [%d15];")), 0x8483_8281);
    assert_eq!(bits_16(&format!("{store} ld.global.s8 %h0, [%d15];")), 0xff81);
}

/// A store writes its width, and no more.
#[test]
fn stores_of_all_widths() {
    let store = |code: &str| Program::new(&format!("mov.b32 %r1, 0xaabbccdd; {code}")).memory(&[0; 4]).first();
    assert_eq!(store("st.global.u8 [%d15+1], %r1;"), [0xdd00, 0, 0, 0]);
    assert_eq!(store("st.global.u16 [%d15+2], %r1;"), [0xccdd_0000, 0, 0, 0]);
    assert_eq!(store("st.global.b32 [%d15+4], %r1;"), [0, 0xaabb_ccdd, 0, 0]);
    assert_eq!(store("mov.b64 %d1, {%r1, 7}; st.global.b64 [%d15+8], %d1;"), [0, 0, 0xaabb_ccdd, 7]);
    assert_eq!(store("st.global.v2.b32 [%d15+8], {%r1, 5};"), [0, 0, 0xaabb_ccdd, 5]);
    assert_eq!(store("st.global.v4.f32 [%d15], {1, 2, %r1, 0f3F800000};"), [1, 2, 0xaabb_ccdd, 0x3f80_0000]);
    let [first, second] = Program::new("st.global.u32 [%d15+4], 9;").first();
    assert_eq!([first, second], [UNWRITTEN, 9]);
}

#[test]
fn vectors_and_sinks() {
    let load = |code: &str| {
        let program = Program::new(&format!("{code} st.global.u32 [%d15+16], %r0;")).memory(&[1, 2, 3, 4]);
        program.run()[4]
    };
    let sum = "mad.lo.s32 %r0, %r1, 10, %r2; mad.lo.s32 %r0, %r0, 10, %r3; mad.lo.s32 %r0, %r0, 10, %r4;";
    assert_eq!(load(&format!("ld.global.v4.u32 {{%r1, %r2, %r3, %r4}}, [%d15]; {sum}")), 1234);
    assert_eq!(load("ld.global.v4.u32 {_, _, %r0, _}, [%d15];"), 3);
    assert_eq!(load("ld.global.v2.u32 {_, %r0}, [%d15+8];"), 4);
    assert_eq!(load("ld.global.v4.u16 {_, _, %h1, _}, [%d15]; cvt.u32.u16 %r0, %h1;"), 2);
}

/// 128 bits go through a register of their own, whole, and by strong accesses too.
#[test]
fn registers_of_128_bits() {
    for order in ["", ".relaxed.gpu"] {
        let body = format!(
            "{{ .reg .b128 q; ld{order}.global.b128 q, [%d15]; mov.b128 {{%d1, %d2}}, q; }}
             {{ .reg .b128 q, p; mov.b128 p, {{%d2, %d1}}; st{order}.global.b128 [%d15+16], p; }}"
        );
        assert_eq!(Program::new(&body).memory(&[1, 2, 3, 4]).run()[4..8], [3, 4, 1, 2], "{order}");
    }
    let trap = |body: &str| Program::new(body).memory(&[0; 8]).trap();
    assert!(trap(".reg .b128 q; ld.global.b128 q, [%d15+8];").contains("misaligned: 16 bytes"));
    assert!(trap("ld.global.b128 %d1, [%d15];").contains("expected a register of 128 bits, got %d1"));
    assert!(trap(".reg .b128 q; add.s64 %d1, q, 1;").contains("expected a register or a number, got q"));
    // A strong vector is not one access, but one for each element.
    assert!(trap("ld.relaxed.gpu.global.v2.u64 {%d1, %d2}, [%d15];").contains("not known"));
}

/// A vector lies at a multiple of all of its bytes.
#[test]
fn vectors_are_aligned() {
    for (code, len) in [("v4.u32 {%r1, %r2, %r3, %r4}, [%d15+8]", 16), ("v2.u32 {%r1, %r2}, [%d15+4]", 8)] {
        let trap = Program::new(&format!("ld.global.{code};")).memory(&[0; 16]).trap();
        assert!(trap.contains(&format!("misaligned: {len} bytes")), "{trap}");
    }
}

#[test]
fn shared_memory_by_its_name_and_by_generic_addresses() {
    let body = "mov.u32 %r1, shared; st.shared.u32 [%r1+4], 11; st.shared.u32 [shared], 7;
        cvt.u64.u32 %d1, %r1; cvta.shared.u64 %d2, %d1; ld.u32 %r2, [%d2+4];
        st.u32 [%d2+8], 5; ld.shared.u32 %r3, [shared+8]; cvta.to.shared.u64 %d3, %d2; cvt.u32.u64 %r4, %d3;
        ld.shared::cta.u32 %r5, [%r4]; cvta.global.u64 %d4, %d15;
        st.v4.u32 [%d4], {%r2, %r3, %r5, 0};";
    assert_eq!(Program::new(body).shared(16).first(), [11, 5, 7, 0]);
}

/// Each kind on 12, with 10; the old value is left in a register.
#[test]
fn atoms() {
    for (op, expected) in [
        ("add.u32", 22),
        ("min.u32", 10),
        ("max.u32", 12),
        ("and.b32", 8),
        ("or.b32", 14),
        ("xor.b32", 6),
        ("exch.b32", 10),
    ] {
        let body = format!("atom.relaxed.gpu.global.{op} %r0, [%d15], 10; st.global.u32 [%d15+4], %r0;");
        assert_eq!(Program::new(&body).memory(&[12]).first(), [expected, 12], "{op}");
        let body =
            format!("st.shared.u32 [shared], 12; atom.shared.{op} _, [shared], 10; ld.shared.u32 %r0, [shared];");
        let body = format!("{body} st.global.u32 [%d15], %r0;");
        assert_eq!(Program::new(&body).shared(16).first(), [expected], "{op}");
    }
    let body = "atom.acq_rel.gpu.global.add.u64 %d1, [%d15], -1; st.global.u64 [%d15+8], %d1;";
    assert_eq!(Program::new(body).memory(&[0, 1]).first(), [0xffff_ffff, 0, 0, 1]);
}

/// .inc wraps to 0 at its operand: 2 of 3 arrivals count, and one that finds more is 0 as well.
#[test]
fn inc_wraps() {
    for (old, expected) in [(0, 1), (1, 2), (2, 0), (3, 0)] {
        let got = Program::new("atom.release.gpu.global.inc.u32 %r0, [%d15], 2;").memory(&[old]).first();
        assert_eq!(got, [expected], "{old}");
    }
    // The last of 64 threads in four CTAs finds the operand.
    let body = "atom.acq_rel.gpu.global.inc.u32 %r0, [%d15], 63; setp.ne.s32 %p0, %r0, 63;
        @%p0 bra DONE; st.global.u32 [%d15+4], 1; DONE:";
    assert_eq!(Program::new(body).threads(16).ctas(4).memory(&[0]).first(), [0, 1]);
}

/// Every thread of every CTA adds its number: no addition is lost.
#[test]
fn atoms_of_a_grid_are_whole() {
    let body = "atom.relaxed.gpu.global.add.u32 _, [%d15], %r29;";
    assert_eq!(Program::new(body).threads(32).ctas(3).memory(&[0]).first(), [95 * 48]);
}

/// Parameters lie where their alignments put them: 4 bytes at 0, 8 at 8, 1 at 16, a structure at 24.
#[test]
fn parameters() {
    let body = "ld.param.u32 %r1, [a]; ld.param.u64 %d1, [b]; ld.param.u8 %r2, [c]; ld.param.v2.u32 {%r3, %r4}, [d];
        ld.param.s8 %r5, [d+8]; ld.param.b16 %r6, [a+26];
        st.global.v4.u32 [%d1], {%r1, %r2, %r3, %r4}; st.global.v2.u32 [%d1+16], {%r5, %r6};";
    let header = ".param .u32 a,\n.param .u64 .ptr .align 1 b,\n.param .u8 c,\n.param .align 8 .b8 d[12]\n";
    let mut program = Program::new("");
    let text = module(&format!("{body} ret;")).replace(".param .u64 k_param_0\n", header);
    program.text = text.replace("ld.param.u64 %d15, [k_param_0]; cvta.to.global.u64 %d15, %d15;", "mov.b64 %d15, 0;");
    let structure = [0x11, 0, 0x22, 0, 0x33, 0, 0, 0, 0xff, 0, 0, 0].to_vec();
    let memory = program.launch.parameters[0].clone();
    program.launch.parameters = vec![vec![7, 0, 0, 0], memory, vec![0xee], structure];
    assert_eq!(program.first(), [7, 0xee, 0x22_0011, 0x33, 0xffff_ffff, 0x22]);
}

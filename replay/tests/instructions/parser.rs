//! The text: scopes, labels, directives, and what is not known, with its line.

use ptx_replay::ptx::Module;

use crate::program::{LINE, Program, bits_32};

/// The message by which a body with this second line is refused.
fn stopped(line: &str) -> String {
    let trap = Program::new(&format!("mov.u32 %r0, 1;\n{line}\nmov.u32 %r0, 2;")).trap();
    let place = format!("a.ptx:{}: ", LINE + 1);
    trap.strip_prefix(&place).unwrap_or_else(|| panic!("expected {place} in front of {trap}")).into()
}

#[test]
fn what_is_not_known_stops_with_its_line() {
    for line in [
        "add.rn.ftz.f32 %r0, %r0, %r0;",
        "add.f32 %r0, %r0, %r0;",
        "rcp.approx.f32 %r0, %r0;",
        "frobnicate.u32 %r0, %r0;",
        "ld.global.u128 %r0, [%d15];",
        "ld.global.sometimes.u32 %r0, [%d15];",
        "ld.global.v3.u32 {%r0, %r1, %r2}, [%d15];",
        "ld.global.v4.u64 {%d0, %d1, %d2, %d3}, [%d15];",
        "ld.global.v2.u32 %r0, [%d15];",
        "ld.release.gpu.global.u32 %r0, [%d15];",
        "ld.weak.relaxed.gpu.global.u32 %r0, [%d15];",
        "st.acquire.gpu.global.u32 [%d15], 1;",
        "fence.proxy.async;",
        "fence.sc.gpu.cta;",
        "barrier.cluster.arrive;",
        "mbarrier.inval.shared::cta.b64 [shared];",
        "atom.global.cas.b32 %r0, [%d15], 1;",
        "cvta.local.u64 %d0, %d1;",
        ".local .b8 stack[16];",
    ] {
        let text = line.trim_end_matches(';');
        let trap = stopped(line);
        assert!(trap.contains("not known: ") || trap.contains("operands, got"), "{trap}");
        assert!(trap.ends_with(text), "{trap}");
    }
}

#[test]
fn wrong_operands_stop_with_their_line() {
    assert_eq!(stopped("add.s32 %r0, %r99, 1;"), "expected a register or a number, got %r99");
    assert_eq!(stopped("add.s32 %r32, %r0, 1;"), "expected a register, got %r32");
    assert_eq!(stopped("mov.u32 5, %r0;"), "expected a register, got 5");
    assert_eq!(stopped("ld.global.u32 %r0, %d15;"), "expected an address in brackets, got %d15");
    assert_eq!(stopped("ld.global.u32 %r0, [%d15+x];"), "expected a number, got x");
    assert_eq!(stopped("bar.sync;"), "expected 1 operands, got 0: bar.sync");
    assert_eq!(stopped("@%p77 mov.u32 %r0, 1;"), "expected a register, got %p77");
    assert_eq!(stopped("bra NOWHERE;"), "no label NOWHERE");
    assert_eq!(stopped("TWICE: TWICE: mov.u32 %r0, 1;"), "two labels TWICE");
    assert_eq!(stopped(".reg .b32 %q<700000>; .reg .b32 %u<700000>;"), "not known: registers %u<700000>");
    assert_eq!(stopped("add.s32 %r0, %r1\n\t1, 2;"), "expected a register or a number, got %r1 1");
    assert_eq!(stopped("div.u16 %r0, %r1, %r2;"), "not known: div.u16 %r0, %r1, %r2");
    assert_eq!(stopped("rem.u32 %d0, %d1, %d2;"), "not known: rem.u32 %d0, %d1, %d2");
    assert_eq!(stopped("add.s32 %r0, %r1 /* 1 */, 1;"), "expected a register or a number, got %r1 /* 1 */");
    assert_eq!(stopped(".reg .b256 %q<2>;"), "not known: registers of type .b256");
}

/// A register of an inner scope hides the outer one of its name until the scope ends.
#[test]
fn scopes_of_registers() {
    let body =
        ".reg .b32 x; mov.u32 x, 1; { .reg .b32 x; mov.u32 x, 2; { .reg .b16 %r<2>; mov.u16 %r1, 3; } mov.u32 %r1, x; }
        mad.lo.s32 %r0, x, 10, %r1;";
    assert_eq!(bits_32(body), 12);
    assert!(Program::new("{ .reg .b32 y; }\nmov.u32 y, 1;").trap().contains("a.ptx:13: expected a register, got y"));
}

/// A label is of its scope: two asm blocks may both have one of the name.
#[test]
fn scopes_of_labels() {
    let count = "{ .reg .pred p; AGAIN: add.s32 %r0, %r0, 1; setp.lt.s32 p, %r0, LIMIT; @p bra AGAIN; }";
    let body = format!(
        "mov.u32 %r0, 0; {} mul.lo.s32 %r0, %r0, 10; {}",
        count.replace("LIMIT", "3"),
        count.replace("LIMIT", "33")
    );
    assert_eq!(bits_32(&body), 33);
    // Outwards, also to a label that follows.
    assert_eq!(bits_32("mov.u32 %r0, 1; { { bra OUT; } mov.u32 %r0, 2; } OUT: add.s32 %r0, %r0, 10;"), 11);
    assert_eq!(bits_32("mov.u32 %r0, 1; bra OUT; { mov.u32 %r0, 2; } OUT: add.s32 %r0, %r0, 10;"), 11);
    assert!(Program::new("bra IN; { IN: mov.u32 %r0, 1; }").trap().contains("no label IN"), "inwards");
}

#[test]
fn comments_and_lines() {
    let body = "mov.u32 %r0, // 5; }\n 6; // {\n\n.pragma \"nounroll\";\n@%p1 bra   PAST;  PAST:";
    assert_eq!(bits_32(body), 6);
    assert!(Program::new(&format!("{body}\ntrap;")).trap().ends_with("a.ptx:17 \"trap\""));
}

#[test]
fn modules() {
    let told = |text: &str| Module::parse("a.ptx", text).map(|_| ()).unwrap_err().to_string();
    let head = ".version 9.0\n.target sm_90\n.address_size 64\n";
    assert_eq!(told("int main() { return 0; }"), "line 1: not known: int main() {");
    assert_eq!(told("\n"), "no PTX: expected a .target");
    assert_eq!(told(".target sm_x\n"), "expected a target such as sm_90, got \"sm_x\"");
    assert_eq!(told(&format!("{head}.global .u32 x;\n")), "line 4: not known: .global .u32 x");
    assert_eq!(told(&format!("{head}\n.func f()\n{{\n}}\n")), "line 5: not known: .func f()");
    assert_eq!(told(&format!("{head}.visible .entry k()\n{{\nret;\n")), "line 4: the file ends inside k");
    let text = format!("// sources: 12ab\n{head}.visible .entry a()\n{{\nret;\n}}\n.entry b()\n{{\nret;\n}}\n");
    let module = Module::parse("a.ptx", &text.replace("sm_90", "sm_90a")).unwrap();
    assert_eq!(module.sources.as_deref(), Some("12ab"));
    assert_eq!(module.target, 90);
    assert_eq!(module.entries().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(module.entry("c").unwrap_err().to_string(), "a.ptx: no entry c");
    assert_eq!(module.entry("b").unwrap().lines().collect::<Vec<_>>(), [11]);
}

#[test]
fn headers() {
    let told = |text: &str| Module::parse("a.ptx", text).unwrap().entry("k").unwrap_err().to_string();
    let entry = |parameters: &str, directive: &str| {
        format!(".target sm_90\n.visible .entry k(\n{parameters}\n)\n{directive}\n{{\nret;\n}}\n")
    };
    assert_eq!(told(&entry(".param .texref t", "")), "not known: parameter .param .texref t");
    assert_eq!(told(&entry("", ".reqntid 32")), "not known: .reqntid 32");
    assert_eq!(told(&entry("", ".maxntid x")), "not known: .maxntid x");
    assert_eq!(told(&entry("", ".maxntid 65536, 65536")), "not known: .maxntid 65536, 65536");
    let bytes = |bytes: &str| format!(".param .align 8 .b8 p[{bytes}]");
    assert_eq!(
        told(&entry(&bytes("18446744073709551615"), "")),
        "not known: parameter .param .align 8 .b8 p[18446744073709551615]"
    );
    assert_eq!(told(&entry(".param .align 99999 .b8 p[8]", "")), "not known: parameter .param .align 99999 .b8 p[8]");
    assert_eq!(
        told(&entry(&format!("{},{}", bytes("32764"), bytes("8")), "")),
        "32776 bytes of parameters, of 32764 at most"
    );
}

/// An entry whose name is in its linkage too, and lines that end as on Windows.
#[test]
fn odd_texts() {
    let text = "// sources: 12ab\r\n.target sm_90\r\n.visible .entry e(\r\n.param .u64 e_param_0\r\n)\r\n.maxntid 8\r\n{\r\nret;\r\n}\r\n";
    let module = Module::parse("a.ptx", text).unwrap();
    assert_eq!(module.sources.as_deref(), Some("12ab"));
    let entry = module.entry("e").unwrap();
    assert_eq!((entry.parameter_bytes(), entry.max_threads), (8, Some(8)));
    assert!(Module::parse("a.ptx", ".target sm_90\n.visible .entry e\n{\nret;\n}\n").unwrap().entry("e").is_ok());
}

//! Programs that trap, and the words of the trap.

use ptx_replay::Options;
use ptx_replay::launch::{Allocation, Contents};

use crate::program::{MEMORY, Program};

const INIT: &str = "mov.u32 %r20, shared; mbarrier.init.shared::cta.b64 [%r20], 1;";
const EXPECT_16: &str = "mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%r20], 16;";
const SEND: &str = "mapa.shared::cluster.u32 %r23, %r20, %r22;
    st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%r23+16], {1, 2, 3, 4}, [%r23];";
const ARRIVE: &str = "barrier.cluster.arrive.release.aligned;";
const WAIT: &str = "barrier.cluster.wait.acquire.aligned;";

fn of_cluster(body: &str) -> Program {
    Program::new(body).cluster(2).shared(64)
}

#[test]
fn out_of_bounds() {
    let global = |code: &str| Program::new(code).memory(&[0; 64]);
    global("ld.global.u32 %r0, [%d15+256];")
        .traps(&["out of bounds: 4 bytes at 0x100100, 0 past an allocation", "a.ptx:12"]);
    global("st.global.u32 [%d15+-4], 1;").traps(&["out of bounds: 4 bytes at 0xffffc, below every allocation"]);
    global("ld.u8 %r0, [0];").traps(&["out of bounds: 1 bytes at 0x0"]);
    let shared = |code: &str| Program::new(code).shared(32);
    shared("st.shared.u32 [shared+32], 1;").traps(&["out of bounds: 4 bytes at 32 of 32 of shared memory"]);
    shared("st.shared.u32 [shared+-4], 1;").traps(&["out of bounds: 4 bytes at -4 of 32 of shared memory"]);
    shared("mov.u32 %r1, 0; ld.shared.u32 %r0, [%r1];").traps(&["out of bounds"]);
    shared("mbarrier.init.shared::cta.b64 [shared+32], 1;").traps(&["out of bounds: 8 bytes at 32"]);
    global("ld.param.u32 %r0, [k_param_0+8];").traps(&["out of bounds: 4 bytes at 8 of 8 of parameters"]);
    global("ld.param.u32 %r0, [k_param_0+-4];").traps(&["out of bounds: 4 bytes at -4 of 8 of parameters"]);
}

/// A vector that begins in an allocation and ends behind it.
#[test]
fn partly_out_of_bounds() {
    let mut program = Program::new("ld.global.v4.u32 {%r0, %r1, %r2, %r3}, [%d15+16];");
    program.launch.allocations[0].before = Contents::new(vec![0; 24]);
    program.traps(&["out of bounds: 16 bytes at 16 of an allocation of 24 bytes"]);
    let other = Allocation { address: MEMORY + 4096, before: Contents::new(vec![0; 4]), ..Allocation::default() };
    program.launch.allocations.push(other);
    program.text = Program::new("st.global.u32 [%d15+4096], 1; st.global.u32 [%d15+4100], 1;\n").text;
    program.traps(&["out of bounds: 4 bytes at 0x101004, 0 past an allocation of 4 bytes"]);
}

#[test]
fn misaligned() {
    Program::new("st.global.u32 [%d15+2], 1;").traps(&["misaligned: 4 bytes at 0x100002"]);
    Program::new("st.global.u64 [%d15+4], 1;").traps(&["misaligned: 8 bytes at 0x100004"]);
    Program::new("atom.relaxed.gpu.global.add.u32 _, [%d15+2], 1;").traps(&["misaligned: 4 bytes"]);
    Program::new("st.shared.u16 [shared+1], 1;").shared(8).traps(&["misaligned: 2 bytes at 1 of shared memory"]);
    Program::new("mbarrier.init.shared::cta.b64 [shared+4], 1;").shared(16).traps(&["misaligned: 8 bytes at 4"]);
    Program::new("ld.param.u32 %r0, [k_param_0+2];").traps(&["misaligned: 4 bytes at 2 of parameters"]);
}

#[test]
fn uninitialised() {
    Program::new("st.global.u16 [%d15], 1; ld.global.u32 %r0, [%d15];")
        .traps(&["uninitialised: 4 bytes at 0 of allocation 0"]);
    Program::new("atom.relaxed.gpu.global.add.u32 _, [%d15], 1;").traps(&["uninitialised: 4 bytes"]);
    let body = "st.shared.v2.u32 [shared], {1, 2}; ld.shared.v4.u32 {%r0, _, _, _}, [shared];";
    Program::new(body).shared(16).traps(&["uninitialised: 16 bytes at 0 of shared memory"]);
}

#[test]
fn stores_to_what_cannot_be_written() {
    Program::new("st.param.u32 [k_param_0], 1;").traps(&["not known: st.param.u32"]);
    Program::new("st.global.nc.u32 [%d15], 1;").traps(&["not known: st.global.nc.u32"]);
    let body = "st.global.u32 [%d15], 1; ld.global.nc.u32 %r0, [%d15];";
    Program::new(body).memory(&[0]).traps(&["ld.nc of 4 bytes at 0 of allocation 0, which this launch has written"]);
}

/// ld.nc of what nobody writes is as good as any load.
#[test]
fn loads_of_constant_memory() {
    let body = "ld.global.nc.u32 %r0, [%d15]; st.global.u32 [%d15+4], %r0;";
    assert_eq!(Program::new(body).memory(&[7]).first(), [7, 7]);
}

#[test]
fn mbarriers() {
    let program = |body: &str| Program::new(body).shared(64);
    program(&format!("{INIT} ld.shared.u64 %d0, [shared];")).traps(&["a plain access to the mbarrier at 0"]);
    program(&format!("{INIT} st.shared.u8 [shared+7], 1;")).traps(&["a plain access to the mbarrier at 0"]);
    program(&format!("{INIT} {INIT}")).traps(&["a plain access to the mbarrier at 0"]);
    program("mbarrier.init.shared::cta.b64 [shared], 0;").traps(&["an mbarrier of 0 arrivals"]);
    program("mbarrier.init.shared::cta.b64 [shared], 1048576;").traps(&["an mbarrier of 1048576 arrivals"]);
    program(&format!("mov.u32 %r20, shared; {EXPECT_16}"))
        .traps(&["no mbarrier was initialised at 0 of shared memory"]);
    program(&format!("{INIT} add.s32 %r20, %r20, 8; {EXPECT_16}")).traps(&["no mbarrier was initialised at 8"]);
    let test = "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p1, [shared], 2;";
    program(&format!("{INIT} {test}")).traps(&["a parity of 2"]);
    program(&format!("{INIT} {EXPECT_16} {EXPECT_16}")).traps(&["more arrivals than the 1 that the mbarrier counts"]);
    program(&format!("{INIT} {EXPECT_16}")).traps(&["CTA 0 ended in the middle of a phase of its mbarrier at 0"]);
    program(&format!("{INIT} {}", EXPECT_16.replace("16;", "1048575;"))).traps(&["in the middle of a phase"]);
    program(&format!("{INIT} {}", EXPECT_16.replace("16;", "1048576;")))
        .traps(&["1048576 bytes, more than an mbarrier"]);
}

/// 65536 times 16 bytes without one that was expected are more than a tx-count goes down to.
#[test]
fn a_tx_count_has_a_least() {
    let body = format!(
        "{INIT} mov.u32 %r22, 1; mov.u32 %r1, 0; {ARRIVE} {WAIT} setp.eq.s32 %p1, %r30, 1; @%p1 bra POLL;
        LOOP: {SEND} add.s32 %r1, %r1, 1; setp.lt.u32 %p2, %r1, 65600; @%p2 bra LOOP; bra DONE;
        POLL: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p1, [%r20], 0; @!%p1 bra POLL;
        DONE: {ARRIVE} {WAIT}"
    );
    let mut program = of_cluster(&body);
    program.options.most_instructions = 10_000_000;
    let trap = program.run_seed(0).unwrap_err();
    assert!(trap.contains("-1048576 bytes, less than an mbarrier counts"), "{trap}");
}

#[test]
fn st_async() {
    let init = format!("{INIT} {ARRIVE} {WAIT}");
    let one = "setp.eq.s32 %p1, %r30, 1; @%p1 bra DONE; mov.u32 %r22, 1;";
    // Rank 0 goes on first behind the barrier under seed 0, and has exited when rank 1 sends.
    let to_first = one.replace("%r30, 1", "%r30, 0").replace("%r22, 1", "%r22, 0");
    let trap = of_cluster(&format!("{init} {to_first} {SEND} DONE:")).run_seed(0).unwrap_err();
    assert!(trap.contains("st.async to rank 0, which has exited"), "{trap}");
    for seed in 0..20 {
        let trap = of_cluster(&format!("{init} {one} {SEND} DONE:")).run_seed(seed).unwrap_err();
        let words = ["which has exited", "the cluster ended before the st.async", "in the middle of a phase"];
        assert!(words.iter().any(|word| trap.contains(word)), "seed {seed}: {trap}");
    }
    let others_barrier = SEND.replace("[%r23];", "[%r20];");
    of_cluster(&format!("{init} {one} {others_barrier} DONE:"))
        .traps(&["st.async to rank 1 whose mbarrier is in rank 0"]);
    let elsewhere = SEND.replace("[%r23+16]", "[%r23+64]");
    of_cluster(&format!("{init} {one} {elsewhere} DONE: {ARRIVE} {WAIT}")).traps(&["out of bounds: 16 bytes at 64"]);
    let misaligned = SEND.replace("[%r23+16]", "[%r23+24]");
    of_cluster(&format!("{init} {one} {misaligned} DONE: {ARRIVE} {WAIT}")).traps(&["misaligned: 16 bytes at 24"]);
    let not_there = "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%r23+16], {1, 2, 3, 4}, [%r23+8];";
    let not_there =
        format!("{init} {one} mapa.shared::cluster.u32 %r23, %r20, %r22; {not_there} DONE: {ARRIVE} {WAIT}");
    of_cluster(&not_there).traps(&["no mbarrier was initialised at 8"]);
    // "The number of CTAs within the cluster is strictly greater than one".
    Program::new(&format!("{INIT} mov.u32 %r22, 0; {SEND}")).shared(64).traps(&["st.async in a cluster of one CTA"]);
}

#[test]
fn deadlocks() {
    // 32 threads wait at a barrier for one that waits for them at the cluster's.
    let body = format!("setp.lt.u32 %p1, %r31, 32; @%p1 bra FEW;\n{ARRIVE}\n{WAIT} ret;\nFEW: bar.sync 0;");
    let program = Program::new(&body).threads(64);
    program.traps(&[
        "deadlock",
        "32 threads at a.ptx:14 \"barrier.cluster.wait",
        "32 threads at a.ptx:15 \"bar.sync 0\"",
    ]);
    let body = format!(
        "{INIT}\nLOOP: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p1, [%r20], 0; @!%p1 bra LOOP;"
    );
    Program::new(&body).shared(64).traps(&["deadlock: 1 threads at a.ptx:13"]);
    let body = "LOOP: ld.acquire.gpu.global.u32 %r0, [%d15]; setp.eq.s32 %p1, %r0, 0; @%p1 bra LOOP;";
    Program::new(body).memory(&[0]).traps(&["deadlock: 1 threads at a.ptx:12"]);
}

/// A loop that does nothing but count ends with the budget of instructions, or as a deadlock where it is interrupted.
#[test]
fn endless_loops() {
    let mut program = Program::new("LOOP: add.s32 %r0, %r0, 1; bra LOOP;");
    program.options.most_instructions = 10_000;
    program.traps(&["no end after 10000 instructions", "a.ptx:12"]);
}

#[test]
fn barriers_that_are_not_aligned() {
    let body = "setp.lt.u32 %p1, %r31, 16; @%p1 bra FEW;\nbar.sync 0; ret;\nFEW: bar.sync 0;";
    Program::new(body).threads(32).traps(&[
        "an aligned barrier with threads of one CTA at a.ptx:1",
        "a.ptx:13",
        "a.ptx:14",
    ]);
    // Nor may a warp come to bar.sync by an instruction of its own: "all threads in CTA will execute the same".
    let body = body.replace("%r31, 16", "%r31, 32");
    Program::new(&body).threads(64).traps(&["an aligned barrier with threads of one CTA", "a.ptx:13", "a.ptx:14"]);
    // Warps may come to barrier.cluster by instructions of their own.
    let body = format!("setp.lt.u32 %p1, %r31, 32; @%p1 bra FEW;\n{ARRIVE} {WAIT} ret;\nFEW: {ARRIVE} {WAIT}");
    Program::new(&body).threads(64).cluster(2).run();
    let body = format!("setp.lt.u32 %p1, %r31, 16; @%p1 bra FEW;\n{ARRIVE} bra JOIN;\nFEW: {ARRIVE} JOIN: {WAIT}");
    Program::new(&body).threads(32).cluster(2).traps(&[
        "an aligned barrier with threads of one warp",
        "a.ptx:13",
        "a.ptx:14",
    ]);
    let body = format!("{ARRIVE} setp.lt.u32 %p1, %r31, 16; @%p1 bra FEW;\n{WAIT} ret;\nFEW: {WAIT}");
    Program::new(&body).threads(32).cluster(2).traps(&[
        "an aligned barrier with threads of one warp",
        "a.ptx:13",
        "a.ptx:14",
    ]);
}

#[test]
fn barriers_of_other_numbers() {
    Program::new("bar.sync 1;").traps(&["not known: a barrier other than 0"]);
}

#[test]
fn arrivals_at_a_cluster() {
    of_cluster(&format!("{ARRIVE} ret;")).traps(&["an exit between the arrival at the cluster's barrier and the wait"]);
    of_cluster(&format!("{ARRIVE} {ARRIVE} {WAIT}"))
        .traps(&["two arrivals at the cluster's barrier without a wait between"]);
    of_cluster(WAIT).traps(&["a wait at the cluster's barrier without an arrival"]);
}

/// Two CTAs store to one word, and nothing orders them. The same value from both is no harm.
#[test]
fn races() {
    let words = ["two CTAs store different values to byte 0 of allocation 0, and nothing orders them"];
    Program::new("st.global.u32 [%d15], %r30;").ctas(2).traps(&words);
    assert_eq!(Program::new("st.global.u32 [%d15], 7;").ctas(2).first(), [7]);
    // Neighbouring words of one allocation belong to no other.
    assert_eq!(Program::new("st.global.u32 [%d14], %r30;").ctas(3).first(), [0, 1, 2]);
}

/// Registers and memory that nobody has written hold another number for each seed.
#[test]
fn uninitialised_registers_are_noticed() {
    let program = Program::new("st.global.u32 [%d15], %r1;");
    assert_ne!(program.run_seed(1), program.run_seed(2));
}

#[test]
fn machines_that_do_not_begin() {
    let mut program = Program::new("");
    program.launch.parameters[0].pop();
    program.traps(&["k: expected parameters of [8] bytes as in the PTX, got [7]"]);
    let mut program = Program::new("").threads(64);
    program.text = program.text.replace(")\n{", ")\n.maxntid 32, 1, 1\n.minnctapersm 2\n{");
    program.traps(&["k: 64 threads a CTA, more than .maxntid says"]);
    let mut program = Program::new("");
    program.launch.allocations[0].address += 8;
    program.options = Options::default();
    program.traps(&["an allocation at 0x100008, which is no multiple of 16"]);
}

/// A thread that stands behind the last instruction, while another of its warp ends.
#[test]
fn the_end_of_the_body() {
    let code = "setp.ne.u32 %p1, %r31, 0;\n@%p1 exit;\natom.relaxed.gpu.global.exch.b32 _, [%d15], 1;";
    let mut program = Program::new(code).threads(2).memory(&[0; 64]);
    program.text = program.text.replace("\nret;\n}", "\n}");
    program.traps(&["the end of the body"]);
}

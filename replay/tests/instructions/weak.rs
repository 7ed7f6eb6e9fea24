//! Weak memory: message passing between two CTAs of a cooperative grid.

use crate::program::Program;

/// CTA 0 stores data and then a flag, CTA 1 waits for the flag and reads the data into the third word. CTA 1 has read the data
/// before, as caches have.
fn passing(store: &str, load: &str) -> Program {
    let body = format!(
        "setp.eq.s32 %p1, %r30, 1; @%p1 bra READER; st.global.u32 [%d15], 42; {store} bra DONE;
        READER: ld.global.u32 %r1, [%d15];
        LOOP: {load} setp.eq.s32 %p2, %r0, 0; @%p2 bra LOOP; ld.global.u32 %r1, [%d15]; st.global.u32 [%d15+8], %r1;
        DONE:"
    );
    Program::new(&body).ctas(2).cooperative().memory(&[0, 0])
}

/// The seeds of 200 for which the reader has the data.
fn fresh(program: &Program) -> usize {
    (1..=200).filter(|&seed| program.run_seed(seed).unwrap()[2] == 42).count()
}

const RELEASE: &str = "st.release.gpu.global.u32 [%d15+4], 1;";
const RELAXED_STORE: &str = "st.relaxed.gpu.global.u32 [%d15+4], 1;";
const ACQUIRE: &str = "ld.acquire.gpu.global.u32 %r0, [%d15+4];";
const RELAXED_LOAD: &str = "ld.relaxed.gpu.global.u32 %r0, [%d15+4];";

#[test]
fn release_and_acquire_pass_messages() {
    assert_eq!(fresh(&passing(RELEASE, ACQUIRE)), 200);
}

#[test]
fn other_patterns_pass_messages() {
    let release = "atom.release.gpu.global.add.u32 _, [%d15+4], 1;";
    assert_eq!(fresh(&passing(release, "atom.acquire.gpu.global.add.u32 %r0, [%d15+4], 0;")), 200, "atom");
    let fence = "fence.acq_rel.gpu; st.relaxed.gpu.global.u32 [%d15+4], 1;";
    assert_eq!(fresh(&passing(fence, &format!("{RELAXED_LOAD} fence.acq_rel.gpu;"))), 200, "fence");
    let fence = "membar.gl; st.volatile.global.u32 [%d15+4], 1;";
    assert_eq!(fresh(&passing(fence, "ld.volatile.global.u32 %r0, [%d15+4]; membar.gl;")), 200, "membar");
}

#[test]
fn without_release_or_acquire_data_is_stale() {
    let no_release = passing(RELAXED_STORE, ACQUIRE);
    assert!(fresh(&no_release) < 200, "relaxed store");
    let no_acquire = passing(RELEASE, RELAXED_LOAD);
    assert!(fresh(&no_acquire) < 200, "relaxed load");
    for mut program in [no_release, no_acquire] {
        program.options.weak = false;
        assert_eq!(fresh(&program), 200, "sequentially consistent");
    }
}

/// Release and acquire of the CTA's scope order nothing between CTAs ("Scope", "Morally strong operations").
#[test]
fn the_scope_of_a_cta_passes_nothing() {
    let release = "fence.acq_rel.cta; st.relaxed.gpu.global.u32 [%d15+4], 1;";
    assert!(fresh(&passing(release, ACQUIRE)) < 200, "fence.acq_rel.cta");
    let release = "membar.cta; st.relaxed.gpu.global.u32 [%d15+4], 1;";
    assert!(fresh(&passing(release, ACQUIRE)) < 200, "membar.cta");
    let release = "fence.acq_rel.cluster; st.relaxed.gpu.global.u32 [%d15+4], 1;";
    assert!(fresh(&passing(release, ACQUIRE)) < 200, "fence.acq_rel.cluster without clusters");
    let acquire = format!("{RELAXED_LOAD} fence.acq_rel.cta;");
    assert!(fresh(&passing(RELEASE, &acquire)) < 200, "fence.acq_rel.cta behind the load");
    // Nor is such a store ever seen.
    let program = passing("st.release.cta.global.u32 [%d15+4], 1;", ACQUIRE);
    assert!((1..9).any(|seed| program.run_seed(seed).is_err_and(|trap| trap.contains("deadlock"))), "st.release.cta");
}

/// The scope of a cluster orders its CTAs.
#[test]
fn the_scope_of_a_cluster_passes_messages_within() {
    let mut program =
        passing("st.release.cluster.global.u32 [%d15+4], 1;", "ld.acquire.cluster.global.u32 %r0, [%d15+4];");
    program.launch.cluster = 2;
    assert_eq!(fresh(&program), 200);
}

/// A release is of what the thread has stored, and of what it has synchronised with at bar.sync.
#[test]
fn a_release_publishes_what_a_barrier_has_ordered() {
    let body = |barrier: &str| {
        let body = format!(
            "setp.eq.s32 %p1, %r30, 1; @%p1 bra READER; setp.eq.s32 %p3, %r31, 1; @%p3 st.global.u32 [%d15], 42;
            {barrier} @%p3 bra DONE; {RELEASE} bra DONE;
            READER: setp.ne.s32 %p3, %r31, 0; @%p3 bra DONE; ld.global.u32 %r1, [%d15];
            LOOP: {ACQUIRE} setp.eq.s32 %p2, %r0, 0; @%p2 bra LOOP; ld.global.u32 %r1, [%d15]; st.global.u32 [%d15+8], %r1;
            DONE:"
        );
        Program::new(&body).threads(2).ctas(2).cooperative().memory(&[0, 0])
    };
    assert_eq!(fresh(&body("bar.sync 0;")), 200);
    assert!(fresh(&body("")) < 200);
    // A shuffle brings threads together, and orders no memory.
    assert!(fresh(&body("shfl.sync.idx.b32 %r5, %r31, 0, 31, 3;")) < 200);
}

/// A thread's strong accesses come behind its weak store to the same place, and their result stays.
#[test]
fn strong_accesses_see_the_weak_store_before_them() {
    let body = "st.global.u32 [%d15], 5; ld.relaxed.gpu.global.u32 %r1, [%d15]; atom.relaxed.gpu.global.add.u32 %r2, [%d15], 2;
        ld.global.u32 %r3, [%d15]; st.global.u32 [%d15+4], %r1; st.global.u32 [%d15+8], %r2; st.global.u32 [%d15+12], %r3;
        fence.acq_rel.gpu;";
    assert_eq!(Program::new(body).memory(&[1]).first(), [7, 5, 5, 7]);
    // A counter that the CTA sets to 0, and that another counts on with.
    let body = "setp.eq.s32 %p1, %r30, 1; @%p1 bra OTHER; st.global.u32 [%d15], 0; atom.relaxed.gpu.global.add.u32 _, [%d15], 1;
        st.release.gpu.global.u32 [%d15+4], 1; LOOP: ld.acquire.gpu.global.u32 %r0, [%d15+8]; setp.eq.s32 %p2, %r0, 0;
        @%p2 bra LOOP; membar.gl; bra DONE;
        OTHER: ld.acquire.gpu.global.u32 %r0, [%d15+4]; setp.eq.s32 %p2, %r0, 0; @%p2 bra OTHER;
        atom.relaxed.gpu.global.add.u32 _, [%d15], 10; st.release.gpu.global.u32 [%d15+8], 1; DONE:";
    assert_eq!(Program::new(body).ctas(2).cooperative().memory(&[7, 0, 0]).first(), [11, 1, 1]);
}

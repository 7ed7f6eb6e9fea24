//! Faults of what orders threads and CTAs, and of the halves of packed values.

/// A fault: one instruction, and what takes its place.
pub(super) struct Fault {
    pub(super) name: &'static str,
    pub(super) pattern: &'static str,
    pub(super) instead: &'static str,
    /// The strategy by whose launches it is tried.
    pub(super) strategy: Option<&'static str>,
    pub(super) occurrence: Occurrence,
    pub(super) noticed: Noticed,
}

/// The occurrences of a pattern that are meant.
pub(super) enum Occurrence {
    Any,
    /// Behind the initialisation of mbarriers.
    AtTheStart,
    /// The others.
    AtTheEnd,
}

#[derive(Debug)]
pub(super) enum Noticed {
    /// In one of the kernels at least.
    Yes,
    /// Not noticed by anything here, for this reason.
    Never(&'static str),
}

impl Occurrence {
    /// Whether an occurrence is meant that has this text before it.
    pub(super) fn is_it(&self, before: &str) -> bool {
        let from = before.char_indices().rev().nth(600).map_or(0, |(at, _)| at);
        let follows_init = before[from..].contains("mbarrier.init");
        match self {
            Self::Any => true,
            Self::AtTheStart => follows_init,
            Self::AtTheEnd => !follows_init,
        }
    }
}

const fn fault(
    name: &'static str,
    strategy: Option<&'static str>,
    pattern: &'static str,
    instead: &'static str,
) -> Fault {
    Fault { name, pattern, instead, strategy, occurrence: Occurrence::Any, noticed: Noticed::Yes }
}

const fn cluster(name: &'static str, pattern: &'static str, instead: &'static str) -> Fault {
    fault(name, Some("cluster"), pattern, instead)
}

const fn grid(name: &'static str, pattern: &'static str, instead: &'static str) -> Fault {
    fault(name, Some("grid"), pattern, instead)
}

const fn any(name: &'static str, pattern: &'static str, instead: &'static str) -> Fault {
    fault(name, None, pattern, instead)
}

pub(super) const LIST: [Fault; 35] = [
    cluster("mbarrier.init counts 2", r"(mbarrier\.init[^;]*), 1;", "$1, 2;"),
    cluster("mbarrier.init is missing", r"mbarrier\.init[^;]*;", ""),
    cluster("expects 16 bytes", r"(mbarrier\.arrive\.expect_tx[^;]*\]), %r\d+;", "$1, 16;"),
    cluster("expects nothing", r"(mbarrier\.arrive\.expect_tx[^;]*\]), %r\d+;", "$1, 0;"),
    cluster("no arrival at the mbarrier", r"mbarrier\.arrive\.expect_tx[^;]*;", ""),
    cluster("waits for the other parity", r"(mbarrier\.try_wait[^;]*\]), (%r\d+);", "$1, 1;"),
    cluster("does not wait for bytes", r"selp\.u32 (%r\d+), 1, 0, p;", "mov.u32 $1, 1;"),
    cluster("mapa of rank 0", r"(mapa[^;]*), %r\d+;", "$1, 0;"),
    cluster("st.async swaps words", r"(st\.async[^{]*)\{(%r\d+), (%r\d+),", "$1{$3, $2,"),
    cluster("st.async to the next slot", r"(st\.async\.[^\[]*\[%r\d+)\]", "$1+16]"),
    cluster("st.async counted by the other mbarrier", r"(st\.async[^;]*\[%r\d+)\];", "$1+8];"),
    Fault {
        occurrence: Occurrence::AtTheStart,
        ..cluster("no arrival at barrier.cluster at the start", r"barrier\.cluster\.arrive[^;]*;", "")
    },
    Fault {
        occurrence: Occurrence::AtTheEnd,
        ..cluster("no arrival at barrier.cluster at the end", r"barrier\.cluster\.arrive[^;]*;", "")
    },
    cluster("barrier.cluster.wait without arrive", r"barrier\.cluster\.arrive[^;]*;", ""),
    cluster("barrier.cluster.arrive without wait", r"barrier\.cluster\.wait[^;]*;", ""),
    grid("a partial is not sent", r"mov\.b128 q, \{[^}]*\}; st\.relaxed[^;]*;", ""),
    grid("a partial has another tag", r"(mov\.b128 q, \{%rd\d+), %rd\d+\}", "$1, 0}"),
    grid(
        "a slot is taken before it has the tag",
        r"(ld\.relaxed\.gpu\.global\.b128(?:[^;]*;){4}\s*setp\.eq\.s32\s+%p\d+, )(%r\d+), %r\d+;",
        "$1$2, $2;",
    ),
    grid(
        "a slot is loaded in two halves",
        r"(ld\.relaxed\.gpu\.global)\.b128 q, (\[%rd\d+\]); mov\.b128 (\{[^}]*\}), q;",
        "$1.v2.u64 $3, $2;",
    ),
    grid("the next launch has the same epoch", r"st\.relaxed\.gpu\.global\.u64[^;]*;", ""),
    grid("arrivals are not counted", r"(atom\.relaxed\.gpu\.global\.add\.u64[^;]*), 1;", "$1, 0;"),
    any("cp.async is not waited for", r"cp\.async\.wait_all;", ""),
    any("bar.sync is missing", r"bar\.sync[^;]*;", ""),
    any(
        "griddepcontrol.wait comes behind the first access",
        r"griddepcontrol\.wait;([\s\S]*?ld\.global[^;]*;)",
        "$1 griddepcontrol.wait;",
    ),
    any(
        "bar.red gives the other answer",
        r"bar\.red\.or\.pred\s*(%p\d+), 0, (%p\d+);",
        "bar.red.or.pred $1, 0, $2; not.pred $1, $1;",
    ),
    any("shuffle by another lane mask", r"(shfl\.sync\.bfly\.b32\s*%r\d+\|%p\d+, %r\d+), (%r\d+|\d+),", "$1, 1,"),
    any("ballot of nothing", r"(vote\.sync\.ballot\.b32\s*%r\d+), %p\d+", "$1, 0"),
    Fault {
        noticed: Noticed::Never("it orders one load before one store, and no load is late here"),
        ..any("the ticket's atom.inc is relaxed", r"atom\.acq_rel\.gpu\.global\.inc", "atom.relaxed.gpu.global.inc")
    },
    any("the ticket counts to 0", r"(atom\.acq_rel\.gpu\.global\.inc\.u32[^;]*), %r\d+;", "$1, 0;"),
    any("f16 halves are swapped", r"cvt\.rn\.f16x2\.f32 (%r\d+), (%f\d+), (%f\d+)", "cvt.rn.f16x2.f32 $1, $3, $2"),
    any("bf16 halves are swapped", r"cvt\.rn\.bf16x2\.f32 (%r\d+), (%f\d+), (%f\d+)", "cvt.rn.bf16x2.f32 $1, $3, $2"),
    any("f16 of the other half", r"cvt\.f32\.f16 (%f\d+), low", "cvt.f32.f16 $1, high"),
    any(
        "what rounding took from the mean is dropped",
        r"(setp\.le\.f32[^;]*;\s*)selp\.f32\s+(%f\d+), %f\d+, 0f00000000, %p\d+;",
        "${1}mov.f32 $2, 0f00000000;",
    ),
    any("a store is missing", r"st\.global\.[^;]*;", ""),
    any("a contracted addition", r"add\.rn\.f32", "add.f32"),
];

//! THE list of the abuse run's parts.

/// One part: a command that takes its time and its seed from the environment, as tests/abuse/mod.rs says, and fails where
/// a promise is broken. It counts its trials in a line `abuse: part=NAME seed=S trials=N failures=M`; a test that has no
/// such line has passed or failed as a whole.
pub(crate) struct Part {
    pub(crate) name: &'static str,
    /// The trial in a line.
    pub(crate) promise: &'static str,
    /// The command. Of a cargo test what stands before `--` is built before the time begins.
    pub(crate) words: &'static [&'static str],
    /// Further variables of the command's environment.
    pub(crate) environment: &'static [(&'static str, &'static str)],
    /// The part's time, as a share of all that are run.
    pub(crate) share: u32,
}

/// The words of one test of one of the workspace's test executables, which the test suite has built already.
macro_rules! test {
    ($executable:literal, $test:literal) => {
        &["cargo", "test", "--features", "emulate", "--test", $executable, "--", "--exact", $test, "--nocapture"]
    };
}

pub(crate) const PARTS: [Part; 12] = [
    Part {
        name: "cli",
        promise: "any file and any options: exit code 0 or 2, one line, files whole or as they were, no hang",
        words: test!("abuse", "any_command_line"),
        environment: &[],
        share: 6,
    },
    Part {
        name: "files",
        promise: "any bytes: the readers of files give what they say, or refuse",
        words: test!("fuzz_corpus", "mutated_files"),
        environment: &[],
        share: 1,
    },
    Part {
        name: "operations",
        promise: "any shape, layout, dtype, input: the CPU is within its tolerance of the oracle",
        words: test!("properties", "any_group_is_within_its_tolerance"),
        environment: &[],
        share: 3,
    },
    Part {
        name: "operations-cuda",
        promise: "the same on the emulated device, by any strategy, at any alignment, in any order of threads",
        words: test!("cuda", "properties::any_group_is_within_its_tolerance_anywhere"),
        environment: &[],
        share: 4,
    },
    Part {
        name: "plans",
        promise: "any problem on any device: a plan within the limits, in which each element has one owner",
        words: test!("plan", "any_plan_keeps_its_limits_and_owns_each_element_once"),
        environment: &[],
        share: 1,
    },
    Part {
        name: "tables",
        promise: "any text: a table of measured plans has the planner's own, or is refused",
        words: test!("plan_table", "no_text_panics"),
        environment: &[],
        share: 1,
    },
    Part {
        name: "layer",
        promise: "any sequence of calls on the CPU: values of the formulas; a refused call changes no bit",
        words: test!("layer", "any_sequence_of_calls"),
        environment: &[],
        share: 2,
    },
    Part {
        name: "layer-cuda",
        promise: "the same on the emulated device",
        words: test!("cuda", "api::any_sequence_of_calls"),
        environment: &[],
        share: 3,
    },
    Part {
        name: "faults",
        promise: "any driver call may fail: a typed error, the state as it was or as it should be, nothing lost",
        words: test!("cuda", "faults::any::any_call_of_anything_may_fail"),
        environment: &[],
        share: 3,
    },
    Part {
        name: "forks",
        promise: "forked at any moment under load: every operation on the CPU works in the child",
        words: test!("forks", "a_forked_process_computes"),
        environment: &[],
        share: 2,
    },
    Part {
        name: "limits",
        promise: "any address space and no threads: every command works or refuses in one line",
        words: &["cargo", "test", "--features", "emulate", "--test", "cli", "--", "limits::", "--nocapture"],
        environment: &[],
        share: 1,
    },
    Part {
        name: "signals",
        promise: "a signal in the write: outputs as they were or whole, nothing beside them",
        words: &["cargo", "test", "--features", "emulate", "--test", "cli", "--", "whole_or_nothing::", "--nocapture"],
        environment: &[],
        share: 1,
    },
];

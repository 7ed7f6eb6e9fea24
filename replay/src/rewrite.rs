//! Other texts of the same meaning, whose launches must give the same bits.

use std::sync::LazyLock;

use regex::{Captures, Regex};

/// nvcc makes two of a 64-bit division: one of 32 bits where neither operand has an upper half, else one of 64. Its test, by the
/// upper halves and a comparison of them with 0.
#[allow(clippy::unwrap_used)] // The pattern is a constant.
static TEST: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(and\.b64\s+(%rd\d+), %rd\d+, -4294967296;\s*setp\.)(eq|ne)(\.[sbu]64\s+%p\d+, (%rd\d+), 0;)").unwrap()
});

/// The 64-bit division always: each test is turned around, where the operands of a launch have no upper halves.
pub(crate) fn wide_divisions(body: &str) -> String {
    let turned = TEST.replace_all(body, |found: &Captures<'_>| {
        let is_test = found[2] == found[5];
        let other = match (&found[3], is_test) {
            ("eq", true) | ("ne", false) => "ne",
            _ => "eq",
        };
        format!("{}{other}{}", &found[1], &found[4])
    });
    turned.into_owned()
}

//! Bad input: what ends a command with exit code 2 and one line on stderr.

use core::fmt;

/// Why a command was refused. Shown as one line, whatever names and bytes of the input are in the message.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl From<batchnorm::Error> for Failure {
    fn from(error: batchnorm::Error) -> Self {
        Self(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.0))
    }
}

/// The text with everything escaped that would break the line or steer a terminal.
pub(crate) fn one_line(text: &str) -> String {
    let steers = |c: char| {
        c.is_control() || matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        let failure = Failure::new("a'b\"é\n\r\u{1b}[31m\u{2028}\u{202e}");
        assert_eq!(failure.to_string(), "a'b\"é\\n\\r\\u{1b}[31m\\u{2028}\\u{202e}");
    }
}

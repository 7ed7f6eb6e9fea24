//! One statement of an entry's body, cut into its words.

use crate::trap::{Result, trap};

/// `@guard opcode.modifier operand, operand;`
#[derive(Debug)]
pub(crate) struct Statement<'a> {
    /// The text as written, with single blanks.
    pub(crate) text: String,
    /// The guard's register, and whether it must be false.
    pub(crate) guard: Option<(&'a str, bool)>,
    /// The opcode with its modifiers, such as `add.s32`.
    pub(crate) opcode: &'a str,
    pub(crate) operands: Vec<&'a str>,
}

impl<'a> Statement<'a> {
    /// Cuts a text without its semicolon.
    pub(crate) fn new(text: &'a str) -> Self {
        let text = text.trim();
        let (guard, rest) = match text.strip_prefix('@') {
            Some(guarded) => {
                let (name, rest) = guarded.split_once(char::is_whitespace).unwrap_or((guarded, ""));
                let guard = name.strip_prefix('!').map_or((name, false), |name| (name, true));
                (Some(guard), rest.trim_start())
            }
            None => (None, text),
        };
        let (opcode, operands) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let shown = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Self { text: shown, guard, opcode, operands: parts(operands) }
    }

    /// The opcode's first word.
    pub(crate) fn name(&self) -> &'a str {
        self.opcode.split('.').next().unwrap_or_default()
    }

    /// The opcode's other words.
    pub(crate) fn modifiers(&self) -> Modifiers<'a> {
        Modifiers(self.opcode.split('.').skip(1).collect())
    }

    /// The operands, which must be so many.
    pub(crate) fn operands<const N: usize>(&self) -> Result<[&'a str; N]> {
        match <[&str; N]>::try_from(self.operands.as_slice()) {
            Ok(operands) => Ok(operands),
            Err(_) => trap!("expected {N} operands, got {}: {}", self.operands.len(), self.text),
        }
    }

    /// A trap: something of it is not known.
    pub(crate) fn unknown<T>(&self) -> Result<T> {
        trap!("not known: {}", self.text)
    }
}

/// The words of an opcode that nobody has understood yet.
pub(crate) struct Modifiers<'a>(Vec<&'a str>);

impl<'a> Modifiers<'a> {
    /// Whether the word is there. It is understood then.
    pub(crate) fn take(&mut self, word: &str) -> bool {
        let found = self.0.iter().position(|&other| other == word);
        found.map(|at| self.0.remove(at)).is_some()
    }

    /// The first of these words that is there.
    pub(crate) fn one_of(&mut self, words: &[&'static str]) -> Option<&'static str> {
        words.iter().copied().find(|word| self.take(word))
    }

    /// The one word that is left.
    pub(crate) fn last(self) -> Option<&'a str> {
        match self.0[..] {
            [word] => Some(word),
            _ => None,
        }
    }
}

/// Cut at commas outside of braces and brackets.
pub(crate) fn parts(text: &str) -> Vec<&str> {
    let (mut parts, mut begin, mut depth) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    if !text.trim().is_empty() {
        parts.push(text[begin..].trim());
    }
    parts
}

/// The members of `{a, b}`, or the one of `a`.
pub(crate) fn members(text: &str) -> Vec<&str> {
    match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        Some(inside) => parts(inside),
        None => vec![text],
    }
}

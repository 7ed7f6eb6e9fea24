//! A file of PTX: its entries, found but not decoded.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::entry::Entry;
use crate::trap::{Result, trap};

/// A line that says of which sources a file was made, as `xtask replay` writes it in front.
const SOURCES: &str = "// sources: ";

/// A file of PTX.
#[derive(Debug)]
pub struct Module {
    /// The name of the file, for messages.
    pub file: String,
    /// The sources that it was made of, where its first line says so.
    pub sources: Option<String>,
    /// The compute capability it is for, as 90.
    pub target: u32,
    /// Its text without comments.
    text: String,
    entries: BTreeMap<String, EntrySpan>,
    /// The names of dynamic shared memory.
    shared: Vec<String>,
}

/// The range of an entry in the text.
#[derive(Debug)]
struct EntrySpan {
    /// The position of its linkage.
    begin: usize,
    /// The position behind its name.
    header: usize,
    body: usize,
    end: usize,
    line: u32,
}

impl Module {
    /// Reads a file.
    ///
    /// # Errors
    /// A line that names the file, and what is wrong with it.
    pub fn open(path: &Path) -> std::result::Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into());
        Self::parse(&name, &text).map_err(|trap| format!("{}: {trap}", path.display()))
    }

    /// Finds the entries of a text.
    ///
    /// # Errors
    /// A directive outside of entries that is not known, with its line.
    pub fn parse(file: &str, text: &str) -> Result<Self> {
        let sources = text.lines().next().and_then(|line| line.strip_prefix(SOURCES)).map(|s| s.trim().to_owned());
        let text = without_comments(text);
        let mut module =
            Self { file: file.into(), sources, target: 0, text, entries: BTreeMap::new(), shared: Vec::new() };
        module.scan()?;
        if module.target == 0 {
            trap!("no PTX: expected a .target");
        }
        Ok(module)
    }

    fn scan(&mut self) -> Result<()> {
        let text = std::mem::take(&mut self.text);
        let (mut at, mut line) = (0, 1);
        while let Some(begin) = text[at..].find(|c: char| !c.is_whitespace()).map(|skipped| at + skipped) {
            line += newlines(&text[at..begin]);
            let rest = &text[begin..];
            let end =
                if rest.starts_with(".version") || rest.starts_with(".target") || rest.starts_with(".address_size") {
                    // These end with their line.
                    let end = begin + rest.find('\n').unwrap_or(rest.len());
                    self.head(&text[begin..end])?;
                    end
                } else {
                    let end = begin + rest.find([';', '{']).map_or(rest.len(), |stop| stop + 1);
                    let directive = &text[begin..end];
                    if directive.ends_with('{') {
                        self.scan_entry(&text, begin, end, line)?
                    } else {
                        self.declaration(directive, line)?;
                        end
                    }
                };
            line += newlines(&text[begin..end]);
            at = end;
        }
        self.text = text;
        Ok(())
    }

    fn head(&mut self, line: &str) -> Result<()> {
        if let Some(target) = line.strip_prefix(".target") {
            let name = target.trim().split([',', ' ']).next().unwrap_or_default();
            let digits = name.trim_start_matches("sm_").trim_end_matches(['a', 'f']);
            let Ok(target) = digits.parse() else { trap!("expected a target such as sm_90, got \"{name}\"") };
            self.target = target;
        } else if line.strip_prefix(".address_size").is_some_and(|bits| bits.trim() != "64") {
            trap!("not known: {line}");
        }
        Ok(())
    }

    /// An entry from its linkage on, up to the brace behind its body.
    fn scan_entry(&mut self, text: &str, begin: usize, body: usize, line: u32) -> Result<usize> {
        let header = &text[begin..body];
        let Some((_, named)) = header
            .split_once(".entry ")
            .filter(|(linkage, _)| linkage.split_whitespace().all(|word| matches!(word, ".visible" | ".weak")))
        else {
            trap!("line {line}: not known: {}", header.lines().next().unwrap_or_default());
        };
        let name = named.split(['(', '{']).next().unwrap_or_default().trim().to_owned();
        let mut depth = 1;
        let end = text[body..].find(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth == 0
        });
        let Some(end) = end.map(|end| body + end + 1) else { trap!("line {line}: the file ends inside {name}") };
        let header = body - named.len() + named.find(&name).unwrap_or(0) + name.len();
        let span = EntrySpan { begin, header, body, end, line };
        if self.entries.contains_key(&name) {
            trap!("line {line}: two entries {name}");
        }
        self.entries.insert(name, span);
        Ok(end)
    }

    /// A declaration outside of entries: of dynamic shared memory alone.
    fn declaration(&mut self, text: &str, line: u32) -> Result<()> {
        let words: Vec<&str> = text.trim_end_matches(';').split_whitespace().collect();
        match words[..] {
            [".extern", ".shared", ".align", _, ".b8", name] if name.ends_with("[]") => {
                self.shared.push(name.trim_end_matches("[]").into());
                Ok(())
            }
            _ => trap!("line {line}: not known: {}", words.join(" ")),
        }
    }

    /// The names of the entries, in order.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// An entry, decoded.
    ///
    /// # Errors
    /// There is none of the name, or what of it is not known, with its line.
    pub fn entry(&self, name: &str) -> Result<Entry> {
        self.entry_with_body(name, self.body(name).map_or("", |(body, _)| body))
    }

    /// The text of an entry behind its opening brace, and the line it begins in.
    pub fn body(&self, name: &str) -> Option<(&str, u32)> {
        let span = self.entries.get(name)?;
        let line = span.line + newlines(&self.text[span.begin..span.body]);
        Some((&self.text[span.body..span.end], line))
    }

    /// [`Self::entry`] with another body.
    ///
    /// # Errors
    /// A statement of it that is not known, with its line.
    pub fn entry_with_body(&self, name: &str, body: &str) -> Result<Entry> {
        let Some(span) = self.entries.get(name) else { trap!("{}: no entry {name}", self.file) };
        let header = &self.text[span.header..span.body - 1];
        let line = span.line + newlines(&self.text[span.begin..span.body]);
        Entry::parse(&self.file, name, header, body, line, &self.shared)
    }
}

/// Blanks instead of comments, so that lines stay what they are.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        match line.find("//") {
            Some(at) => {
                out.push_str(&line[..at]);
                out.push('\n');
            }
            None => out.push_str(line),
        }
    }
    out
}

fn newlines(text: &str) -> u32 {
    text.bytes().filter(|&byte| byte == b'\n').count() as u32
}

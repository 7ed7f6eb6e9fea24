//! One kernel: its parameters, and its body as instructions.

use std::collections::HashMap;

use super::names::Names;
use super::statement::{Statement, parts};
use super::types;
use crate::instructions::{Guard, Instruction, Op, decode};
use crate::machine::{PARAMETERS, SHARED};
use crate::trap::{Result, Trap, trap};

/// Bytes of all parameters, at most ("Kernel Function Parameters": 32764), and of an alignment.
const MOST_PARAMETERS: usize = 32764;

/// A parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    name: String,
    /// Its offset among the parameters.
    pub offset: usize,
    /// Its size.
    pub bytes: usize,
}

/// A kernel, ready to be executed.
#[derive(Debug)]
pub struct Entry {
    /// Its mangled name.
    pub name: String,
    /// The file that it is of.
    pub file: String,
    /// Its parameters, in order.
    pub parameters: Vec<Parameter>,
    /// The most threads of a CTA, where it says so.
    pub max_threads: Option<u32>,
    pub(crate) code: Vec<Instruction>,
    /// Whether it has griddepcontrol.wait.
    pub(crate) waits_for_launches: bool,
    /// The text of each instruction.
    pub(crate) texts: Vec<String>,
    /// The bits of each register.
    pub(crate) masks: Vec<u64>,
    pub(crate) constants: Vec<u64>,
}

impl Entry {
    /// `header` begins behind the name; `body` behind its brace, in this line of the file.
    pub(super) fn parse(
        file: &str,
        name: &str,
        header: &str,
        body: &str,
        line: u32,
        shared: &[String],
    ) -> Result<Self> {
        let mut names = Names::default();
        // Dynamic shared memory begins at the window's start: there is no other here.
        shared.iter().for_each(|name| names.symbol(name, SHARED));
        let parameters = parameters(header)?;
        parameters.iter().for_each(|p| names.symbol(&p.name, PARAMETERS + p.offset as u64));
        let body = Body { line, ..Body::new(body, names) };
        let entry = Self {
            name: name.into(),
            file: file.into(),
            parameters,
            max_threads: max_threads(header)?,
            code: Vec::new(),
            waits_for_launches: false,
            texts: Vec::new(),
            masks: Vec::new(),
            constants: Vec::new(),
        };
        body.read(entry).map_err(|(line, what)| Trap::new(format!("{file}:{line}: {what}")))
    }

    /// The bytes of all parameters.
    pub fn parameter_bytes(&self) -> usize {
        self.parameters.last().map_or(0, |last| last.offset + last.bytes)
    }

    /// The line of each instruction.
    pub fn lines(&self) -> impl Iterator<Item = u32> {
        self.code.iter().map(|instruction| instruction.line)
    }

    /// An instruction as it is told.
    pub(crate) fn place(&self, at: usize) -> String {
        match (self.code.get(at), self.texts.get(at)) {
            (Some(instruction), Some(text)) => format!("{}:{} \"{text}\"", self.file, instruction.line),
            _ => format!("the end of {}", self.name),
        }
    }
}

/// The parameters of a header: `.param .u64 name`, `.param .u64 .ptr .align 1 name`, `.param .align 8 .b8 name[240]`.
fn parameters(header: &str) -> Result<Vec<Parameter>> {
    let list = header.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map_or("", |(list, _)| list);
    let mut parameters = Vec::new();
    let mut end = 0usize;
    for text in parts(list) {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (align, bytes, name) = match words[..] {
            [".param", ".align", align, ".b8", name] => {
                let (name, count) = name.split_once('[').unwrap_or((name, ""));
                (align.parse().ok(), count.trim_end_matches(']').parse().ok(), name)
            }
            [".param", ty, name] | [".param", ty, ".ptr", ".align", _, name] => {
                let bytes = ty.strip_prefix('.').and_then(types::bytes);
                (bytes, bytes, name)
            }
            _ => (None, None, ""),
        };
        let align = align.filter(|align| (1..=MOST_PARAMETERS).contains(align));
        let bytes = bytes.filter(|&bytes| bytes <= MOST_PARAMETERS);
        let (Some(align), Some(bytes)) = (align, bytes) else { trap!("not known: parameter {text}") };
        let offset = end.next_multiple_of(align);
        end = offset + bytes;
        if end > MOST_PARAMETERS {
            trap!("{end} bytes of parameters, of {MOST_PARAMETERS} at most");
        }
        parameters.push(Parameter { name: name.into(), offset, bytes });
    }
    Ok(parameters)
}

/// The directives between parameters and body.
fn max_threads(header: &str) -> Result<Option<u32>> {
    let mut most = None;
    let directives = header.split_once(')').map_or(header, |(_, rest)| rest);
    for line in directives.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.split_once(char::is_whitespace) {
            Some((".maxntid", counts)) => {
                let mut counts = counts.split(',').map(|count| count.trim().parse::<u32>().ok());
                let product = counts.try_fold(1u32, |product, count| product.checked_mul(count?));
                let Some(product) = product else { trap!("not known: {line}") };
                most = Some(product);
            }
            // Residency, of which there is none here.
            Some((".minnctapersm", _)) => {}
            _ => trap!("not known: {line}"),
        }
    }
    Ok(most)
}

/// A body while it is read.
struct Body<'a> {
    text: &'a str,
    line: u32,
    names: Names,
    /// The numbers of the scopes that are open, the innermost last, and how many there were.
    scopes: Vec<usize>,
    all_scopes: usize,
    /// Labels by scope and name.
    labels: HashMap<(usize, &'a str), usize>,
    branches: Vec<Branch<'a>>,
}

/// A branch whose target is looked up at the end of the body.
struct Branch<'a> {
    at: usize,
    line: u32,
    label: &'a str,
    scopes: Vec<usize>,
}

impl<'a> Body<'a> {
    fn new(text: &'a str, names: Names) -> Self {
        let (scopes, labels, branches) = (Vec::new(), HashMap::new(), Vec::new());
        Self { text, line: 0, names, scopes, all_scopes: 0, labels, branches }
    }

    fn read(mut self, mut entry: Entry) -> std::result::Result<Entry, (u32, Trap)> {
        self.enter();
        loop {
            self.skip_blanks();
            match self.text.chars().next() {
                Some('{') => {
                    self.enter();
                    self.text = &self.text[1..];
                }
                Some('}') => {
                    self.text = &self.text[1..];
                    self.scopes.pop();
                    if !self.names.leave() {
                        break;
                    }
                }
                Some(_) => self.statement(&mut entry).map_err(|trap| (self.line, trap))?,
                None => return Err((self.line, Trap::new("the text ends inside the body"))),
            }
        }
        for Branch { at, line, label, scopes } in &self.branches {
            // A label of the same scope, or of one around it.
            let Some(target) = scopes.iter().rev().find_map(|&scope| self.labels.get(&(scope, label))) else {
                return Err((*line, Trap::new(format!("no label {label}"))));
            };
            entry.code[*at].op = Op::Branch(*target);
        }
        entry.waits_for_launches = entry.code.iter().any(|instruction| matches!(instruction.op, Op::WaitForLaunches));
        entry.masks = self.names.masks;
        entry.constants = self.names.constants;
        Ok(entry)
    }

    fn enter(&mut self) {
        self.names.enter();
        self.scopes.push(self.all_scopes);
        self.all_scopes += 1;
    }

    fn skip_blanks(&mut self) {
        let rest = self.text.trim_start();
        self.count_lines(self.text.len() - rest.len());
        self.text = rest;
    }

    fn count_lines(&mut self, len: usize) {
        self.line += self.text[..len].bytes().filter(|&byte| byte == b'\n').count() as u32;
    }

    fn statement(&mut self, entry: &mut Entry) -> Result<()> {
        let name = self.text.find(|c: char| !(c.is_ascii_alphanumeric() || "_$%".contains(c))).unwrap_or(0);
        if name > 0 && self.text[name..].starts_with(':') {
            let (label, scope) = (&self.text[..name], self.scopes.last().copied().unwrap_or(0));
            if self.labels.insert((scope, label), entry.code.len()).is_some() {
                trap!("two labels {label}");
            }
            self.text = &self.text[name + 1..];
            return Ok(());
        }
        let Some(end) = self.text.find(';') else { trap!("no semicolon") };
        let text = &self.text[..end];
        if let Some(declared) = text.strip_prefix(".reg") {
            self.names.declare(declared)?;
        } else if text.starts_with(".pragma") {
            // Advice on unrolling.
        } else if text.starts_with('.') {
            trap!("not known: {text}");
        } else {
            self.instruction(&Statement::new(text), entry)?;
        }
        self.count_lines(end);
        self.text = &self.text[end + 1..];
        Ok(())
    }

    fn instruction(&mut self, statement: &Statement<'a>, entry: &mut Entry) -> Result<()> {
        let guard = match statement.guard {
            Some((name, negated)) => Some(Guard { register: self.names.destination(name)?.register, negated }),
            None => None,
        };
        if matches!(statement.opcode, "bra" | "bra.uni") {
            let [label] = statement.operands()?;
            self.branches.push(Branch { at: entry.code.len(), line: self.line, label, scopes: self.scopes.clone() });
        }
        let op = decode(statement, &mut self.names)?;
        entry.code.push(Instruction { guard, op, line: self.line });
        entry.texts.push(statement.text.clone());
        Ok(())
    }
}

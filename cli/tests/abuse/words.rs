//! Random options, and whether they will do.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use batchnorm::{Epilogue, Op, Strategy};
use fastrand::Rng;

use crate::file::pick;

pub(crate) const LAYOUTS: [&str; 4] = ["channels-first", "channels-last", "nchw", "nhwc"];

pub(crate) fn ops() -> Vec<&'static str> {
    Op::ALL.iter().copied().map(Op::name).collect()
}

pub(crate) fn epilogues() -> Vec<&'static str> {
    Epilogue::ALL.iter().map(|kind| kind.name()).collect()
}

/// `auto` before the strategies.
pub(crate) fn strategies() -> Vec<&'static str> {
    ["auto"].into_iter().chain(Strategy::ALL.iter().copied().map(Strategy::name)).collect()
}

/// No value of any option that chooses from a list.
const NONSENSE: [&str; 12] =
    ["", " ", "-", "--", "TRAIN", "train ", "relu,add", "\u{1b}[31m", "a\nb", "\u{202e}", "0", "\u{1f600}"];

/// Spellings of numbers that any option refuses.
const NO_NUMBERS: [&str; 14] =
    ["", " ", "1e", "1,5", "0x10", "1_000", "one", "1 ", "--1", "e5", "\u{663}", "1.2.3", "+-1", "\u{0}1"];

/// The words of a command line as they are drawn.
pub(crate) struct Words {
    pub(crate) args: Vec<OsString>,
    /// Whether an option has a value that none of its kind has.
    pub(crate) is_wrong: bool,
    /// Whether an option may be refused for its value.
    pub(crate) is_odd: bool,
}

impl Words {
    pub(crate) fn new(command: &str) -> Self {
        Self { args: vec![command.into()], is_wrong: false, is_odd: false }
    }

    /// An option with its value, as two words or as one.
    pub(crate) fn option(&mut self, rng: &mut Rng, name: &str, value: &str) {
        // A command line has no zero bytes.
        let value = value.replace('\u{0}', "\u{1}");
        if rng.u8(..4) == 0 {
            self.args.push(format!("--{name}={value}").into());
        } else {
            self.args.extend([format!("--{name}").into(), value.into()]);
        }
    }

    /// An option of a list, which is nonsense now and then: the value.
    pub(crate) fn choice<'a>(&mut self, rng: &mut Rng, name: &str, of: &[&'a str]) -> &'a str {
        let value = pick(rng, of);
        if rng.u8(..80) == 0 {
            let nonsense = pick(rng, &NONSENSE);
            self.option(rng, name, nonsense);
            self.is_wrong = true;
        } else {
            self.option(rng, name, value);
        }
        value
    }

    /// A number: one of those that will do, most often; else one that may not, or that is none.
    pub(crate) fn number(&mut self, rng: &mut Rng, name: &str, good: &[&str], odd: &[&str]) {
        let (of, is_wrong, is_odd) = match rng.u8(..20) {
            0 => (&NO_NUMBERS[..], true, false),
            1..=3 => (odd, false, true),
            _ => (good, false, false),
        };
        let value = pick(rng, of);
        self.option(rng, name, value);
        self.is_wrong |= is_wrong;
        self.is_odd |= is_odd;
    }

    /// Now and then a word that no command knows; or one that may take the others' meaning: what is wrong then need not be.
    pub(crate) fn disturb(&mut self, rng: &mut Rng) {
        let at = rng.usize(1..=self.args.len());
        let way = rng.u8(..60);
        match way {
            0 => self.args.insert(at, pick(rng, &["--fast", "-x", "word", "--op-", "---", "\u{1b}c"]).into()),
            1 => self.args.insert(at, OsString::from_vec(vec![0xff, b'-', 0xfe])),
            2 if at < self.args.len() => drop(self.args.remove(at)),
            3 if at < self.args.len() => self.args.insert(at, self.args[at].clone()),
            4 => self.args.insert(at, pick(rng, &["--", "--help", "--version", "-h", "help"]).into()),
            5 => drop(self.args.remove(0)),
            _ => return,
        }
        self.is_odd = true;
        self.is_wrong = way == 0 && !self.is_value(at);
    }

    /// Whether the word stands where an option's value would.
    fn is_value(&self, at: usize) -> bool {
        self.args[at - 1].to_str().is_some_and(|before| before.starts_with("--") && !before.contains('='))
    }
}

/// Numbers that a number can be written as, beyond what options take.
pub(crate) const ODD: [&str; 14] =
    ["-0", "-1", "inf", "-inf", "nan", "NaN", "infinity", "1e400", "1e300", "1e39", "-1e-300", "+0.5", ".5", "5."];

/// `--device`: the CPU in nine of ten.
pub(crate) fn device(rng: &mut Rng, words: &mut Words) -> &'static str {
    let cuda = ["cuda", "cuda", "cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:5"];
    let odd = ["cuda:4", "cuda:99", "cuda:18446744073709551615"];
    match rng.u8(..100) {
        0..=49 => "cpu", // The default.
        50..=57 => words.choice(rng, "device", &cuda),
        58..=59 => {
            words.is_odd = true;
            words.choice(rng, "device", &odd)
        }
        60 => {
            words.is_wrong = true;
            let none = ["", "gpu", "cuda:", "cuda:-1", "cuda:+1", "CPU", "cuda:99999999999999999999", "cpu:0"];
            words.choice(rng, "device", &none)
        }
        _ => words.choice(rng, "device", &["cpu"]),
    }
}

//! PTX text, read.
//!
//! A [`Module`] is a file, an [`Entry`] one kernel of it, with its instructions decoded. Whatever is not known, a directive, an
//! opcode or a modifier of one, stops the entry with its line, and nothing is guessed.

mod entry;
mod module;
mod names;
mod statement;
pub(crate) mod types;

pub use entry::{Entry, Parameter};
pub use module::Module;

pub(crate) use names::{Address, Destination, Names, Source};
pub(crate) use statement::{Modifiers, Statement, members};

//! Instructions, against values worked out by hand from the PTX ISA: no value here is computed as the crate computes it.

mod access;
mod checks;
mod cluster;
mod collective;
mod compare;
mod control;
mod convert;
mod float;
mod integer;
mod parser;
mod program;
mod registers;
mod weak;

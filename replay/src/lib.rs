//! Executes the PTX that nvcc made of kernels, on the CPU, for launches that the emulated CUDA device has written down, and
//! compares memory with what that device left, bit for bit. The two share no code.
//!
//! ```text
//! file.ptx    -> ptx::Module -> ptx::Entry        what the text says: parameters, registers, instructions
//! file.launch -> launch::Launch                   kernel, geometry, parameters, memory before and after
//! both        -> machine::Machine::run            each PTX thread interpreted, in a seeded order
//!             -> compare::compare                 memory here and there
//! ```
//!
//! A [`trap`](Trap) is what the PTX must not do: an access out of bounds, a barrier that not all reach, a deadlock.

#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![forbid(unsafe_code)]

pub mod compare;
mod instructions;
pub mod launch;
mod machine;
pub mod ptx;
mod trap;

pub use machine::{Machine, Options, Ran};
pub use trap::Trap;

//! THE table of cases: every operation compared with an oracle in f64, on any backend.
//!
//! Tests, the command line and later backends all use this one table. A [`Case`] is an operation on a shape with an
//! [`Input`]; cases with the same data come in a [`Group`], so that the data is made once. The [`oracle`] is the
//! crate's formulas once more, written as plainly as possible and independent of the CPU reference; [`tolerance`]
//! says how far a result may be from it, and why.
//!
//! ```
//! use batchnorm::{Cpu, verify::{Verified, groups}};
//!
//! let group = &groups()[0];
//! for report in Cpu.check(group).expect("the CPU computes every dtype") {
//!     assert!(report.result.is_ok(), "{:?}", report);
//! }
//! ```

pub mod activation;
mod cases;
mod check;
mod compare;
mod input;
mod journal;
pub mod oracle;
mod order;
mod reduce;
mod report;
mod run;
pub mod tolerance;

pub use cases::{Case, Group, groups, thinned};
pub use check::Verified;
pub use compare::{Failure, compare};
pub use input::{Input, Inputs};
pub use journal::{Journal, Lost};
pub use report::Report;
pub use run::{Outputs, run};

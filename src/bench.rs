//! The work that benches measure: the shapes of `benches/suites.json`, the operations of a layer over buffers of one of them, on
//! any backend, and what a device can do at best. criterion's benches and `batchnorm bench` share it; the timing is theirs.

#[doc(hidden)]
pub mod cost;
mod pass;
mod peers;
mod reference;
mod suites;
mod work;

#[cfg(feature = "cuda")]
pub use crate::cuda::{Probe, Probes, Storing};
pub use pass::Pass;
pub use peers::{PEER_NAMES, PEERS};
pub use reference::{Outputs, Reference};
pub use suites::{Row, SUITES, rows};
pub use work::{Work, inputs, parameters};

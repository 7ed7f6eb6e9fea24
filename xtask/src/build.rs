//! Parts of the build script, so that what is reported and executed here is what is built.

#[path = "../../build/flags.rs"]
pub(crate) mod flags;
#[path = "../../build/hash.rs"]
pub(crate) mod hash;

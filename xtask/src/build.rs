//! Parts of the build script, so that what is reported and executed here is what is built.

#[cfg(test)]
#[path = "../../build/cache.rs"]
pub(crate) mod cache;
#[path = "../../build/flags.rs"]
pub(crate) mod flags;
#[path = "../../build/hash.rs"]
pub(crate) mod hash;
#[path = "../../build/sources.rs"]
pub(crate) mod sources;

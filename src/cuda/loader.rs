//! The driver's library, found before anything calls it: cudarc panics where there is none, or one that is no driver.
#![allow(unsafe_code)]

use std::sync::OnceLock;

use libloading::Library;

use crate::{Error, Result};

/// The driver's library, by the names that it goes by. `libcuda.so` comes second: it may be the toolkit's stub.
const NAMES: [&str; 2] = if cfg!(windows) { ["nvcuda.dll", "cuda.dll"] } else { ["libcuda.so.1", "libcuda.so"] };
/// A function that every driver has.
const FUNCTION: &str = "cuInit";

/// Whether there is a driver that can be called.
pub(super) fn find_driver() -> Result<()> {
    static FOUND: OnceLock<()> = OnceLock::new();
    if FOUND.get().is_some() {
        return Ok(());
    }
    first_usable(&NAMES)?;
    // cudarc tries them the other way round, and takes the first that loads, whatever is in it.
    let [first, second] = NAMES;
    first_loaded(&[second, first])?;
    let _ = FOUND.set(());
    Ok(())
}

/// Finds a driver among these names, or says of each why it is none.
fn first_usable(names: &[&str]) -> Result<()> {
    let mut reasons = Vec::new();
    for name in names {
        match load(name).and_then(check) {
            Ok(()) => return Ok(()),
            Err(reason) if reason.starts_with(name) => reasons.push(reason),
            Err(reason) => reasons.push(format!("{name}: {reason}")),
        }
    }
    Err(Error::NoDriver { names: names.join(", "), reason: reasons.join("; ") })
}

/// Whether the first of these names that loads is a driver.
fn first_loaded(names: &[&str]) -> Result<()> {
    let loaded = names.iter().find_map(|name| load(name).ok().map(|library| (name, library)));
    let checked = match &loaded {
        Some((name, library)) => check(library).map_err(|reason| format!("{name}: {reason}")),
        None => Err("none of them".into()),
    };
    checked.map_err(|reason| Error::NoDriver { names: names.join(", "), reason })
}

/// A library that stays loaded, or the reason of the system's loader.
fn load(name: &str) -> Result<&'static Library, String> {
    // SAFETY: loading the driver's library runs the driver's own set-up, which a program that uses CUDA runs in any case.
    match unsafe { Library::new(name) } {
        Ok(library) => Ok(Box::leak(Box::new(library))), // Some drivers do not like to be unloaded and loaded again.
        Err(error) => Err(reason(&error)),
    }
}

fn check(library: &Library) -> Result<(), String> {
    // SAFETY: the function is looked up and not called.
    let found = unsafe { library.get::<unsafe extern "C" fn(u32) -> i32>(FUNCTION) };
    found.map(drop).map_err(|error| format!("a library without {FUNCTION} ({})", reason(&error)))
}

/// The words of the system's loader, which libloading keeps behind its own.
fn reason(error: &dyn core::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_reason_in_the_words_of_the_loader() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("text.so");
        std::fs::write(&text, "no library, and long enough to be taken for one".repeat(8)).unwrap();
        let text = text.to_str().unwrap();
        // The C library is a library, and has no function of the driver.
        let error = first_usable(&["libabsent-driver.so.1", text, "libc.so.6"]).unwrap_err().to_string();
        let (names, reason) = error.split_once(", got ").unwrap();
        let expected = "no CUDA driver: expected a library of the names libabsent-driver.so.1, ";
        assert_eq!(names, format!("{expected}{text}, libc.so.6"));
        let reasons: Vec<&str> = reason.split("; ").collect();
        assert_eq!(reasons.len(), 3, "{reason}");
        assert!(reasons[0].starts_with("libabsent-driver.so.1: ") && reasons[0].contains("No such file"), "{reason}");
        assert!(reasons[1].starts_with(text) && reasons[1].contains("invalid ELF header"), "{reason}");
        assert!(reasons[2].starts_with("libc.so.6: a library without cuInit (") && reasons[2].len() > 60, "{reason}");
    }

    #[test]
    fn what_loads_first_must_be_a_driver() {
        let names = ["libabsent-driver.so", "libc.so.6", "libabsent-driver.so.1"];
        let error = first_loaded(&names).unwrap_err().to_string();
        assert!(error.contains("got libc.so.6: a library without cuInit"), "{error}");
        assert!(first_loaded(&names[..1]).is_err());
    }
}

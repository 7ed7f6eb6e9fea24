//! The driver's library, found before anything calls it: cudarc panics where there is none, or one that is no driver.
#![allow(unsafe_code)]

use std::sync::OnceLock;

use libloading::Library;

use crate::{Error, Result};

/// The driver's library, by the names that it goes by. `libcuda.so` comes second: it may be the toolkit's stub.
const NAMES: [&str; 2] = if cfg!(windows) { ["nvcuda.dll", "cuda.dll"] } else { ["libcuda.so.1", "libcuda.so"] };
/// The functions of the driver that this crate calls, by cudarc, which looks each up at its first call and panics where it is
/// missing. Drivers of CUDA 11.2 and newer have all of them.
const FUNCTIONS: [&str; 31] = [
    "cuInit",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetDefaultMemPool",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuGetErrorString",
    "cuMemAllocAsync",
    "cuMemAlloc_v2",
    "cuMemFreeAsync",
    "cuMemFree_v2",
    "cuMemPoolSetAttribute",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyPeerAsync",
    "cuMemsetD8Async",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamIsCapturing",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
];

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

/// Whether a library has all functions, or the first that it has not.
fn check(library: &Library) -> Result<(), String> {
    FUNCTIONS.iter().try_for_each(|function| {
        // SAFETY: the function is looked up and not called.
        let found = unsafe { library.get::<unsafe extern "C" fn()>(*function) };
        found.map(drop).map_err(|error| format!("a library without {function} ({})", reason(&error)))
    })
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

    /// A driver that is older than what cudarc calls.
    #[test]
    fn a_library_without_one_of_the_functions_is_named_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let library = |name: &str, without: Option<&str>| {
            let present = FUNCTIONS.iter().filter(|&&function| Some(function) != without);
            let source: String = present.map(|function| format!("int {function}(void) {{ return 100; }}\n")).collect();
            let (c, so) = (folder.path().join(format!("{name}.c")), folder.path().join(name));
            std::fs::write(&c, source).unwrap();
            let gcc =
                std::process::Command::new("cc").args(["-shared", "-fPIC", "-nostdlib", "-o"]).args([&so, &c]).status();
            assert!(gcc.unwrap().success(), "cc makes {name}");
            so.to_str().unwrap().to_owned()
        };
        let whole = library("whole.so", None);
        first_usable(&[&whole]).unwrap();
        first_loaded(&["libabsent-driver.so", &whole]).unwrap();
        for function in FUNCTIONS {
            let old = library(&format!("without-{function}.so"), Some(function));
            for error in [first_usable(&[&old]).unwrap_err(), first_loaded(&[&old, &whole]).unwrap_err()] {
                let error = error.to_string();
                assert!(error.contains(&format!("got {old}: a library without {function} (")), "{error}");
            }
        }
    }

    #[test]
    fn what_loads_first_must_be_a_driver() {
        let names = ["libabsent-driver.so", "libc.so.6", "libabsent-driver.so.1"];
        let error = first_loaded(&names).unwrap_err().to_string();
        assert!(error.contains("got libc.so.6: a library without cuInit"), "{error}");
        assert!(first_loaded(&names[..1]).is_err());
    }
}

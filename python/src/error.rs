//! Refusals, the crate's and those made here, as Python's exceptions.

use std::io;

use batchnorm::Error;
use pyo3::PyErr;
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};

/// The crate's error as Python's.
pub(crate) fn error(error: Error) -> PyErr {
    let text = format!("batchnorm: {error}");
    match error {
        Error::Aliasing { output, other, .. } => value_error(format!(
            "batchnorm: expected {} in memory of its own, got that of {}",
            python_name(output),
            python_name(other)
        )),
        Error::Io { source, .. } => io::Error::new(source.kind(), text).into(),
        Error::OutOfMemory { .. } => PyMemoryError::new_err(text),
        Error::Driver { .. }
        | Error::Launch { .. }
        | Error::NoDriver { .. }
        | Error::NoDevice { .. }
        | Error::Forked { .. } => PyRuntimeError::new_err(text),
        Error::Prepare { .. } | Error::StaticShared { .. } | Error::Residency { .. } | Error::Clusters { .. } => {
            PyRuntimeError::new_err(text)
        }
        _ => value_error(text),
    }
}

/// Bad input, as Python has it.
pub(crate) fn value_error(text: String) -> PyErr {
    PyValueError::new_err(text)
}

/// Names as a message lists them: `a, b or c`.
pub(crate) fn one_of<S: AsRef<str>>(names: &[S]) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    match names.as_slice() {
        [before @ .., last] if !before.is_empty() => format!("{} or {last}", before.join(", ")),
        all => all.concat(),
    }
}

/// The name in Python of a tensor of an operation.
fn python_name(tensor: &'static str) -> &'static str {
    match tensor {
        "x" => "input",
        "z" => "residual",
        "gamma" => "weight",
        "beta" => "bias",
        other => other,
    }
}

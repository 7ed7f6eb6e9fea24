//! Refusals, the crate's and those made here, as Python's exceptions.

use batchnorm::{Epilogue, Error};
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::{PyErr, PyResult};

/// The crate's error as Python's.
pub(crate) fn error(error: Error) -> PyErr {
    let text = format!("batchnorm: {error}");
    match error {
        Error::Aliasing { output, other, .. } => value_error(format!(
            "batchnorm: expected {} in memory of its own, got that of {}",
            python_name(output),
            python_name(other)
        )),
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

/// An epilogue by its name, with this residual or without.
pub(crate) fn epilogue<Z>(name: &str, residual: Option<Z>) -> PyResult<Epilogue<Z>> {
    let with = if residual.is_some() { "with" } else { "without" };
    let kind = Epilogue::named(&name.replace('_', "-"));
    kind.and_then(|kind| kind.with("residual", residual).ok()).ok_or_else(|| {
        value_error(format!(
            "batchnorm: expected the epilogue identity or relu, or add or add_relu with a residual, got {name:?} {with} one"
        ))
    })
}

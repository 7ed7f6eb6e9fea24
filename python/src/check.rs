//! What is refused here, and all that the crate refuses, as Python's exceptions.

use batchnorm::{Epilogue, Error};
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::{PyErr, PyResult};

/// The crate's error as Python's.
pub(crate) fn error(error: Error) -> PyErr {
    let text = format!("batchnorm: {error}");
    match error {
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

/// An epilogue by its name, with a residual or without.
pub(crate) fn epilogue(name: &str, residual: Option<()>) -> PyResult<Epilogue<()>> {
    match (name, residual) {
        ("identity", None) => Ok(Epilogue::IDENTITY),
        ("relu", None) => Ok(Epilogue::RELU),
        ("add", Some(())) => Ok(Epilogue::ADD),
        ("add_relu", Some(())) => Ok(Epilogue::ADD_RELU),
        (name, residual) => {
            let residual = if residual.is_some() { "with" } else { "without" };
            Err(value_error(format!(
                "batchnorm: expected the epilogue identity or relu, or add or add_relu with a residual, got {name:?} \
                 {residual} one"
            )))
        }
    }
}

/// Running statistics are the caller's, and could lie in another argument.
pub(crate) fn check_apart(written: &[(&str, usize, usize)], read: &[(&str, Option<usize>, usize)]) -> PyResult<()> {
    let overlap = |(a, len_a): (usize, usize), (b, len_b): (usize, usize)| a < b + len_b && b < a + len_a;
    for (i, (name, address, bytes)) in written.iter().enumerate() {
        let others = written[..i].iter().map(|(other, at, len)| (*other, *at, *len));
        let read = read.iter().filter_map(|(other, at, len)| at.map(|at| (*other, at, *len)));
        for (other, at, len) in others.chain(read) {
            if overlap((*address, *bytes), (at, len)) {
                return Err(value_error(format!(
                    "batchnorm: expected {name} in memory of its own, got that of {other}"
                )));
            }
        }
    }
    Ok(())
}

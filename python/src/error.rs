//! Refusals, the crate's and those made here, as Python's exceptions.

use std::cell::RefCell;
use std::io;

use batchnorm::Error;
use pyo3::PyErr;
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};

/// A refusal, before anything has changed: the kind of exception, and its text.
pub(crate) struct Refusal {
    kind: Kind,
    text: String,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Bad input, as Python has it.
    Value,
    Runtime,
    /// The crate found no memory.
    Memory,
    /// PyTorch found no memory, which has an exception of its own for that.
    TorchMemory,
    Io(io::ErrorKind),
}

thread_local! {
    /// The last refusal of an operation that PyTorch called on this thread: torch's exceptions have one kind.
    static LAST: RefCell<Option<Refusal>> = const { RefCell::new(None) };
}

impl Refusal {
    pub(crate) fn value(text: String) -> Self {
        Self { kind: Kind::Value, text }
    }

    pub(crate) fn runtime(text: String) -> Self {
        Self { kind: Kind::Runtime, text }
    }

    /// PyTorch's refusal of memory for a tensor of these sizes.
    pub(crate) fn no_memory(sizes: &[i64], is_on_device: bool) -> Self {
        let place = if is_on_device { "the device" } else { "the CPU" };
        Self { kind: Kind::TorchMemory, text: format!("batchnorm: no memory for a tensor of {sizes:?} on {place}") }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Keeps it for [`Refusal::take`].
    pub(crate) fn keep(self) {
        LAST.set(Some(self));
    }

    /// The last refusal of an operation that PyTorch called on this thread, once, if an exception has its text: the text for an
    /// exception of PyTorch's class for memory that ran out, or an exception.
    pub(crate) fn take(exception: &str) -> Option<(Option<String>, PyErr)> {
        let refusal = LAST.take().filter(|refusal| exception.contains(&refusal.text))?;
        let of_memory = matches!(refusal.kind, Kind::TorchMemory).then(|| refusal.text.clone());
        Some((of_memory, refusal.into()))
    }
}

impl From<Refusal> for PyErr {
    fn from(Refusal { kind, text }: Refusal) -> Self {
        match kind {
            Kind::Value => PyValueError::new_err(text),
            Kind::Runtime => PyRuntimeError::new_err(text),
            Kind::Memory | Kind::TorchMemory => PyMemoryError::new_err(text),
            Kind::Io(kind) => io::Error::new(kind, text).into(),
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let text = format!("batchnorm: {error}");
        match error {
            Error::Aliasing { output, other, .. } => Self::value(format!(
                "batchnorm: expected {} in memory of its own, got that of {}",
                python_name(output),
                python_name(other)
            )),
            Error::Io { source, .. } => Self { kind: Kind::Io(source.kind()), text },
            Error::OutOfMemory { .. } => Self { kind: Kind::Memory, text },
            Error::Driver { .. }
            | Error::Launch { .. }
            | Error::NoDriver { .. }
            | Error::NoDevice { .. }
            | Error::Forked { .. } => Self::runtime(text),
            Error::Prepare { .. } | Error::StaticShared { .. } | Error::Residency { .. } | Error::Clusters { .. } => {
                Self::runtime(text)
            }
            _ => Self::value(text),
        }
    }
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

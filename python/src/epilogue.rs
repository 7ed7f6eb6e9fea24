//! Epilogues as Python has them: by their names.

use batchnorm::Epilogue;
use pyo3::{Borrowed, FromPyObject, PyAny, PyErr, PyResult, pyclass};

use crate::error::{Refusal, one_of};

/// A kind of epilogue: its name in Python, its parts, and what the passes need for it.
#[pyclass(frozen, get_all)]
pub(crate) struct EpilogueKind {
    name: String,
    activation: &'static str,
    has_residual: bool,
    recomputes_v: bool,
    keeps_mask: bool,
}

impl From<Epilogue<()>> for EpilogueKind {
    fn from(kind: Epilogue<()>) -> Self {
        Self {
            name: python_name(kind),
            activation: kind.activation().name(),
            has_residual: kind.residual().is_some(),
            recomputes_v: kind.recomputes_v(),
            keeps_mask: kind.keeps_mask(),
        }
    }
}

/// The name in Python of a kind of epilogue.
fn python_name(kind: Epilogue<()>) -> String {
    kind.name().replace('-', "_")
}

/// A kind of epilogue, which Python names.
#[derive(Clone, Copy)]
pub(crate) struct Kind(pub(crate) Epilogue<()>);

impl Kind {
    /// The kind of this name.
    pub(crate) fn named(name: &str) -> Result<Self, Refusal> {
        let is_it = |kind: &Epilogue<()>| {
            let (theirs, ours) = (name.bytes(), kind.name().bytes());
            name.len() == kind.name().len() && theirs.eq(ours.map(|byte| if byte == b'-' { b'_' } else { byte }))
        };
        Epilogue::ALL.iter().copied().find(is_it).map(Self).ok_or_else(|| {
            let names = one_of(&Epilogue::ALL.iter().copied().map(python_name).collect::<Vec<_>>());
            Refusal::value(format!("batchnorm: expected the epilogue {names}, got {name:?}"))
        })
    }

    /// The epilogue of this kind, with this residual or without.
    pub(crate) fn with<Z>(self, residual: Option<Z>) -> Result<Epilogue<Z>, Refusal> {
        Ok(self.0.with("residual", residual)?)
    }
}

impl<'py> FromPyObject<'_, 'py> for Kind {
    type Error = PyErr;
    fn extract(name: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self::named(name.extract()?)?)
    }
}

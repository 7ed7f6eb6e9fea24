//! Epilogues as Python has them: by their names.

use batchnorm::Epilogue;
use pyo3::{PyResult, pyclass};

use crate::error::{error, one_of, value_error};

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

/// A kind of epilogue by its name.
pub(crate) fn epilogue_kind(name: &str) -> PyResult<Epilogue<()>> {
    Epilogue::ALL.iter().copied().find(|&kind| python_name(kind) == name).ok_or_else(|| {
        let names = one_of(&Epilogue::ALL.iter().copied().map(python_name).collect::<Vec<_>>());
        value_error(format!("batchnorm: expected the epilogue {names}, got {name:?}"))
    })
}

/// An epilogue by its name, with this residual or without.
pub(crate) fn epilogue<Z>(name: &str, residual: Option<Z>) -> PyResult<Epilogue<Z>> {
    epilogue_kind(name)?.with("residual", residual).map_err(error)
}

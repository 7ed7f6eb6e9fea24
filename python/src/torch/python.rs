//! The operations on Python's tensors themselves, past PyTorch's dispatcher: it takes longer than a small batch norm.

use std::sync::OnceLock;

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use super::abi::{has_python_tensors, lib};
use super::backward::Backward;
use super::infer::Infer;
use super::stack::{Operation, run};
use super::statistics::{self, Statistics};
use super::tensor::Tensor;
use super::train::Train;
use crate::epilogue::Kind;
use crate::error::Refusal;

/// The classes of tensors without a behaviour of their own: torch's, and its parameters.
static PLAIN: OnceLock<[Py<PyType>; 2]> = OnceLock::new();

/// Says which tensors are plain, and whether operations on them can be called, which asks for PyTorch 2.14.
pub(crate) fn take_tensors(tensor: Bound<'_, PyType>, parameter: Bound<'_, PyType>) -> bool {
    PLAIN.get_or_init(|| [tensor.unbind(), parameter.unbind()]);
    has_python_tensors()
}

/// Refuses what autograd cannot keep, before a forward pass that is to be differentiated.
fn expect_kept(tensors: [Option<&Tensor>; 3]) -> PyResult<()> {
    if tensors.into_iter().flatten().all(Tensor::can_be_kept) {
        return Ok(());
    }
    Err(Refused::new_err("tensors of inference mode"))
}

impl<'py> FromPyObject<'_, 'py> for Tensor {
    type Error = PyErr;
    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let class = object.get_type();
        let is_plain = PLAIN.get().is_some_and(|plain| plain.iter().any(|known| class.is(known)));
        let from_python = if is_plain { lib().tensor_from_python } else { None };
        let mut handle = core::ptr::null_mut();
        // SAFETY: a tensor of Python's, with its lock held, and a place for the result.
        match from_python.map(|from_python| unsafe { from_python(object.as_ptr().cast(), &mut handle) }) {
            Some(0) => {
                // SAFETY: the handle is new.
                let tensor = unsafe { Self::from_handle(handle) };
                if tensor.has_its_values() { Ok(tensor) } else { Err(Refused::new_err("a tensor of negated memory")) }
            }
            _ => Err(Refused::new_err(format!("expected a tensor of class torch.Tensor, got {class}"))),
        }
    }
}

/// Python's tensor, or `None`.
fn into_python<'py>(py: Python<'py>, tensor: Option<&Tensor>) -> PyResult<Bound<'py, PyAny>> {
    let Some(tensor) = tensor else { return Ok(py.None().into_bound(py)) };
    let mut object = core::ptr::null_mut();
    let to_python = lib().tensor_to_python;
    // SAFETY: a tensor, with Python's lock held, and a place for the result, which is a new reference.
    unsafe {
        match to_python
            .map(|to_python| tensor.with_handle(|handle| to_python(handle, core::ptr::null_mut(), &mut object)))
        {
            Some(0) => Bound::from_owned_ptr_or_err(py, object.cast()),
            _ => Err(Refusal::runtime("torch could not hand out a tensor".into()).into()),
        }
    }
}

create_exception!(_native, Refused, PyException, "An operation was refused, and nothing has changed.");

/// Values of an operation on the CPU that takes less time than Python's lock takes to change hands.
const FEW: usize = 4096;

/// Runs an operation, without holding Python's lock where it may take long.
fn results<R: Send>(
    py: Python<'_>,
    is_short: bool,
    operation: impl FnOnce() -> Result<R, Refusal> + Send,
) -> PyResult<R> {
    let results = if is_short { run(operation) } else { py.detach(|| run(operation)) };
    results.map_err(refused)
}

fn refused(refusal: Refusal) -> PyErr {
    Refused::new_err(refusal.text().to_owned())
}

/// Whether an operation over these data is over before Python's lock would have changed hands.
fn is_short(x: &Tensor) -> bool {
    x.len() <= FEW && x.place().is_cpu()
}

/// The statistics that a training forward saved for its backward pass, with what that needs to know of it.
#[pyclass(frozen)]
pub(crate) struct Saved {
    statistics: statistics::Saved,
    epilogue: Kind,
}

#[pymethods]
impl Saved {
    /// Mean and `inv_std` as tensors of Python's.
    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<[Bound<'py, PyAny>; 2]> {
        let [mean, inv_std] = self.statistics.tensors()?;
        Ok([into_python(py, Some(&mean))?, into_python(py, Some(&inv_std))?])
    }

    /// `batchnorm::backward` on plain tensors, through these statistics: dx, dz, dweight and dbias, those that are needed of them; no dz
    /// where it is dy. Refuses other tensors.
    #[expect(clippy::too_many_arguments, reason = "the operation's")]
    fn backward<'py>(
        &self,
        py: Python<'py>,
        dy: Tensor,
        x: Tensor,
        weight: Option<Tensor>,
        bias: Option<Tensor>,
        relu_mask: Option<Tensor>,
        mask_is_channels_last: bool,
        needs: (bool, bool, bool, bool, bool),
    ) -> PyResult<Bound<'py, PyTuple>> {
        let is_short = is_short(&x);
        let backward = Backward {
            dy,
            x,
            weight,
            bias,
            statistics: Statistics::Saved(self.statistics.another()?),
            relu_mask,
            mask_is_channels_last,
            running_eps: None,
            epilogue: Ok(self.epilogue),
            needs: [needs.0, needs.1, needs.2, needs.3],
        };
        let [dx, dz, dweight, dbias] =
            results(py, is_short, || backward.run())?.map(|tensor| into_python(py, tensor.as_ref()));
        (dx?, dz?, dweight?, dbias?).into_pyobject(py)
    }
}

/// `batchnorm::train` on plain tensors: `y`, the mask or `None`, and what the backward pass needs of the statistics. Refuses other
/// tensors.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the operation's")]
pub(crate) fn train_tensors<'py>(
    py: Python<'py>,
    x: Tensor,
    z: Option<Tensor>,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    running_mean: Option<Tensor>,
    running_var: Option<Tensor>,
    num_batches_tracked: Option<Tensor>,
    momentum: Option<f64>,
    eps: f64,
    epilogue: &str,
    keep_mask: bool,
    skip_non_finite: bool,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>, Saved)> {
    let (kind, is_short) = (Kind::named(epilogue).map_err(refused)?, is_short(&x));
    if keep_mask {
        expect_kept([Some(&x), weight.as_ref(), bias.as_ref()])?;
    }
    let train = Train {
        x,
        z,
        weight,
        bias,
        running_mean,
        running_var,
        num_batches_tracked,
        momentum,
        eps,
        epilogue: Ok(kind),
        keep_mask,
        skip_non_finite,
        skip_recomputed: false, // Who calls this has looked.
        mask_is_channels_last: None,
    };
    let (y, statistics, mask) = results(py, is_short, || train.saving())?;
    Ok((into_python(py, Some(&y))?, into_python(py, mask.as_ref())?, Saved { statistics, epilogue: kind }))
}

/// `batchnorm::infer` on plain tensors: `y`, and the mask or `None`. Refuses other tensors.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the operation's")]
pub(crate) fn infer_tensors<'py>(
    py: Python<'py>,
    x: Tensor,
    z: Option<Tensor>,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    running_mean: Tensor,
    running_var: Tensor,
    eps: f64,
    epilogue: &str,
    keep_mask: bool,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let (epilogue, is_short) = (Kind::named(epilogue), is_short(&x));
    if keep_mask {
        expect_kept([Some(&x), weight.as_ref(), bias.as_ref()])?;
    }
    let infer =
        Infer { x, z, weight, bias, running_mean, running_var, eps, epilogue, keep_mask, mask_is_channels_last: None };
    let [y, mask, ..] = results(py, is_short, || infer.run())?;
    Ok((into_python(py, y.as_ref())?, into_python(py, mask.as_ref())?))
}

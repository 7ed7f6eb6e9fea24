//! The operations of `batchnorm` over addresses of tensors, for the package's Python alone: it sees to it that they are
//! contiguous, of these shapes and dtypes, and alive.

mod call;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
mod dispatch;
mod epilogue;
mod error;
mod torch;

use std::path::PathBuf;

use batchnorm::plan::PlanTable;
use batchnorm::{Dtype, Epilogue, Param, Running, State, StateDict};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};

use call::{BackwardCall, Call, Forward, InferCall, TrainCall, WorkspaceBytes, op_named};
use device::WorkspaceMemory;
use dispatch::{At, dispatch};
use epilogue::{EpilogueKind, Kind};
use error::Refusal;

/// Runs a call of Python's, without holding its lock.
fn detached<C: Call>(py: Python<'_>, at: At, call: &C) -> PyResult<C::Output> {
    Ok(py.detach(|| dispatch(at, call))?)
}

/// Normalizes by the batch's statistics.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "Python's, by position")]
fn train(
    py: Python<'_>,
    at: At,
    forward: Forward,
    saved: [usize; 2],
    running: Option<[usize; 3]>,
    momentum: Option<f64>,
    skips_non_finite: bool,
    workspace: WorkspaceMemory,
) -> PyResult<()> {
    detached(py, at, &TrainCall { forward, saved, running, momentum, skips_non_finite, workspace })
}

/// Normalizes by running statistics.
#[pyfunction]
fn infer(py: Python<'_>, at: At, forward: Forward, running: [usize; 2]) -> PyResult<()> {
    detached(py, at, &InferCall { forward, running })
}

/// The gradients of either: by saved statistics, mean and `inv_std`, or by running ones, mean and variance with `eps`.
#[pyfunction]
fn backward(py: Python<'_>, at: At, backward: BackwardCall) -> PyResult<()> {
    detached(py, at, &backward)
}

/// Bytes of scratch memory that an operation needs: `train`, `backward` or `backward-frozen`.
#[pyfunction]
fn workspace_bytes(py: Python<'_>, at: At, operation: &str, epilogue: Kind) -> PyResult<usize> {
    detached(py, at, &WorkspaceBytes { op: op_named(operation)?, epilogue })
}

/// Registers the operations with PyTorch, without Python in their way, by the functions of the library of this name. They compute what
/// `train`, `infer` and `backward` do. An error's text says what is missing.
#[pyfunction]
fn register_operations(library: &str) -> PyResult<()> {
    torch::register(library).map_err(|text| Refusal::runtime(text).into())
}

/// Whether `train_tensors` and `infer_tensors` can be called: the operations on Python's tensors themselves, past
/// PyTorch's dispatcher, where nothing is to see them there. The classes are those of the tensors that they then take.
#[pyfunction]
fn take_tensors(tensor: Bound<'_, PyType>, parameter: Bound<'_, PyType>) -> bool {
    torch::python::take_tensors(tensor, parameter)
}

/// The refusal that an exception of PyTorch's has the text of, if an operation refused on this thread last, once: the text for
/// PyTorch's exception of memory that ran out, or an exception.
#[pyfunction]
fn take_refusal(exception: &str) -> Option<(Option<String>, PyErr)> {
    Refusal::take(exception)
}

/// Plans for at most this many multiprocessors of every CUDA device from now on, or for all.
#[pyfunction]
fn set_max_sms(max_sms: Option<u32>) -> PyResult<()> {
    #[cfg(feature = "cuda")]
    cuda::set_max_sms(max_sms);
    #[cfg(not(feature = "cuda"))]
    if max_sms.is_some() {
        return Err(dispatch::without_cuda().into());
    }
    Ok(())
}

/// Takes the plans of the table in this file from now on, on every CUDA device.
#[pyfunction]
fn use_plans(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    py.detach(|| {
        let table = PlanTable::load(&path)?;
        #[cfg(feature = "cuda")]
        return Ok(cuda::use_plans(table)?);
        #[cfg(not(feature = "cuda"))]
        {
            drop(table);
            Err(dispatch::without_cuda())
        }
    })
    .map_err(|refusal: Refusal| refusal.into())
}

/// The factors of a layer's weights and its bias, with a batch norm in inference folded into it: `StateDict::fold_channels`.
#[pyfunction]
fn fold_channels(
    eps: f64,
    is_double: bool,
    mean: Vec<f64>,
    var: Vec<f64>,
    gamma: Option<Vec<f64>>,
    beta: Option<Vec<f64>>,
    mut bias: Vec<f64>,
) -> PyResult<(Vec<f64>, Vec<f64>)> {
    fn scale<P: Param>(state: State<Vec<f64>, i64>, eps: f64, bias: &mut [f64]) -> PyResult<Vec<f64>> {
        let values = |values: Vec<f64>| values.into_iter().map(P::from_f64).collect();
        let State { gamma, beta, running } = state;
        let running = running.map(|Running { mean, var, num_batches_tracked }| Running {
            mean: values(mean),
            var: values(var),
            num_batches_tracked,
        });
        let state = StateDict { gamma: gamma.map(values), beta: beta.map(values), running };
        state.fold_channels(eps, bias).map_err(|error| Refusal::from(error).into())
    }
    let state = State { gamma, beta, running: Some(Running { mean, var, num_batches_tracked: 0 }) };
    let scale = if is_double { scale::<f64> } else { scale::<f32> }(state, eps, &mut bias)?;
    Ok((scale, bias))
}

/// Takes arguments as the functions will: what that makes once is made before the process can be forked in the middle of it, when
/// the child would wait for a thread that it has not.
fn take_arguments_once(py: Python<'_>) -> PyResult<()> {
    let arguments = PyDict::new(py);
    for name in ["x", "y", "dy", "dx", "dgamma", "dbeta"] {
        arguments.set_item(name, 0)?;
    }
    for name in ["z", "dz", "gamma", "beta", "relu_mask", "running_eps", "workspace"] {
        arguments.set_item(name, py.None())?;
    }
    arguments.set_item("eps", 0.0)?;
    arguments.set_item("epilogue", "identity")?;
    arguments.set_item("statistics", [0, 0])?;
    arguments.extract::<Forward>()?;
    arguments.extract::<BackwardCall>()?;
    ((py.None(), 0), "float32", (1, 1, 1), false).into_pyobject(py)?.extract::<At>()?;
    Ok(())
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("has_cuda", cfg!(feature = "cuda"))?;
    module.add(
        "DTYPES",
        Dtype::ALL.iter().map(|dtype| (dtype.array_name(), dtype.param().array_name())).collect::<Vec<_>>(),
    )?;
    module.add("EPILOGUES", Epilogue::ALL.iter().copied().map(EpilogueKind::from).collect::<Vec<_>>())?;
    module.add_function(wrap_pyfunction!(train, module)?)?;
    module.add_function(wrap_pyfunction!(infer, module)?)?;
    module.add_function(wrap_pyfunction!(backward, module)?)?;
    module.add_function(wrap_pyfunction!(workspace_bytes, module)?)?;
    module.add_function(wrap_pyfunction!(use_plans, module)?)?;
    module.add_function(wrap_pyfunction!(set_max_sms, module)?)?;
    module.add("LIBRARY", torch::LIBRARY)?;
    module.add_function(wrap_pyfunction!(register_operations, module)?)?;
    module.add_function(wrap_pyfunction!(take_refusal, module)?)?;
    module.add_function(wrap_pyfunction!(take_tensors, module)?)?;
    module.add_function(wrap_pyfunction!(torch::python::train_tensors, module)?)?;
    module.add_function(wrap_pyfunction!(torch::python::infer_tensors, module)?)?;
    // Made here, as what take_arguments_once takes.
    module.add_class::<torch::python::Saved>()?;
    module.add("Refused", module.py().get_type::<torch::python::Refused>())?;
    #[cfg(feature = "emulate")]
    module.add_function(wrap_pyfunction!(torch::stand_in::stand_in, module)?)?;
    module.add_function(wrap_pyfunction!(fold_channels, module)?)?;
    take_arguments_once(module.py())
}

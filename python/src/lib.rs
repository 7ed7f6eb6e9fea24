//! The operations of `batchnorm` over addresses of tensors, for the package's Python alone: it sees to it that they are
//! contiguous, of these shapes and dtypes, and alive.

mod call;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
mod epilogue;
mod error;

use std::path::PathBuf;

use batchnorm::plan::PlanTable;
use batchnorm::{Cpu, Dtype, Epilogue, Layout, Param, Running, Shape, State, StateDict, with_element};
#[cfg(feature = "cuda")]
use batchnorm::{Cuda, with_device_element};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use call::{BackwardCall, Call, Forward, InferCall, TrainCall, WorkspaceBytes};
use device::WorkspaceMemory;
use epilogue::EpilogueKind;
use error::value_error;

/// A CUDA device with its stream, or no device, which is the CPU, with how many threads may compute.
type DeviceStream = (Option<usize>, u64);

/// The metadata of a call's tensors: their device, dtype, dimensions (batch, channels, the others' product) and whether
/// channels are last.
#[derive(FromPyObject)]
struct Where(DeviceStream, String, (usize, usize, usize), bool);

/// Runs a call on the backend of a device or of none over data of a dtype, without holding Python's lock.
fn dispatch<C: Call>(
    py: Python<'_>,
    Where(device_stream, dtype, dims, is_last): Where,
    call: &C,
) -> PyResult<C::Output> {
    let shape = shape(dims, is_last)?;
    let Some(dtype) = Dtype::ALL.iter().copied().find(|known| known.array_name() == dtype) else {
        return Err(value_error(format!("batchnorm: expected a dtype of floats from 16 to 64 bits, got {dtype}")));
    };
    py.detach(|| match device_stream {
        (None, threads) => Cpu::with_threads(
            usize::try_from(threads).unwrap_or(1),
            || with_element!(dtype, T => call.run::<Cpu, T>(&Cpu, shape)),
        ),
        #[cfg(feature = "cuda")]
        (Some(ordinal), stream) => with_device_element!(
            dtype,
            T => call.run::<Cuda, T>(&cuda::on(ordinal, stream)?, shape),
            f64 => Err(value_error(format!(
                "batchnorm: expected {} on CUDA, got {}",
                error::one_of(&Dtype::ON_CUDA.iter().copied().map(Dtype::array_name).collect::<Vec<_>>()),
                dtype.array_name()
            ))),
        ),
        #[cfg(not(feature = "cuda"))]
        (Some(_), _) => Err(without_cuda()),
    })
}

fn shape((n, c, s): (usize, usize, usize), channels_last: bool) -> PyResult<Shape> {
    let shape = if channels_last {
        Shape::new(&[n, s, c], Layout::ChannelsLast)
    } else {
        Shape::new(&[n, c, s], Layout::ChannelsFirst)
    };
    shape.map_err(error::error)
}

/// Normalizes by the batch's statistics.
#[pyfunction]
fn train(
    py: Python<'_>,
    at: Where,
    forward: Forward,
    saved: [usize; 2],
    running: Option<[usize; 3]>,
    momentum: Option<f64>,
    workspace: WorkspaceMemory,
) -> PyResult<()> {
    dispatch(py, at, &TrainCall { forward, saved, running, momentum, workspace })
}

/// Normalizes by running statistics.
#[pyfunction]
fn infer(py: Python<'_>, at: Where, forward: Forward, running: [usize; 2]) -> PyResult<()> {
    dispatch(py, at, &InferCall { forward, running })
}

/// The gradients of either: by saved statistics, mean and `inv_std`, or by running ones, mean and variance with `eps`.
#[pyfunction]
fn backward(py: Python<'_>, at: Where, backward: BackwardCall) -> PyResult<()> {
    dispatch(py, at, &backward)
}

/// Bytes of scratch memory that an operation needs: `train`, `backward` or `backward-frozen`.
#[pyfunction]
fn workspace_bytes(py: Python<'_>, at: Where, operation: &str, epilogue: &str) -> PyResult<usize> {
    dispatch(py, at, &WorkspaceBytes { operation, epilogue })
}

/// Takes the plans of the table in this file from now on, on every CUDA device.
#[pyfunction]
fn use_plans(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    py.detach(|| {
        let table = PlanTable::load(&path).map_err(error::error)?;
        #[cfg(feature = "cuda")]
        return cuda::use_plans(table).map_err(error::error);
        #[cfg(not(feature = "cuda"))]
        {
            drop(table);
            Err(without_cuda())
        }
    })
}

/// The error of who asks for CUDA where there is none.
#[cfg(not(feature = "cuda"))]
fn without_cuda() -> PyErr {
    pyo3::exceptions::PyRuntimeError::new_err(
        "batchnorm: this build has no CUDA kernels; build it with BATCHNORM_CUDA=1",
    )
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
        state.fold_channels(eps, bias).map_err(error::error)
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
    ((py.None(), 0), "float32", (1, 1, 1), false).into_pyobject(py)?.extract::<Where>()?;
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
    module.add_function(wrap_pyfunction!(fold_channels, module)?)?;
    take_arguments_once(module.py())
}

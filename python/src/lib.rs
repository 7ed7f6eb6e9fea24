//! The operations of `batchnorm` over addresses of tensors, for the package's Python alone: it sees to it that they are
//! contiguous, of these shapes and dtypes, and alive.

mod buffers;
mod call;
mod check;
#[cfg(feature = "cuda")]
mod cuda;
mod threads;

#[cfg(feature = "cuda")]
use batchnorm::Cuda;
use batchnorm::{Cpu, Layout, Shape};
use half::{bf16, f16};
use pyo3::prelude::*;

use buffers::{Forward, Scratch};
use call::{Backward, Infer, Operation, ScratchBytes, Train};
use check::value_error;

/// A CUDA device with its stream, or no device, which is the CPU, with how many threads may compute.
type Place = (Option<usize>, u64);

/// Runs an operation on the backend of a place over data of a dtype, without holding Python's lock.
fn dispatch<O: Operation>(py: Python<'_>, place: Place, dtype: &str, operation: &O) -> PyResult<O::Output> {
    py.detach(|| match place {
        (None, threads) => threads::run(threads, operation.len(), || match dtype {
            "float32" => operation.run::<Cpu, f32>(&Cpu),
            "float16" => operation.run::<Cpu, f16>(&Cpu),
            "bfloat16" => operation.run::<Cpu, bf16>(&Cpu),
            "float64" => operation.run::<Cpu, f64>(&Cpu),
            other => Err(value_error(format!("batchnorm: expected a dtype of floats from 16 to 64 bits, got {other}"))),
        })?,
        #[cfg(feature = "cuda")]
        (Some(ordinal), stream) => match dtype {
            "float32" => operation.run::<Cuda, f32>(&cuda::on(ordinal, stream)?),
            "float16" => operation.run::<Cuda, f16>(&cuda::on(ordinal, stream)?),
            "bfloat16" => operation.run::<Cuda, bf16>(&cuda::on(ordinal, stream)?),
            other => Err(value_error(format!("batchnorm: expected float32, float16 or bfloat16 on CUDA, got {other}"))),
        },
        #[cfg(not(feature = "cuda"))]
        (Some(_), _) => Err(pyo3::exceptions::PyRuntimeError::new_err(
            "batchnorm: this build has no CUDA kernels; build it with BATCHNORM_CUDA=1",
        )),
    })
}

fn shape((n, c, s): (usize, usize, usize), channels_last: bool) -> PyResult<Shape> {
    let shape = if channels_last {
        Shape::new(&[n, s, c], Layout::ChannelsLast)
    } else {
        Shape::new(&[n, c, s], Layout::ChannelsFirst)
    };
    shape.map_err(check::error)
}

/// Normalizes by the batch's statistics.
#[pyfunction]
fn train(
    py: Python<'_>,
    place: Place,
    dtype: &str,
    dims: (usize, usize, usize),
    channels_last: bool,
    epilogue: &str,
    eps: f64,
    x: usize,
    y: usize,
    z: Option<usize>,
    gamma: Option<usize>,
    beta: Option<usize>,
    relu_mask: Option<usize>,
    saved: [usize; 2],
    running: Option<[usize; 3]>,
    momentum: Option<f64>,
    scratch: Scratch,
) -> PyResult<()> {
    let forward = Forward { shape: shape(dims, channels_last)?, eps, epilogue, x, y, z, gamma, beta, relu_mask };
    dispatch(py, place, dtype, &Train { forward, saved, running, momentum, scratch })
}

/// Normalizes by running statistics.
#[pyfunction]
fn infer(
    py: Python<'_>,
    place: Place,
    dtype: &str,
    dims: (usize, usize, usize),
    channels_last: bool,
    epilogue: &str,
    eps: f64,
    x: usize,
    y: usize,
    z: Option<usize>,
    gamma: Option<usize>,
    beta: Option<usize>,
    relu_mask: Option<usize>,
    running: [usize; 2],
) -> PyResult<()> {
    let forward = Forward { shape: shape(dims, channels_last)?, eps, epilogue, x, y, z, gamma, beta, relu_mask };
    dispatch(py, place, dtype, &Infer { forward, running })
}

/// The gradients of either: by saved statistics, mean and `inv_std`, or by running ones, mean and variance with `eps`.
#[pyfunction]
fn backward(
    py: Python<'_>,
    place: Place,
    dtype: &str,
    dims: (usize, usize, usize),
    channels_last: bool,
    epilogue: &str,
    frozen_eps: Option<f64>,
    x: usize,
    dy: usize,
    dx: usize,
    dz: Option<usize>,
    gamma: Option<usize>,
    beta: Option<usize>,
    relu_mask: Option<usize>,
    statistics: [usize; 2],
    dgamma: usize,
    dbeta: usize,
    scratch: Scratch,
) -> PyResult<()> {
    let shape = shape(dims, channels_last)?;
    let operation = Backward {
        shape,
        epilogue,
        frozen_eps,
        x,
        dy,
        dx,
        dz,
        gamma,
        beta,
        relu_mask,
        statistics,
        dgamma,
        dbeta,
        scratch,
    };
    dispatch(py, place, dtype, &operation)
}

/// How many bytes of scratch memory an operation needs: `train`, `backward` or `backward_frozen`.
#[pyfunction]
fn scratch_bytes(
    py: Python<'_>,
    place: Place,
    dtype: &str,
    dims: (usize, usize, usize),
    channels_last: bool,
    operation: &str,
    epilogue: &str,
) -> PyResult<usize> {
    let shape = shape(dims, channels_last)?;
    dispatch(py, place, dtype, &ScratchBytes { operation, shape, epilogue })
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("has_cuda", cfg!(feature = "cuda"))?;
    module.add_function(wrap_pyfunction!(train, module)?)?;
    module.add_function(wrap_pyfunction!(infer, module)?)?;
    module.add_function(wrap_pyfunction!(backward, module)?)?;
    module.add_function(wrap_pyfunction!(scratch_bytes, module)?)
}

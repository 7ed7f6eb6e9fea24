//! The operations of `batchnorm` over addresses of tensors, for the package's Python alone: it sees to it that they are
//! contiguous, of these shapes and dtypes, and alive.

mod buffers;
mod call;
#[cfg(feature = "cuda")]
mod cuda;

use batchnorm::{Cpu, Layout, Shape};
use pyo3::prelude::*;

use buffers::Forward;
use call::{Backward, Train, backward, infer, train, value_error};

/// A device with its stream: `None` is the CPU.
type Place = Option<(usize, u64)>;

/// Calls a function for the backend of a place and the type of a dtype, without holding Python's lock.
macro_rules! dispatch {
    ($py:expr, $place:expr, $dtype:expr, $B:ident, $T:ident, $backend:ident => $call:expr) => {
        $py.detach(|| match ($place, $dtype) {
            (None, "float32") => {
                type $B = Cpu;
                type $T = f32;
                let $backend = &Cpu;
                $call
            }
            (None, "float16") => {
                type $B = Cpu;
                type $T = half::f16;
                let $backend = &Cpu;
                $call
            }
            (None, "bfloat16") => {
                type $B = Cpu;
                type $T = half::bf16;
                let $backend = &Cpu;
                $call
            }
            (None, "float64") => {
                type $B = Cpu;
                type $T = f64;
                let $backend = &Cpu;
                $call
            }
            #[cfg(feature = "cuda")]
            (Some(device), "float32") => {
                type $B = batchnorm::Cuda;
                type $T = f32;
                let $backend = &cuda::on(device)?;
                $call
            }
            #[cfg(feature = "cuda")]
            (Some(device), "float16") => {
                type $B = batchnorm::Cuda;
                type $T = half::f16;
                let $backend = &cuda::on(device)?;
                $call
            }
            #[cfg(feature = "cuda")]
            (Some(device), "bfloat16") => {
                type $B = batchnorm::Cuda;
                type $T = half::bf16;
                let $backend = &cuda::on(device)?;
                $call
            }
            (None, other) => {
                Err(value_error(format!("batchnorm: expected float32, float16, bfloat16 or float64, got {other}")))
            }
            #[cfg(feature = "cuda")]
            (Some(_), other) => {
                Err(value_error(format!("batchnorm: expected float32, float16 or bfloat16 on CUDA, got {other}")))
            }
            #[cfg(not(feature = "cuda"))]
            (Some(_), _) => Err(pyo3::exceptions::PyRuntimeError::new_err(
                "batchnorm: this build has no CUDA kernels; build it with BATCHNORM_CUDA=1",
            )),
        })
    };
}

fn shape((n, c, s): (usize, usize, usize), channels_last: bool) -> PyResult<Shape> {
    let shape = if channels_last {
        Shape::new(&[n, s, c], Layout::ChannelsLast)
    } else {
        Shape::new(&[n, c, s], Layout::ChannelsFirst)
    };
    shape.map_err(call::error)
}

/// Normalizes by the batch's statistics.
#[pyfunction]
#[pyo3(name = "train")]
fn train_py(
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
) -> PyResult<()> {
    let forward = Forward { shape: shape(dims, channels_last)?, eps, epilogue, x, y, z, gamma, beta, relu_mask };
    let arguments = Train { forward, saved, running, momentum };
    dispatch!(py, place, dtype, B, T, backend => train::<B, T>(backend, &arguments))
}

/// Normalizes by running statistics.
#[pyfunction]
#[pyo3(name = "infer")]
fn infer_py(
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
    dispatch!(py, place, dtype, B, T, backend => infer::<B, T>(backend, &forward, running))
}

/// The gradients of either: by saved statistics, mean and `inv_std`, or by running ones, mean and variance with `eps`.
#[pyfunction]
#[pyo3(name = "backward")]
fn backward_py(
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
) -> PyResult<()> {
    let shape = shape(dims, channels_last)?;
    let arguments =
        Backward { shape, epilogue, frozen_eps, x, dy, dx, dz, gamma, beta, relu_mask, statistics, dgamma, dbeta };
    dispatch!(py, place, dtype, B, T, backend => backward::<B, T>(backend, &arguments))
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("has_cuda", cfg!(feature = "cuda"))?;
    module.add_function(wrap_pyfunction!(train_py, module)?)?;
    module.add_function(wrap_pyfunction!(infer_py, module)?)?;
    module.add_function(wrap_pyfunction!(backward_py, module)?)
}
